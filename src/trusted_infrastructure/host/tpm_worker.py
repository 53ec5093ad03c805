# SPDX-License-Identifier: GPL-3.0-or-later
"""One visit to the TPM at a time, without blocking the event loop.

A TPM serves one command at a time, and a single visit takes from milliseconds to seconds. Visits run on a
thread of their own, in order; when too many wait, further ones are refused, so that a flood of status
questions cannot keep attestation waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from trusted_infrastructure.host.tpm_values import (
    AttestationKey,
    EndorsementKey,
    EndorsementKeyType,
    SealedData,
    SignedQuote,
    TpmProperties,
)
from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.tpm.policy import SignedPcrPolicy

WAITING_LIMIT = 8
TIME_LIMIT = 60.0

Result = TypeVar("Result")


class Tpm(Protocol):
    """What a visit can do; `tpm_device.TpmDevice` says how."""

    def endorsement_key(self, key_type: EndorsementKeyType) -> EndorsementKey: ...

    def endorsement_keys(self) -> list[EndorsementKey]: ...

    def create_attestation_key(self, key_type: EndorsementKeyType) -> AttestationKey: ...

    def accepts(self, key: AttestationKey) -> bool: ...

    def prove(
        self,
        key: AttestationKey,
        credential_blob: bytes,
        encrypted_secret: bytes,
        qualify: Callable[[bytes], bytes],
        bank: str,
        pcrs: Sequence[int],
    ) -> SignedQuote: ...

    def read_pcrs(self, bank: str, pcrs: Sequence[int]) -> dict[int, bytes]: ...

    def properties(self) -> TpmProperties: ...

    def seal(self, secret: bytes, policy: bytes) -> SealedData: ...

    def unseal(self, sealed: SealedData, policy: SignedPcrPolicy) -> bytes: ...


class TpmWorker:
    """Runs visits in order. visit: opens the TPM. waiting: how many at most. time: seconds for each."""

    def __init__(
        self,
        visit: Callable[[], AbstractContextManager[Tpm]],
        waiting: int = WAITING_LIMIT,
        time: float = TIME_LIMIT,
    ) -> None:
        self._visit = visit
        self._limit = waiting
        self._time = time
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "tpm")

    async def run(self, work: Callable[[Tpm], Result]) -> Result:
        """What `work` gives for an open TPM. Raises what it raises, and Unavailable `tpm_busy`."""
        if self._waiting >= self._limit:
            raise Unavailable("tpm_busy", f"{self._limit} requests are using the TPM", "try again")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        future.add_done_callback(self._done)
        try:
            # The thread cannot be stopped: whoever waits is told, the place in the queue stays taken.
            return await asyncio.wait_for(asyncio.shield(future), self._time)
        except TimeoutError:
            raise Unavailable(
                "tpm_busy",
                f"the TPM did not finish within {self._time:.0f} s",
                "check that nothing else holds the TPM; without a resource manager it has one user at a time",
            ) from None

    def close(self) -> None:
        """Take no more visits. The one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, work: Callable[[Tpm], Result]) -> Result:
        with self._visit() as tpm:
            return work(tpm)

    def _done(self, future: asyncio.Future[Result]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # read it, or the loop complains about those that nobody waits for any more

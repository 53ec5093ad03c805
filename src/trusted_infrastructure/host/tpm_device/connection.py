# SPDX-License-Identifier: GPL-3.0-or-later
"""One visit to the TPM: open, read capabilities, NV storage and PCRs, flush, close.

Everything that a visit loads is flushed when it ends, and what an earlier process left behind is flushed when
it begins: a TPM without a resource manager (swtpm) has room for three objects and three sessions, and leaks
outlive the connection.

Sources: TCG TPM 2.0 Library Part 3, 22.4 (TPM2_PCR_Read), 28.4 (TPM2_FlushContext), 30.2
(TPM2_GetCapability), 31 (NV storage).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TCTILdr, TSS2_Exception, constants, types, utils

from trusted_infrastructure.host.tpm_values import TpmProperties, properties_of
from trusted_infrastructure.refusal import InvalidField, Unavailable
from trusted_infrastructure.tpm import algorithms

READ_ATTEMPTS = 5
_PCRS_PER_READ = 8
_STALE_HANDLES = (0x80000000, 0x02000000, 0x03000000)  # transient objects, loaded sessions, saved sessions
_NO_SUCH_NV_INDEX = 0x18B  # TPM_RC_HANDLE for handle 1


class TpmConnection:
    """A context manager. tcti: libtss2's way to the TPM, such as "device:/dev/tpmrm0" or
    "swtpm:path=/run/tpm/sock". Everything raises Unavailable (tpm_unavailable: not reached; tpm_error: a
    command failed).
    """

    def __init__(self, tcti: str) -> None:
        self._name = tcti
        self._visit = ExitStack()
        self._tcti: Any = None
        self.esapi: Any = None

    def __enter__(self) -> Self:
        # libtss2 would write each error to stderr, also those that are answers here (no such index).
        os.environ.setdefault("TSS2_LOG", "all+NONE")
        try:
            with self._visit as opening:
                self._tcti = TCTILdr.parse(self._name)
                opening.callback(self._tcti.close)
                self.esapi = ESAPI(self._tcti)
                opening.callback(self.esapi.close)
                self._flush_stale()
                self._visit = opening.pop_all()
        except TSS2_Exception as error:
            raise Unavailable(
                "tpm_unavailable",
                f"the TPM at {self._name} does not answer: {error}",
                "check that the TPM is enabled in the firmware setup and that the agent may open the device",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._visit.close()

    # ---- PCRs and properties ------------------------------------------------------------------------------

    def read_pcrs(self, bank: str, pcrs: Sequence[int]) -> dict[int, bytes]:
        """Values of `pcrs` in `bank`, all of one moment. Raises InvalidField (bank), Unavailable."""
        for _attempt in range(READ_ATTEMPTS):
            values: dict[int, bytes] = {}
            counters = set()
            while missing := [pcr for pcr in sorted(set(pcrs)) if pcr not in values]:
                counter, found = self._read_some_pcrs(bank, missing[:_PCRS_PER_READ])
                counters.add(counter)
                values |= found
            # TPM2_PCR_Read gives eight values a call; an unchanged counter says that no PCR moved in between.
            if len(counters) <= 1:
                return values
        raise Unavailable(
            "tpm_pcrs_unstable",
            f"the PCRs of bank {bank} changed in {READ_ATTEMPTS} readings",
            "find what extends these PCRs all the time",
        )

    def properties(self) -> TpmProperties:
        """Manufacturer, model, firmware and active PCR banks."""
        return properties_of(self._fixed_properties(), self._banks())

    # ---- capabilities and NV storage ----------------------------------------------------------------------

    def capability(
        self, capability: Any, start: int, field: str, plain: Callable[[Any], tuple[int, int]]
    ) -> dict[int, int]:
        """All entries of a capability. plain: makes (number, value) of one entry, whose memory ends with the
        answer that it came in."""
        found: dict[int, int] = {}
        more = True
        while more:
            with command("TPM2_GetCapability"):
                more, answer = self.esapi.get_capability(capability, start, 256)
            entries = dict(plain(entry) for entry in getattr(answer.data, field))
            found |= entries
            more = more and bool(entries)
            start = max(entries, default=0) + 1
        return found

    def handles(self, start: int) -> list[int]:
        """The TPM's handles from `start` on, of the kind of `start` (Part 2, 7.2)."""
        return list(self.capability(constants.TPM2_CAP.HANDLES, start, "handles", lambda h: (int(h), 0)))

    def _fixed_properties(self) -> dict[int, int]:
        return self.capability(
            constants.TPM2_CAP.TPM_PROPERTIES,
            constants.TPM2_PT.FIXED,
            "tpmProperties",
            lambda entry: (int(entry.property), int(entry.value)),
        )

    def has_p256(self) -> bool:
        """Whether the TPM knows the curve P-256."""
        curves = self.capability(constants.TPM2_CAP.ECC_CURVES, 0, "eccCurves", lambda curve: (int(curve), 0))
        return algorithms.CURVE_P256 in curves

    def _banks(self) -> dict[str, tuple[int, ...]]:
        banks = self.capability(constants.TPM2_CAP.PCRS, 0, "assignedPCR", lambda s: (int(s.hash), _bits(s)))
        return {
            algorithms.HASHES[bank].name: tuple(pcr for pcr in range(bits.bit_length()) if bits >> pcr & 1)
            for bank, bits in banks.items()
            if bits and bank in algorithms.HASHES
        }

    def _read_some_pcrs(self, bank: str, pcrs: Sequence[int]) -> tuple[int, dict[int, bytes]]:
        """PCR update counter, and values of those that the TPM gave. pcrs: ascending."""
        if bank not in algorithms.HASHES_BY_NAME:
            raise InvalidField("bank", f"{bank!r} is not a PCR bank")
        with command("TPM2_PCR_Read"):
            counter, given, digests = self.esapi.pcr_read(f"{bank}:{','.join(str(pcr) for pcr in pcrs)}")
        bits = _bits(given[0]) if len(given) else 0
        numbers = [pcr for pcr in pcrs if bits >> pcr & 1]
        if not numbers or len(numbers) != len(digests):
            raise InvalidField(
                "bank", f"{bank}: the TPM has no PCR {', '.join(map(str, pcrs))} in this bank: is it active?"
            )
        return int(counter), {pcr: bytes(digest) for pcr, digest in zip(numbers, digests, strict=True)}

    def read_nv(self, index: int) -> bytes | None:
        """Content of an NV index, or None where there is none."""
        try:
            with command("TPM2_NV_Read"):
                return self.read_nv_or_raise(index)
        except utils.NoSuchIndex:
            return None

    def read_nv_or_raise(self, index: int) -> bytes:
        """Content of an NV index. Raises utils.NoSuchIndex, which `create_ek_template` understands."""
        try:
            handle = self.esapi.tr_from_tpmpublic(index)
        except TSS2_Exception as error:
            if int(error.rc) == _NO_SUCH_NV_INDEX:
                raise utils.NoSuchIndex(index) from None
            raise
        with ExitStack() as stack:
            stack.callback(self.esapi.tr_close, handle)
            public, _name = self.esapi.nv_read_public(handle)
            by_index = bool(public.nvPublic.attributes & constants.TPMA_NV.AUTHREAD)
            reader = handle if by_index else constants.ESYS_TR.OWNER
            largest = self._fixed_properties().get(int(constants.TPM2_PT_NV.BUFFER_MAX), 512)
            size, data = int(public.nvPublic.dataSize), b""
            while len(data) < size:
                piece = self.esapi.nv_read(
                    handle, min(largest, size - len(data)), len(data), auth_handle=reader
                )
                data += bytes(piece)
            return data

    # ---- handles ------------------------------------------------------------------------------------------

    @contextmanager
    def flushed(self, handle: Any) -> Iterator[None]:
        """Flush a loaded object or session (ESYS_TR) on the way out, whatever happens."""
        try:
            yield
        finally:
            self.esapi.flush_context(handle)

    @contextmanager
    def salted_session(self, key: Any, kind: Any = constants.TPM2_SE.HMAC) -> Iterator[Any]:
        """A session (ESYS_TR) whose secret is encrypted to `key`, a decryption key in the TPM; the first
        parameter of commands and answers is encrypted in it (AES-128 CFB). kind: HMAC or POLICY."""
        with command("TPM2_StartAuthSession"):
            session = self.esapi.start_auth_session(
                key,
                constants.ESYS_TR.NONE,
                kind,
                types.TPMT_SYM_DEF.parse("aes128cfb"),
                constants.TPM2_ALG.SHA256,
            )
        with self.flushed(session):
            attributes = constants.TPMA_SESSION
            self.esapi.trsess_set_attributes(
                session, attributes.CONTINUESESSION | attributes.DECRYPT | attributes.ENCRYPT
            )
            yield session

    def _flush_stale(self) -> None:
        """Flush what an earlier process left in the TPM. With a resource manager there is never any."""
        for start in _STALE_HANDLES:
            for handle in self.handles(start):
                # ESAPI flushes only what it loaded itself: so TPM2_FlushContext (0x165) by hand.
                self._tcti.transmit(struct.pack(">HIII", 0x8001, 14, 0x165, handle))
                self._tcti.receive()


@contextmanager
def command(name: str) -> Iterator[None]:
    """Turns an error of libtss2 or the TPM into Unavailable (tpm_error)."""
    try:
        yield
    except TSS2_Exception as error:
        raise tpm_error(name, error) from None


def tpm_error(name: str, error: TSS2_Exception) -> Unavailable:
    """A fault of libtss2 or the TPM in the command `name`."""
    return Unavailable(
        "tpm_error", f"{name} failed: {error}", "see the agent's journal; if it stays, reboot the host"
    )


def unmarshal(kind: Any, data: bytes, field: str) -> Any:
    """One TPM structure from exactly `data`. Raises InvalidField."""
    try:
        value, size = kind.unmarshal(data)
    except (TSS2_Exception, ValueError):
        raise InvalidField(field, f"is not a {kind.__name__}") from None
    if size != len(data):
        raise InvalidField(field, f"has {len(data) - size} trailing bytes")
    return value


def _bits(selection: Any) -> int:
    """TPMS_PCR_SELECTION as a number: bit n says that PCR n is selected."""
    return int.from_bytes(bytes(selection.pcrSelect)[: selection.sizeofSelect], "little")

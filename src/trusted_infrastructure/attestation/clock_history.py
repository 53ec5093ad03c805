# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a TPM's clock follow its history? Pure. docs/protocol.md 3.4, "Clock".

Rules, against the last accepted quote of the same endorsement key
1. resetCount never falls; restartCount never falls within one reset. Both begin again only when the TPM is
   cleared, or replaced by an older copy of its state.
2. The firmware version never falls: an older one may have the holes that the newer one closed.
3. Within one boot (same resetCount and restartCount) the clock does not fall by more than CLOCK_TOLERANCE.
4. Within one boot that was `safe` before, it stays `safe`: only a reset or a resume can take that away.

`safe` alone is not asked for. After a power cut a TPM says "not safe" for an hour or more, which means that
it may have reported a later `clock` before. Only the counters are relied on across boots, and they are kept;
to refuse here would keep a whole data centre from starting after a power cut.

A refusal stays until an administrator accepts the TPM as it is now (`State.accept`).
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.quote import ClockInfo

CLOCK_TOLERANCE = 120_000  # ms: two attestations that are under way at once may be judged in the other order

_REMEDY = "If the TPM was cleared, replaced or moved to older firmware on purpose, accept its new history."


@dataclass(frozen=True)
class ClockRecord:
    """What the last accepted quote said. clock: milliseconds."""

    reset_count: int
    restart_count: int
    clock: int
    safe: bool
    firmware_version: int

    @property
    def boot(self) -> tuple[int, int]:
        """(resetCount, restartCount): the same until the next reset or resume."""
        return self.reset_count, self.restart_count


def check_clock(clock: ClockInfo, before: ClockRecord | None) -> None:
    """Refuse a quote whose clock does not follow `before` (None: first quote of this TPM here).

    Raises Refusal `tpm_cleared`, `clock_unsafe`.
    """
    if before is None:
        return
    boot = (clock.reset_count, clock.restart_count)
    if boot < before.boot:
        raise Refusal(
            "tpm_cleared",
            f"resetCount and restartCount fell from {before.boot} to {boot}",
            _REMEDY,
        )
    if clock.firmware_version < before.firmware_version:
        raise Refusal(
            "tpm_cleared",
            f"the TPM's firmware fell from {before.firmware_version:#x} to {clock.firmware_version:#x}",
            _REMEDY,
        )
    if boot != before.boot:
        return
    if clock.clock < before.clock - CLOCK_TOLERANCE:
        raise Refusal(
            "tpm_cleared",
            f"the TPM's clock fell from {before.clock} to {clock.clock} ms within one boot",
            _REMEDY,
        )
    if before.safe and not clock.safe:
        raise Refusal(
            "clock_unsafe",
            "the TPM's clock was safe before in this boot, and is not any more",
            _REMEDY,
        )

# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of an event log: the header of crypto-agile logs, and the padding at the end.

No digest covers the header. It only says how the rest is to be cut into events; cut wrongly, the rest does
not replay to the PCRs that a TPM signed. So a tolerant reading of it gives nobody anything (`event_quirks`).

Source: TCG PC Client Platform Firmware Profile 1.06, 10.4.5.1 (TCG_EfiSpecIdEvent; the same in 1.03 to 1.05,
whatever specErrata says).
"""

from __future__ import annotations

from trusted_infrastructure.tpm import algorithms, event_quirks
from trusted_infrastructure.tpm.structures import Reader

HEADER_SIGNATURE = b"Spec ID Event03\0"
_CODE = "event_log_malformed"
_MAXIMUM_ALGORITHMS = 16


def specification_id(data: bytes, following: bytes = b"") -> tuple[dict[int, tuple[str, int]], int]:
    """TCG_EfiSpecIdEvent: (algorithm (TPM_ALG_ID) to (bank name, digest size), bytes of it in `following`).

    data: the header event's data. following: up to 255 bytes of the log after it.
    Raises InvalidField (event_log_malformed).
    """
    reader = Reader(data, "event_log.specification_id", order="<", code=_CODE)
    reader.take(len(HEADER_SIGNATURE), "signature")
    reader.u32("platformClass")
    reader.take(4, "specVersion")  # minor, major, errata, size of UINTN: all that are in use have this form
    count = reader.u32("numberOfAlgorithms")
    if not 1 <= count <= _MAXIMUM_ALGORITHMS:
        raise reader.refusal("numberOfAlgorithms", f"is {count}: expected 1 to {_MAXIMUM_ALGORITHMS}")
    sizes: dict[int, tuple[str, int]] = {}
    for _index in range(count):
        algorithm, size = reader.u16("algorithmId"), reader.u16("digestSize")
        known = algorithms.HASHES.get(algorithm)
        # Without this, a wrong size would shift every digest of the log.
        if algorithm in sizes or size == 0 or (known is not None and size != known.size):
            raise reader.refusal(
                "digestSizes", f"{algorithms.name_of(algorithm)} with {size} bytes, or twice"
            )
        sizes[algorithm] = (known.name if known else algorithms.name_of(algorithm).lower(), size)
    return sizes, _vendor_info(reader, following)


def content_end(data: bytes) -> int:
    """Offset from which on the log is padding (`event_quirks.PADDING`), if an event ends there."""
    return min(len(data.rstrip(filler)) for filler in event_quirks.PADDING)


def _vendor_info(reader: Reader, following: bytes) -> int:
    """Read vendorInfo, and give the number of its bytes that the event's size leaves out.

    The quirks are those of `event_quirks`: no vendorInfoSize at all, vendor information that is not counted
    (all of it, or none), zeros at the end.
    """
    if not reader.remaining:
        return 0
    size = reader.u8("vendorInfoSize")
    if size and not reader.remaining and size <= len(following):
        return size
    reader.take(size, "vendorInfo")
    tail = reader.rest()
    if tail.strip(b"\0"):
        raise reader.refusal("", f"has {len(tail)} trailing bytes, and not only zeros")
    return 0

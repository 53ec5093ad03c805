# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of an event its digest covers, and whether it does.

For some event types the digest is over the event data, for some over a part of it, for some over something
that is not in the log. Content is believed only where it was checked: otherwise an attacker keeps the
digests, which replay, and writes data that reads well.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.4.1 (what each event type measures); boot loaders
for EV_IPL and EV_EVENT_TAG.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import algorithms, event_quirks, uefi
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_text import looks_like_utf16, text_of

# What a separator measures: the two values of a normal one, and the one that reports an error (PFP 10.4.1).
SEPARATORS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0")

# The digest is over the whole event data: anything else is a forged or broken event.
_WHOLE = frozenset(
    {
        types.EV_SEPARATOR,
        types.EV_ACTION,
        types.EV_S_CRTM_VERSION,
        types.EV_OMIT_BOOT_DEVICE_EVENTS,
        types.EV_EFI_VARIABLE_DRIVER_CONFIG,
        types.EV_EFI_VARIABLE_BOOT2,
        types.EV_EFI_VARIABLE_AUTHORITY,
        types.EV_EFI_GPT_EVENT,
        types.EV_EFI_GPT_EVENT2,
        types.EV_EFI_ACTION,
        types.EV_EFI_SPDM_DEVICE_POLICY,
        types.EV_EFI_SPDM_DEVICE_AUTHORITY,
    }
)
# EV_EFI_VARIABLE_BOOT measures the structure or, by older firmware, the variable's content alone.
_WHOLE_OR_CONTENT = frozenset({types.EV_EFI_VARIABLE_BOOT})
# Here the digest may be over the data, over a part of it, or over a file that the data only names.
_PERHAPS = frozenset(
    {
        types.EV_EVENT_TAG,
        types.EV_IPL,
        types.EV_PLATFORM_CONFIG_FLAGS,
        types.EV_TABLE_OF_DEVICES,
        types.EV_COMPACT_HASH,
        types.EV_POST_CODE,
        types.EV_S_CRTM_CONTENTS,
        types.EV_EFI_HCRTM_EVENT,
    }
)
_TAG_HEADER = 8
_MAXIMUM_NAME = 512  # bytes of a name of a section in UTF-16
_TEXT_PREFIXES = tuple(prefix.encode() for prefix in event_quirks.GRUB_PREFIXES)


def measured_content(event_type: int, data: bytes, digest: bytes | None, bank: str) -> bytes | None:
    """The bytes that `digest` is over, where the event data says them: nearly always a part of it (a
    separator's value may be left out, a name may be in another encoding). None where it is over none of them.

    Only these bytes were measured: what stands beside them (a boot variable's name in older firmware, GRUB's
    prefixes) is the host's word.
    """
    hash_ = algorithms.HASHES_BY_NAME.get(bank)
    if digest is None or hash_ is None or event_type == types.EV_NO_ACTION:
        return None
    new = getattr(hashlib, hash_.name)
    for candidate in _candidates(event_type, data):
        if new(candidate).digest() == digest:
            return candidate
    return None


def digest_of(data: bytes, bank: str) -> bytes:
    """Digest of `data` in a bank (a hash name that is known to be one)."""
    return bytes(getattr(hashlib, bank)(data).digest())


def verify(event_type: int, data: bytes, digest: bytes | None, bank: str) -> bool | None:
    """True, False or None: see `event_log.Event.digest_verified`."""
    if digest is None or event_type == types.EV_NO_ACTION:
        return None
    if measured_content(event_type, data, digest, bank) is not None:
        return True
    return False if event_type in _WHOLE or event_type in _WHOLE_OR_CONTENT else None


def _candidates(event_type: int, data: bytes) -> Iterator[bytes]:
    """What the digest may be over, most likely first; at most a handful, so the work stays linear."""
    if event_type in _WHOLE:
        yield data
        if event_type == types.EV_EFI_VARIABLE_AUTHORITY:
            yield data[: -event_quirks.UNMEASURED_BYTES]
        elif event_type == types.EV_SEPARATOR:
            yield from SEPARATORS
    elif event_type in _WHOLE_OR_CONTENT:
        yield data
        try:
            yield uefi.variable_content(data)
        except InvalidField:
            return
    elif event_type in _PERHAPS:
        yield data
        if event_type == types.EV_EVENT_TAG:
            yield data[_TAG_HEADER:]
        elif event_type == types.EV_IPL:
            yield from _text_candidates(data)


def _text_candidates(data: bytes) -> Iterator[bytes]:
    """EV_IPL: with and without the NUL at the end, and without GRUB's prefix."""
    if data.endswith(b"\0"):
        yield data[:-1]
    # systemd-stub logs names as UTF-16 and measures them as ASCII, with the NUL.
    if len(data) <= _MAXIMUM_NAME and looks_like_utf16(data):
        yield text_of(data).encode("utf-8", "replace") + b"\0"
    for prefix in _TEXT_PREFIXES:
        if data.startswith(prefix):
            yield data[len(prefix) :]
            yield data[len(prefix) :].removesuffix(b"\0")

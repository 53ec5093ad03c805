# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the content of an event hash to its digest?

For some event types the digest is over the event data, for some over a part of it, for some over something that
is not in the log. Content is believed only where it was checked: otherwise an attacker keeps the digests, which
replay, and writes data that reads well.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.4.1 (which bytes each event type measures).
"""

from __future__ import annotations

from collections.abc import Iterator

from trusted_infrastructure.tpm import algorithms, event_types


def verify(event_type: int, data: bytes, digest: bytes | None, bank: str) -> bool | None:
    """True, False or None: see `event_log.Event.digest_verified`."""
    hash_ = algorithms.HASHES_BY_NAME.get(bank)
    if digest is None or hash_ is None or event_type == event_types.EV_NO_ACTION:
        return None
    return None

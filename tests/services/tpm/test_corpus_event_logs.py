# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of real machines: each is parsed or refused cleanly, and replays to the PCRs that are known of it."""

from __future__ import annotations

import json
from pathlib import Path

from services.tpm import corpus

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.event_log import EventLog, parse_event_log, replay

# Refused cleanly would be right, too; so far none has to be.
MALFORMED: set[str] = set()


def _replayed(log: EventLog, bank: str) -> dict[str, str]:
    """PCRs of a bank; none where an event has no digest for it (such a bank can't be appraised)."""
    try:
        return {str(pcr): value.hex() for pcr, value in replay(log, bank).items()}
    except Refusal as refusal:
        assert refusal.code == "event_log_replay"
        assert any(bank not in event.digests for event in log.events if event.extends)
        return {}


@corpus.parametrize("event_logs/*")
def test_parsed_or_refused(path: Path) -> None:
    if corpus.is_absent(path):
        return
    try:
        log = parse_event_log(path.read_bytes())
    except InvalidField as refusal:
        assert refusal.code == "event_log_malformed"
        assert path.name in MALFORMED
        return
    for event in log.events:
        assert event.description.isprintable() and event.type_name.startswith("EV_")
        for bank in event.digests:
            # No real log tells a story that its own digests deny.
            assert event.digest_verified(bank) is not False, event.label


@corpus.parametrize("event_logs/*.json", exclude="\0")
def test_replay_is_what_is_known(path: Path) -> None:
    if corpus.is_absent(path):
        return
    name = path.name.removesuffix(".json").removesuffix(".expected").removesuffix(".pcrs")
    log = parse_event_log((path.parent / name).read_bytes())
    for bank, pcrs in json.loads(path.read_text()).items():
        found = _replayed(log, bank)
        # The machine's own PCRs may have been extended by the running system; those of the log must be there.
        assert {pcr: found.get(pcr) for pcr in pcrs} == pcrs, bank

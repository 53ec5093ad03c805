# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verifier makes of event logs: one line for each log and bank.

    tools/run python tools/event_log_report.py FOLDER_OR_FILE...

Each log is parsed or refused (with code and reason); each bank is replayed, and compared with the PCR
values beside the log (NAME.expected.json, NAME.pcrs.json: bank -> PCR -> hex); what is captured of the
bank is checked against the log it was captured from. Ends with 1 where a check fails; a refusal is none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from trusted_infrastructure import base_images
from trusted_infrastructure.base_images.capturing import reference_of
from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.rules import first_deviation
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_log import EventLog, parse_event_log

PCRS = range(24)


def report(path: Path) -> Iterator[tuple[str, bool]]:
    """(line, whether it is good) for each bank of a log, or one for a log that is refused."""
    data = path.read_bytes()
    head = f"{path.name} | {len(data)}"
    try:
        log = parse_event_log(data)
    except Refusal as refusal:
        yield f"{head} | - | - | {refusal.code}: {refusal.message} | - | -", True
        return
    for bank in log.banks:
        parsed = f"{head} | {len(log.events)} | {bank} | parsed"
        try:
            values = {pcr: log.value_of(pcr, bank) for pcr in PCRS}
        except Refusal as refusal:
            yield f"{parsed} | {refusal.code}: {refusal.message} | -", True
            continue
        known, agrees = compare(path, bank, values)
        captured, passes = check_capture(log, bank, values)
        yield f"{parsed} | {known} | {captured}", agrees and passes


def compare(path: Path, bank: str, values: Mapping[int, bytes]) -> tuple[str, bool]:
    """The replayed values against the known ones."""
    words, good = [], True
    for kind in ("expected", "pcrs"):
        known = path.with_name(f"{path.name}.{kind}.json")
        expected = json.loads(known.read_text()).get(bank) if known.is_file() else None
        if expected:
            wrong = [pcr for pcr, value in expected.items() if values[int(pcr)].hex() != value]
            good = good and not wrong
            words.append(f"{kind} {'differs in PCR ' + ', '.join(wrong) if wrong else 'equal'}")
    return f"replays, {', '.join(words) or 'nothing to compare'}", good


def check_capture(log: EventLog, bank: str, values: Mapping[int, bytes]) -> tuple[str, bool]:
    """A capture against the log that it was made from."""
    if bank in base_images.BANKS:
        image = base_images.capture(log, values, bank=bank, image_version="v1", display_name="V1")
        try:
            base_images.check_image(image)
            base_images.appraise([image], bank, values, log)
        except Refusal as refusal:
            return f"FAILS: {refusal.message}", False
        events = sum(len(reference.events or ()) for reference in image.pcrs.values())
        return f"passes, {len(image.pcrs)} PCRs, {events} rules", True
    # No image may have this bank: its hash is too weak to trust, or not one that we compute. The rules hold.
    explained = base_images.explained_pcrs(log, bank, values)
    for pcr in PCRS:
        reference = reference_of(pcr, values[pcr], explained, log, bank)
        if reference.events and first_deviation(pcr, reference, Observed(log, bank)):
            return f"FAILS in PCR {pcr}", False
    return "rules pass; no bank of base images", True


def main() -> int:
    """Print the table."""
    failed = 0
    print("log | bytes | events | bank | form | replay | capture, then check")
    for name in sys.argv[1:]:
        folder = Path(name)
        paths = sorted(path for path in folder.iterdir()) if folder.is_dir() else [folder]
        for path in paths:
            if path.is_file() and not path.name.endswith(".json"):
                for line, good in report(path):
                    print(line)
                    failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

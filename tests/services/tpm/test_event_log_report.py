# SPDX-License-Identifier: GPL-3.0-or-later
"""The report on event logs: one line for each log and bank, and 1 where something does not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from services.tpm.event_log_builder import LogBuilder, boot

TOOL = Path(__file__).resolve().parents[3] / "tools" / "event_log_report.py"


def report(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)


def test_report(tmp_path: Path) -> None:
    log = boot(LogBuilder())
    (tmp_path / "good").write_bytes(log.data)
    (tmp_path / "good.pcrs.json").write_text(json.dumps({"sha256": {"4": log.pcrs["sha256"][4].hex()}}))
    (tmp_path / "bad").write_bytes(log.data[:-1])
    answer = report(tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    head, bad, sha1, sha256 = answer.stdout.splitlines()
    assert head.startswith("log | bytes | events | bank")
    assert "event_log_malformed: event_log: event" in bad
    assert "| sha1 | parsed | replays, nothing to compare | rules pass; no bank of base images" in sha1
    assert "| sha256 | parsed | replays, pcrs equal | passes, " in sha256


def test_a_value_that_differs_fails(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(boot(LogBuilder()).data)
    (tmp_path / "log.expected.json").write_text(json.dumps({"sha256": {"4": "00" * 32}}))
    answer = report(tmp_path)
    assert answer.returncode == 1
    assert "expected differs in PCR 4" in answer.stdout

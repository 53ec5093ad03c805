# SPDX-License-Identifier: GPL-3.0-or-later
"""Every reason code that a host can get from the two public services is provoked by a row of the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from services.attestation.test_mutations import MUTATIONS as ATTESTATION
from services.key_provider.test_mutations import MUTATIONS as KEY_PROVIDER

ROOT = Path(__file__).resolve().parents[2]

# What no message of a host can bring about: the test that does, instead.
ELSEWHERE = {
    "challenge_expired": "",
}


def codes_of(service: str) -> set[str]:
    """The reason codes of protocol.md, section 12, that a service gives."""
    section = (ROOT / "docs/protocol.md").read_text().split("## 12. Reason codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \| ([A-Za-z, ]+) \|", section, re.MULTILINE)
    assert len(rows) > 100
    return {code for code, by in rows if service in by.split(", ")}

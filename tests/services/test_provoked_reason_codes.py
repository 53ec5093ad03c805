# SPDX-License-Identifier: GPL-3.0-or-later
"""Every reason code that a host can get from the two public services is provoked by a row of the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from services.attestation.test_mutations import MUTATIONS as ATTESTATION
from services.key_provider.test_mutations import MUTATIONS as KEY_PROVIDER

ROOT = Path(__file__).resolve().parents[2]

# What no message of a host alone can bring about, and the file with the test that does.
ELSEWHERE = {
    "ak_name": "tpm/test_credential.py",
    "service_disabled": "attestation/test_refusals.py",
    "state_unavailable": "attestation/test_service.py",
    "verification_failed": "attestation/test_service.py",
    "primary_key_same": "key_provider/test_primary_keys.py",
    "credential_not_bound": "key_provider/test_client_credentials.py",
    "sealed_value_invalid": "key_provider/test_client_credentials.py",
    "key_set_invalid": "key_provider/test_attestation_keys.py",
    "peer_answer_invalid": "test_transport_clients.py",
    "peer_unreachable": "test_transport_clients.py",
    "state_unusable": "key_provider/test_state.py",
    "token_expired": "attestation/test_host_results.py",
    "token_keys_outdated": "key_provider/test_oversight.py",
    "configuration_stale": "attestation/test_oversight.py",
    "clock_off_peers": "attestation/test_oversight.py",
    "clock_went_back": "attestation/test_oversight.py",
    "clock_unsynchronized": "test_clock_guard.py",
    "worker_failed": "test_transport_workers.py",
    "audit_head_invalid": "peers/test_commands.py",
}


def codes_of(service: str) -> set[str]:
    """The reason codes of protocol.md, section 12, that a service gives."""
    section = (ROOT / "docs/protocol.md").read_text().split("## 12. Reason codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \| ([A-Za-z, ]+) \|", section, re.MULTILINE)
    assert len(rows) > 100
    return {code for code, by in rows if service in by.split(", ")}


@pytest.mark.parametrize("service", ["AS", "KP"])
def test_every_reason_code_is_provoked(service: str) -> None:
    rows = [*ATTESTATION.values()] if service == "AS" else [*KEY_PROVIDER.values()]
    assert codes_of(service) - {row.code for row in rows} <= set(ELSEWHERE)


@pytest.mark.parametrize("code", ELSEWHERE)
def test_what_is_provoked_elsewhere_is(code: str) -> None:
    assert f'"{code}"' in (ROOT / "tests" / "services" / ELSEWHERE[code]).read_text()


def test_there_are_many_mutations() -> None:
    assert len(ATTESTATION) > 300 and len(KEY_PROVIDER) > 140

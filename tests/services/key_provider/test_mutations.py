# SPDX-License-Identifier: GPL-3.0-or-later
"""Every mutation of a key request is refused: by its reason code, with 4xx, one audit record, no key, and
before any key server was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from services.key_provider.mutations import (
    AFTER_ROTATION,
    OPENED,
    PROOF,
    REPORT,
    REQUEST,
    REWRAP,
    TOKEN,
    USAGE,
    WRAPPED_KEY,
    Mutation,
    reporting,
    rewrapping,
)
from services.key_provider.running import Service, running

TABLES = {
    "token": TOKEN,
    "proof": PROOF,
    "request": REQUEST,
    "wrapped key": WRAPPED_KEY,
    "rewrap": REWRAP,
    "usage": USAGE,
    "opened": OPENED,
}
MUTATIONS: dict[str, Mutation] = {
    f"{area}: {name}": row for area, rows in TABLES.items() for name, row in rows.items()
}


MAY_BE_THERE_SOON = ("key_missing", "key_server_unreachable", "primary_key_unavailable")
ALARM = "opened: key server gives another key"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        yield made


def stored(service: Service) -> dict[str, bytes]:
    """What a request could change: the snapshot, and the state but for the audit log."""
    found = [service.settings.snapshot, *service.settings.state_directory.rglob("*")]
    return {str(path): path.read_bytes() for path in found if path.is_file() and "audit" not in path.name}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_refused(service: Service, name: str) -> None:
    mutation = MUTATIONS[name]
    # The keys of the attestation services are known, as they are a moment after the service's start.
    assert service.ask(b"", "create").status_code == 400
    if mutation.prepare is not None:
        mutation.prepare(service)
    before, records = stored(service), len(service.audit())
    answer = mutation.send(service)

    error = answer.json()["error"]
    assert error["code"] == mutation.code, error
    # What may be there in a moment is 503: the host asks again. All else is final.
    expected = (503,) if mutation.code in MAY_BE_THERE_SOON else range(400, 500)
    assert answer.status_code in expected
    assert set(answer.json()) == {"error"} and set(error) == {"code", "message", "remedy"}
    assert error["message"]

    audit = service.audit()
    # An alarm is a record of its own, of no host: one for each key server that gives another key.
    alarms = [record for record in audit[records:-1] if record["host"] == ""]
    assert len(audit) == records + 1 + len(alarms) and len(alarms) == 2 * (name == ALARM)
    assert (audit[-1]["code"], audit[-1]["address"]) == (mutation.code, "192.0.2.7")
    assert audit[-1]["host"] == ("host1" if mutation.known else "")
    assert "kek_id" not in audit[-1]["detail"]

    assert stored(service) == before
    if name.partition(":")[0] != "opened":
        assert [server.asked for server in service.servers] == [0, 0]


def test_a_good_rewrap_and_a_good_report_are_no_mutations(service: Service) -> None:
    for good in (rewrapping(""), reporting("")):
        AFTER_ROTATION(service)
        assert good.send(service).status_code == 200
    (known,) = service.parts.usage.of("finance")
    assert (known.host, known.scope, known.keys) == ("host1", "cluster-a", json.loads(REPORT)["keys"])


def test_mutations_are_all_that_is_wrong(service: Service) -> None:
    """Without a lie, the same request gets a key, and for that a key server was asked."""
    answer = Mutation("").send(service)
    assert answer.status_code == 200, answer.text
    assert sum(server.asked for server in service.servers) > 0
    assert service.audit()[-1]["code"] == "ok"

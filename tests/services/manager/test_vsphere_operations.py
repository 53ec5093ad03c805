# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations of vSphere: trusted infrastructure and native key providers, as its clients expect them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.openapi import path_key

PREFIX = "com.vmware.vcenter."
PATH_PREFIX = "/vcenter"
# Names and ids of what is there, in as much of vSphere's form as that takes.
NAMES = {f"{PREFIX}cluster", f"{PREFIX}host"}
LINES = [
    line.split()
    for line in (Path(__file__).parent / "vsphere_operations.txt").read_text().splitlines()
    if not line.startswith("#")
]
OFFERED = {(operation.service, operation.wire_id): operation for operation in TABLE}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}-{line[1]}")
def test_the_operation_is_as_on_vsphere(line: list[str]) -> None:
    service, identifier, method, path, status, *privileges = line
    operation = OFFERED[PREFIX + service, identifier]
    assert operation.method == method
    # A slash at the end, which two paths have, is taken as well as none.
    assert path_key(operation) == PATH_PREFIX + path.rstrip("/")
    assert operation.status == int(status)
    found = {f"{item.id}@{item.on}" if item.on else item.id for item in operation.privileges}
    assert found == set(privileges)


def test_nothing_else_is_claimed_to_be_vsphere() -> None:
    expected = {(PREFIX + line[0], line[1]) for line in LINES}
    assert {key for key in OFFERED if key[0].startswith(PREFIX) and key[0] not in NAMES} == expected

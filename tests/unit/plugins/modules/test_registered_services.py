# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules attestation_service and kms_service; what they share is tested with registration."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call

KINDS = {
    "attestation_service": "/vcenter/trusted-infrastructure/attestation/services",
    "kms_service": "/vcenter/trusted-infrastructure/kms/services",
}
GIVEN = {"address": "ta1", "trusted_ca": ["a chain"], "group": "g", "trust_authority_cluster": "domain-c8"}
BODY = {
    "address": {"hostname": "ta1", "port": 443},
    "trusted_CA": {"cert_chain": ["a chain"]},
    "group": "g",
    "trust_authority_cluster": "domain-c8",
}


@pytest.mark.parametrize("name", KINDS)
def test_each_goes_to_its_own_place(run_module: Any, client: Any, name: str) -> None:
    resource = KINDS[name]
    fake = client({("POST", resource): lambda call: [] if call.query else "new"})
    assert run_module(name, fake, **GIVEN)["changed"] is True
    assert fake.changes == [Call("POST", resource, BODY)]
    fake = client({("POST", resource): [{"service": "1"}], ("GET", f"{resource}/1"): BODY})
    assert run_module(name, fake, **GIVEN)["changed"] is False
    assert run_module(name, fake, address="ta1", state="absent", check=True)["changed"] is True


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("missing", ["trusted_ca", "group", "trust_authority_cluster"])
def test_what_is_needed_is_named(run_module: Any, client: Any, name: str, missing: str) -> None:
    given = {key: value for key, value in GIVEN.items() if key != missing}
    assert run_module(name, client({}), **given)["msg"].endswith(f"missing: {missing}")

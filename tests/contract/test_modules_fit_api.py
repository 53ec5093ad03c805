# SPDX-License-Identifier: GPL-3.0-or-later
"""Every module, and every call in it, against the manager's own table of operations.

A path that is not there, a task that is none, a field that is not known: here each is an error.
"""

from __future__ import annotations

import ast
import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from collection_tree import ROOT
from contract.managed_site import Site, open_site
from contract.scenarios import SCENARIOS, VENDOR
from services.manager.harness import Side

PLUGINS = ROOT / "plugins"
MODULES = sorted(
    path
    for path in (PLUGINS / "modules").glob("*.py")
    if "trusted.infrastructure.connection" in path.read_text()
)


@functools.cache
def played(name: str) -> Site:
    """A scenario, played once."""
    with tempfile.TemporaryDirectory() as directory:
        return SCENARIOS[name].run(Path(directory))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    assert played(name).modules


def test_every_module_is_in_a_scenario() -> None:
    used = set().union(*(played(name).modules for name in SCENARIOS))
    assert [path.stem for path in MODULES if path.stem not in used] == []


def test_every_call_is_in_a_scenario() -> None:
    sent = set().union(*(played(name).call_sites for name in SCENARIOS))
    missing = []
    for path in [*MODULES, *(PLUGINS / "module_utils").glob("*.py")]:
        for first, last in call_lines(path):
            if not any(file == str(path) and first <= line <= last for file, line in sent):
                missing.append(f"{path.relative_to(ROOT)}:{first}")
    assert missing == []


def call_lines(path: Path) -> list[tuple[int, int]]:
    """First and last lines of the expressions that make a call."""
    return [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Call"
    ]


CHAIN = [VENDOR.pem]
ON_NOTHING: dict[str, tuple[Side, dict[str, Any]]] = {
    "cluster": ("trust_authority", {}),
    "cluster_host": ("trust_authority", {}),
    "trust_authority_cluster": ("trust_authority", {"state": "enabled", "token_lifetime": 600}),
    "consumer_principal": (
        "trust_authority",
        {
            "issuer": "x",
            "issuer_alias": "x",
            "principal_name": "x",
            "principal_domain": "x",
            "certificates": [CHAIN],
        },
    ),
    "scope": (
        "trust_authority",
        {"principal": "x", "trusted_cluster": "x", "base_images": ["*"], "providers": ["*"]},
    ),
    "denied_host": ("trust_authority", {"host": "x", "ek_digest": "ab" * 32}),
    "tpm2_ca_certificate": ("trust_authority", {"cert_chain": CHAIN}),
    "tpm2_endorsement_key": ("trust_authority", {"public_key": VENDOR.public_pem}),
    "tpm2_endorsement_key_replace": ("trust_authority", {"host": "x", "public_key": VENDOR.public_pem}),
    "tpm2_settings": ("trust_authority", {"require_endorsement_keys": True}),
    "key_provider": (
        "trust_authority",
        {"primary_key_id": "1", "servers": [{"name": "kms1", "address": "kms1"}]},
    ),
    "key_provider_client_certificate": ("trust_authority", {"provider": "x"}),
    "key_provider_peer_certificates": ("trust_authority", {"provider": "x", "certificates": CHAIN}),
    "key_provider_credential": ("trust_authority", {"provider": "x", "kmip_password": "a secret"}),
    "trusted_cluster": ("workload", {"trust_authority_cluster": "domain-c8"}),
    "trusted_cluster_applied_config": ("workload", {}),
}


def arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """With the name of a cluster that is not there, and of the resource, where the module wants them."""
    text = (PLUGINS / "modules" / f"{name}.py").read_text()
    wanted = {"cluster": "nothing", "name": "nothing"}
    return {
        key: value for key, value in wanted.items() if f'"{key}": {{"type": "str", "required"' in text
    } | given


@pytest.mark.parametrize("name", ON_NOTHING)
def test_check_mode_works_before_anything_is_there(name: str, tmp_path: Path) -> None:
    side, given = ON_NOTHING[name]
    with open_site(tmp_path, side) as site:
        result = site.ok(name, check=True, **arguments(name, given))
        assert result["changed"] is True
        assert site.door.changes() == []


@pytest.mark.parametrize("name", [name for name in ON_NOTHING if name != "cluster"])
def test_outside_of_check_mode_a_missing_cluster_is_an_error(name: str, tmp_path: Path) -> None:
    side, given = ON_NOTHING[name]
    with open_site(tmp_path, side) as site:
        assert "no cluster is named nothing" in site.refused(name, **arguments(name, given))


@pytest.mark.parametrize("name", [path.stem for path in MODULES if path.stem.endswith("_info")])
def test_information_never_fails_on_absence(name: str, tmp_path: Path) -> None:
    side: Side = "workload" if name in WORKLOAD_INFO else "trust_authority"
    given: dict[str, Any] = {}
    text = (PLUGINS / "modules" / f"{name}.py").read_text()
    for key in ("cluster", "host", "provider", "version"):
        if f'"{key}": {{"type": "str", "required": True' in text:
            given[key] = "nothing"
    options: dict[str, Any] = {}
    if side == "workload":
        options = {"principal_certificate": tmp_path / "principal.pem", "principal_key": tmp_path / "key.pem"}
        options["principal_certificate"].write_text(VENDOR.pem)
        options["principal_key"].write_text(VENDOR.key_pem)
    with open_site(tmp_path, side, **options) as site:
        result = site.ok(name, **given)
        assert result["changed"] is False
        assert bool(result.get("warnings")) is bool(given)
        assert site.door.changes() == []


WORKLOAD_INFO = {
    "attestation_info",
    "attestation_service_info",
    "host_base_image_info",
    "host_keys_info",
    "host_tpm_info",
    "key_check_info",
    "key_info",
    "key_providers_info",
    "kms_service_info",
    "native_key_provider_info",
    "native_key_provider_keys_info",
    "principal_info",
    "standard_key_provider_info",
    "trusted_cluster_info",
    "trusted_key_provider_info",
}

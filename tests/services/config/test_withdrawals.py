# SPDX-License-Identifier: GPL-3.0-or-later
"""The security generation rises with every withdrawal of trust and never with an addition."""

from __future__ import annotations

from typing import Any

import pytest
from services.config.documents_of import CA, CLUSTER, DENIED, EK, IMAGE, PRINCIPAL, PROVIDER, SCOPE, SETTINGS

from trusted_infrastructure.config.documents import KINDS, Content, typed
from trusted_infrastructure.config.withdrawals import RULES, withdraws_trust

Change = tuple[str, dict[str, Any] | None, dict[str, Any] | None]

ONE_PEER = CLUSTER["peers"][:1]
LAX = {"require_endorsement_keys": False, "require_certificate_validation": False}

WITHDRAWALS: dict[str, Change] = {
    "cluster deleted": ("trust_authority_cluster", CLUSTER, None),
    "cluster disabled": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "state": "DISABLE"}),
    "cluster loses a peer": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "peers": ONE_PEER}),
    "cluster gets another group": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "group": "group-2"}),
    "tokens live shorter": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "token_lifetime": 60}),
    "principal deleted": ("consumer_principal", PRINCIPAL, None),
    "principal's issuer changed": ("consumer_principal", PRINCIPAL, {**PRINCIPAL, "issuer": "other"}),
    "principal's chain replaced": (
        "consumer_principal",
        PRINCIPAL,
        {**PRINCIPAL, "certificates": [["PEM two"]]},
    ),
    "principal's chains gone": ("consumer_principal", PRINCIPAL, {**PRINCIPAL, "certificates": []}),
    "scope deleted": ("scope", SCOPE, None),
    "scope loses an image": ("scope", SCOPE, {**SCOPE, "base_images": ["image-1"]}),
    "scope swaps an image": ("scope", SCOPE, {**SCOPE, "base_images": ["image-1", "image-3"]}),
    "scope loses its providers": ("scope", SCOPE, {**SCOPE, "providers": []}),
    "scope is no longer for all": ("scope", {**SCOPE, "providers": ["*"]}, SCOPE),
    "scope is another cluster's": ("scope", SCOPE, {**SCOPE, "trusted_cluster": "domain-c8"}),
    "scope is another principal's": ("scope", SCOPE, {**SCOPE, "principal": "other"}),
    "host denied": ("denied_host", None, DENIED),
    "other key denied": ("denied_host", DENIED, {**DENIED, "ek_digest": "cd" * 32}),
    "CA removed": ("ca_certificate", CA, None),
    "CA replaced": ("ca_certificate", CA, {**CA, "cert_chain": ["PEM other"]}),
    "CA loses its exception": ("ca_certificate", CA, {**CA, "eku_exception": False}),
    "EK removed": ("endorsement_key", EK, None),
    "EK replaced": ("endorsement_key", EK, {"public_key": "PEM other"}),
    "image removed": ("base_image", IMAGE, None),
    "image's values changed": ("base_image", IMAGE, {**IMAGE, "pcrs": {"0": {"value": "11" * 32}}}),
    "image's coverage changed": ("base_image", IMAGE, {**IMAGE, "userspace": "verity"}),
    "EKs required": ("tpm2_settings", {**SETTINGS, "require_endorsement_keys": False}, SETTINGS),
    "certificates required": (
        "tpm2_settings",
        {**SETTINGS, "require_certificate_validation": False},
        SETTINGS,
    ),
    "lax settings deleted": ("tpm2_settings", LAX, None),
    "one required, the other not": (
        "tpm2_settings",
        {"require_endorsement_keys": False, "require_certificate_validation": True},
        {"require_endorsement_keys": True, "require_certificate_validation": False},
    ),
    "provider deleted": ("key_provider", PROVIDER, None),
}

ADDITIONS: dict[str, Change] = {
    **{f"first {kind}": (kind, None, content) for kind, content in {
        "trust_authority_cluster": CLUSTER,
        "consumer_principal": PRINCIPAL,
        "scope": SCOPE,
        "ca_certificate": CA,
        "endorsement_key": EK,
        "base_image": IMAGE,
        "key_provider": PROVIDER,
        "tpm2_settings": SETTINGS,
    }.items()},
    "cluster gets a peer": ("trust_authority_cluster", {**CLUSTER, "peers": ONE_PEER}, CLUSTER),
    "cluster enabled": ("trust_authority_cluster", {**CLUSTER, "state": "DISABLE"}, CLUSTER),
    "tokens live longer": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "token_lifetime": 7200}),
    "cluster renamed": ("trust_authority_cluster", CLUSTER, {**CLUSTER, "name": "other"}),
    "principal gets a chain": (
        "consumer_principal", PRINCIPAL, {**PRINCIPAL, "certificates": [["PEM two"], ["PEM one"]]},
    ),
    "principal's alias changed": ("consumer_principal", PRINCIPAL, {**PRINCIPAL, "issuer_alias": "other"}),
    "scope gets an image": ("scope", SCOPE, {**SCOPE, "base_images": ["image-2", "image-1", "image-3"]}),
    "scope is for all": ("scope", SCOPE, {**SCOPE, "base_images": ["*"], "providers": ["*"]}),
    "denied host is allowed again": ("denied_host", DENIED, None),
    "CA gets an exception": ("ca_certificate", {**CA, "eku_exception": False}, CA),
    "image renamed": ("base_image", IMAGE, {**IMAGE, "display_name": "Other"}),
    "settings loosened": ("tpm2_settings", SETTINGS, LAX),
    "default settings loosened": ("tpm2_settings", None, LAX),
    "strict settings deleted": ("tpm2_settings", SETTINGS, None),
    "provider changed": ("key_provider", PROVIDER, {**PROVIDER, "description": "other"}),
    "nothing changed": ("base_image", IMAGE, IMAGE),
    "workload documents": ("trusted_key_provider", {"group": "group-1"}, None),
}  # fmt: skip


def _typed(kind: str, content: dict[str, Any] | None) -> Content | None:
    return None if content is None else typed(kind, content)


@pytest.mark.parametrize("change", WITHDRAWALS.values(), ids=WITHDRAWALS.keys())
def test_withdrawals_raise(change: Change) -> None:
    kind, before, after = change
    assert withdraws_trust(kind, _typed(kind, before), _typed(kind, after))


@pytest.mark.parametrize("change", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_additions_do_not(change: Change) -> None:
    kind, before, after = change
    assert not withdraws_trust(kind, _typed(kind, before), _typed(kind, after))


def test_every_rule_is_for_a_kind_that_exists_and_is_tested() -> None:
    assert set(RULES) <= set(KINDS)
    assert {kind for kind, _before, _after in WITHDRAWALS.values()} == set(RULES)

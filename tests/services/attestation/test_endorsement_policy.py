# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of the TPM 2.0 settings: each combination of requirements with each way of knowing a key."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from services.tpm.software_keys import endorsement_key, private_key
from services.tpm.vendor import CA_USAGE, EK_KEY_USAGE, EK_USAGE, NEVER, NOW, Authority, root

from trusted_infrastructure.attestation.endorsement_policy import EndorsementPolicy
from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.config.snapshot import Snapshot, snapshot_of
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.certificates import parse_certificate

EK = endorsement_key("rsa2048")
ROOT = root("Vendor root", "p384:root")
LEAF = ROOT.issue(
    "", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE], tpm_names=True
)
STRANGER = root("Strange root", "p384:strange").issue(
    "", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE], tpm_names=True
)
SECONDS = int(NOW.timestamp())

ENROLLED: dict[str, dict[str, Any] | None] = {
    "not enrolled": None,
    "enrolled by key": {"public_key": EK.subject_public_key_info()},
    "enrolled by certificate": {
        "public_key": parse_certificate(LEAF.der)
        .public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        "certificate": LEAF.pem,
    },
    "another enrolled": {"public_key": endorsement_key("p256:other").subject_public_key_info()},
}
CERTIFIED: dict[str, list[bytes]] = {
    "certified": [LEAF.der],
    "no certificate": [],
    "certified by a stranger": [STRANGER.der],
}


def snapshot(
    enrolled: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **ca: Any
) -> Snapshot:
    contents = {
        ("tpm2_settings", "settings"): settings,
        ("ca_certificate", "vendor"): {"cert_chain": [ROOT.pem], **ca},
        ("endorsement_key", "host1"): enrolled,
    }
    documents = [
        Document(kind, name, Generation(1, 1), content)
        for (kind, name), content in contents.items()
        if content is not None
    ]
    return Snapshot(snapshot_of("ta1", "trust_authority", 1, documents))


def outcome(policy: EndorsementPolicy, certificates: list[bytes], now: int = SECONDS) -> str:
    """The refusal's code, "ok" without one."""
    try:
        policy.check(EK, EK.digest, certificates, now)
    except Refusal as refusal:
        assert refusal.message
        return refusal.code
    return "ok"


def expected(validation: bool, enrolment: bool, enrolled: str, certified: str) -> str:
    """The table of the module, once more and in other words."""
    if not validation and not enrolment:
        return "ek_policy_none"
    if enrolment and enrolled in ("not enrolled", "another enrolled"):
        return "ek_not_enrolled"
    if not validation or certified == "certified":
        return "ok"
    return "ek_certificate_missing" if certified == "no certificate" else "ek_certificate_invalid"


@pytest.mark.parametrize(("validation", "enrolment"), list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("enrolled", ENROLLED)
@pytest.mark.parametrize("certified", CERTIFIED)
def test_matrix(validation: bool, enrolment: bool, enrolled: str, certified: str) -> None:
    settings = {"require_certificate_validation": validation, "require_endorsement_keys": enrolment}
    policy = EndorsementPolicy(snapshot(ENROLLED[enrolled], settings))
    assert policy.problems == []
    for _again in range(2):  # what was remembered of the first time changes nothing
        found = outcome(policy, CERTIFIED[certified])
        assert found == expected(validation, enrolment, enrolled, certified)


@pytest.mark.parametrize("enrolled", ENROLLED)
@pytest.mark.parametrize("certified", CERTIFIED)
def test_without_settings_both_are_required(enrolled: str, certified: str) -> None:
    policy = EndorsementPolicy(snapshot(ENROLLED[enrolled]))
    assert outcome(policy, CERTIFIED[certified]) == expected(True, True, enrolled, certified)


def test_the_assertion_names_the_key() -> None:
    policy = EndorsementPolicy(snapshot(ENROLLED["enrolled by key"]))
    with pytest.raises(Refusal, match="ek_mismatch"):
        policy.check(EK, "00" * 32, [LEAF.der], SECONDS)


# ---- revocation lists of a CA entry ------------------------------------------------------------------------


def with_list(crl: str) -> EndorsementPolicy:
    return EndorsementPolicy(snapshot(ENROLLED["enrolled by key"], crls=[crl]))


def test_revoked() -> None:
    assert outcome(with_list(ROOT.revoke([5], NEVER)), [LEAF.der]) == "ok"
    revoked = with_list(ROOT.revoke([LEAF.certificate.serial_number], NEVER))
    assert outcome(revoked, [LEAF.der]) == "ek_certificate_invalid"
    assert revoked.problems == [] and revoked.warnings(SECONDS) == []


def test_list_that_ends() -> None:
    """Accepted, remembered, and refused from the moment on in which the list is out of date."""
    end = NOW + timedelta(days=3)
    policy = with_list(ROOT.revoke([], end))
    last = int(end.timestamp())
    for now in (SECONDS, last - 1, last):
        assert outcome(policy, [LEAF.der], now) == "ok"
    assert outcome(policy, [LEAF.der], last + 1) == "ek_certificate_invalid"
    (warning,) = policy.warnings(SECONDS)
    assert "CA entry vendor: the CRL of 'CN=Vendor root' ends on 2026-06-04" in warning
    assert policy.warnings(int((NOW - timedelta(days=5)).timestamp())) == []


@pytest.mark.parametrize(
    ("crl", "words"),
    [
        ("text", "crls[0]: malformed CRL"),
        (root("Other root", "p384:other").revoke([], NEVER), "which is no CA of this entry"),
        (ROOT.revoke([], NEVER, signer=private_key("p256:other")), "is not signed by 'CN=Vendor root'"),
    ],
)
def test_entry_with_a_list_that_is_none_endorses_nobody(crl: str, words: str) -> None:
    """Managers refuse such a list; whoever put it there, the entry is not used without it."""
    policy = with_list(crl)
    (problem,) = policy.problems
    assert problem.startswith("CA entry vendor: ") and words in problem
    assert outcome(policy, [LEAF.der]) == "ek_certificate_invalid"


def test_lists_of_several_authorities() -> None:
    issuing = issuing_authority()
    certificate = issuing.issue(
        "", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE], tpm_names=True
    )
    chain = [ROOT.pem, issuing.pem]
    lists = [ROOT.revoke([], NEVER), issuing.revoke([7], NEVER)]
    policy = EndorsementPolicy(snapshot(ENROLLED["enrolled by key"], cert_chain=chain, crls=lists))
    assert outcome(policy, [certificate.der]) == "ok"
    lists[0] = ROOT.revoke([issuing.certificate.serial_number], NEVER)
    policy = EndorsementPolicy(snapshot(ENROLLED["enrolled by key"], cert_chain=chain, crls=lists))
    assert outcome(policy, [certificate.der]) == "ek_certificate_invalid"


def issuing_authority() -> Authority:
    return ROOT.issue("Vendor issuing", private_key("p256:issuing"), usage=CA_USAGE)

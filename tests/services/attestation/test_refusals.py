# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way in which an attestation can be wrong: its reason code, 4xx, one audit record, and no other
effect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from services.attestation.vendor import Vendor
from services.attestation.world import (
    BOOT,
    BOOT_LOADER,
    CHALLENGE,
    EVIDENCE,
    ISSUER,
    SCOPE,
    SEPARATORS,
    Boot,
    Host,
    World,
    with_area,
)
from services.side_authority import NOW, SideAuthority
from services.tpm import software_keys

from trusted_infrastructure import tokens
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.messages import ProofKey, encode
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tpm import algorithms, event_types
from trusted_infrastructure.tpm.public_area import Attributes, Scheme, Symmetric


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def check_refused(world: World, answer: httpx.Response, code: str, records: int, status: int = 0) -> str:
    """The answer is this refusal, in the audit log exactly once; the message."""
    error = answer.json()["error"]
    assert error["code"] == code, error
    assert 400 <= answer.status_code < 500 and (not status or answer.status_code == status)
    assert set(error) == {"code", "message", "remedy"} and error["message"]
    audit = world.audit()
    assert len(audit) == records + 1
    assert audit[-1].code == code
    assert "token" not in audit[-1].detail
    message: str = error["message"]
    return message


# ---- challenge requests -----------------------------------------------------------------------------------


def assertion(**changes: Any) -> Callable[[World], bytes]:
    return lambda world: world.request(assertion=world.assertion(world.host, **changes))


def own_principal(world: World) -> bytes:
    """A manager that nobody imported, with a certificate of its own, under the imported issuer's name."""
    key, certificate = SideAuthority(side="workload").leaf("manager", "workload-manager", side="workload")
    claims = tokens.AssertionClaims(
        iss=ISSUER,
        sub="host1",
        scope=SCOPE,
        ek_digest=world.host.ek.digest,
        aud="group-1",
        iat=NOW,
        exp=NOW + 60,
        jti="a",
    )
    return world.request(assertion=tokens.sign_assertion(claims, load_key(key), certificate))


def documents(kind: str, name: str, **fields: Any) -> Callable[[World], bytes]:
    def prepare(world: World) -> bytes:
        world.change(kind, name, **fields)
        return world.request()

    return prepare


def without(*names: tuple[str, str]) -> Callable[[World], bytes]:
    def prepare(world: World) -> bytes:
        for name in names:
            del world.documents[name]
        world.publish()
        return world.request()

    return prepare


def with_document(kind: str, name: str, **content: Any) -> Callable[[World], bytes]:
    def prepare(world: World) -> bytes:
        world.documents[kind, name] = {
            key: value(world) if callable(value) else value for key, value in content.items()
        }
        world.publish()
        return world.request()

    return prepare


def ek(**fields: Any) -> Callable[[World], bytes]:
    """An EK with other fields, enrolled and certified: only its own properties are wrong."""

    def prepare(world: World) -> bytes:
        kind = fields.pop("kind", "p256:ek")
        host = Host(ek_kind=kind)
        host.ek = software_keys.endorsement_key(kind, **fields)
        return world.request(world.add_host(host))

    return prepare


def ak(**fields: Any) -> Callable[[World], bytes]:
    def prepare(world: World) -> bytes:
        kind = fields.pop("kind", "p256:ak")
        return world.request(ak_public=software_keys.attestation_key(kind, **fields).tpm2b())

    return prepare


def certificates(make: Callable[[World], list[bytes]]) -> Callable[[World], bytes]:
    return lambda world: world.request(ek_certificates=make(world))


def changed(**fields: Any) -> Callable[[World], bytes]:
    """The request with JSON fields changed after it was made; None removes one."""

    def prepare(world: World) -> bytes:
        plain = msgspec.json.decode(world.request()) | fields
        return msgspec.json.encode({name: value for name, value in plain.items() if value is not None})

    return prepare


OTHER = Host(ek_kind="p256:other", ak_kind="p256:otherak")
EK = software_keys.EK_ATTRIBUTES
AK = software_keys.AK_ATTRIBUTES

# What a manager vouches for, and who it is: no result may be written for these, nobody vouches for the host.
UNKNOWN_CALLER: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "empty body": ("malformed_request", lambda world: b""),
    "not JSON": ("malformed_request", lambda world: b"\xff{"),
    "nested": ("malformed_request", lambda world: b"[" * 60_000),
    "nested field": ("malformed_request", lambda world: b'{"x":' + b"[" * 60_000),
    "a list": ("malformed_request", lambda world: b"[]"),
    "unknown field": ("malformed_request", changed(extra=1)),
    "missing field": ("malformed_request", changed(ak_public=None)),
    "other version": ("malformed_request", changed(version=2)),
    "not base64": ("malformed_request", changed(ek_public="%%%")),
    "too large": ("malformed_request", changed(ek_certificates=["A" * 100_000])),
    "assertion is no JWT": ("assertion_invalid", changed(assertion="a.b")),
    "assertion of another cluster": ("assertion_invalid", assertion(aud="group-2")),
    "assertion for too long": ("assertion_invalid", assertion(exp=NOW + 400 * 86400)),
    "assertion from the future": ("assertion_invalid", assertion(iat=NOW + 3600)),
    "assertion ended": ("assertion_expired", assertion(iat=NOW - 3600, exp=NOW - 1)),
    "assertion by another key": (
        "assertion_invalid",
        lambda world: world.request(
            assertion=world.assertion(world.host, key=load_key(SideAuthority().leaf()[0]))
        ),
    ),
    "assertion of another principal": ("principal_unknown", assertion(iss="https://other")),
    "principal with the same name": ("principal_unknown", own_principal),
    "principal not imported": ("principal_unknown", without(("consumer_principal", "principal-1"))),
}

VOUCHED: dict[str, tuple[str, Callable[[World], bytes]]] = {
    "scope unknown": ("scope_unknown", assertion(scope="scope-2")),
    "scope of another principal": ("scope_unknown", documents("scope", SCOPE, principal="https://other")),
    "host denied": (
        "host_denied",
        with_document("denied_host", "d", host="host1", ek_digest="00" * 32, reason="removed"),
    ),
    "EK denied": (
        "host_denied",
        with_document("denied_host", "d", host="x", ek_digest=lambda world: world.host.ek.digest),
    ),
    "another EK than asserted": ("ek_mismatch", assertion(ek_digest="00" * 32)),
    "EK of another machine": (
        "ek_mismatch",
        lambda world: world.request(ek_public=world.add_host(OTHER).ek.tpm2b()),
    ),
    "no EK policy": (
        "ek_policy_none",
        documents(
            "tpm2_settings",
            "settings",
            require_endorsement_keys=False,
            require_certificate_validation=False,
        ),
    ),
    "EK not enrolled": ("ek_not_enrolled", without(("endorsement_key", "host1"))),
    "another EK enrolled": (
        "ek_not_enrolled",
        documents("endorsement_key", "host1", public_key=OTHER.ek.subject_public_key_info()),
    ),
    "enrolled key is no key": ("ek_not_enrolled", documents("endorsement_key", "host1", public_key="PEM")),
    "no EK certificate": ("ek_certificate_missing", certificates(lambda world: [])),
    "no CA": ("ek_certificate_invalid", without(("ca_certificate", "vendor"))),
    "CA is no certificate": (
        "ek_certificate_invalid",
        documents("ca_certificate", "vendor", cert_chain=["PEM"]),
    ),
    "another vendor's certificate": (
        "ek_certificate_invalid",
        certificates(lambda world: [Vendor(NOW).certify(world.host.ek)]),
    ),
    "certificate of another EK": (
        "ek_mismatch",
        certificates(lambda world: [world.vendor.certify(OTHER.ek)]),
    ),
    "certificate ended": (
        "ek_certificate_invalid",
        certificates(lambda world: [world.vendor.certify(world.host.ek, days=10)]),
    ),
    "certificate for TLS": (
        "ek_certificate_invalid",
        certificates(lambda world: [world.vendor.certify(world.host.ek, usage="1.3.6.1.5.5.7.3.1")]),
    ),
    "certificate is none": ("ek_certificate_invalid", certificates(lambda world: [b"0\x03\x02\x01\x01"])),
    "too many certificates": (
        "malformed_request",
        certificates(lambda world: [world.vendor.certify(world.host.ek)] * 9),
    ),
    "EK can sign": ("ek_attributes", ek(attributes=EK | Attributes.SIGN)),
    "EK is not restricted": ("ek_attributes", ek(attributes=EK & ~Attributes.RESTRICTED)),
    "EK can leave its TPM": ("ek_attributes", ek(attributes=EK & ~Attributes.FIXED_TPM)),
    "EK was imported": ("ek_attributes", ek(attributes=EK & ~Attributes.SENSITIVE_DATA_ORIGIN)),
    "EK is RSA-1024": ("ek_weak", ek(kind="rsa1024")),
    "EK without cipher": ("ek_weak", ek(symmetric=Symmetric(algorithms.NULL))),
    "EK cut": ("malformed_request", changed(ek_public="AAA=")),
    "AK cut": ("malformed_request", changed(ak_public="AAA=")),
    "AK is the EK": ("ak_attributes", lambda world: world.request(ak_public=world.host.ek.tpm2b())),
    "AK is not restricted": ("ak_attributes", ak(attributes=AK & ~Attributes.RESTRICTED)),
    "AK can decrypt": ("ak_attributes", ak(attributes=AK | Attributes.DECRYPT)),
    "AK can leave its TPM": ("ak_attributes", ak(attributes=AK & ~Attributes.FIXED_TPM)),
    "AK can leave its parent": ("ak_attributes", ak(attributes=AK & ~Attributes.FIXED_PARENT)),
    "AK was imported": ("ak_attributes", ak(attributes=AK & ~Attributes.SENSITIVE_DATA_ORIGIN)),
    "AK without scheme": ("ak_attributes", ak(scheme=Scheme(algorithms.NULL))),
    "AK signs SHA-1": ("ak_weak", ak(scheme=Scheme(algorithms.ECDSA, algorithms.SHA1))),
    "AK named by SHA-1": ("ak_weak", ak(name_alg=algorithms.SHA1)),
    "AK is RSA-1024": ("ak_weak", ak(kind="rsa1024")),
    "no base image": ("no_base_image", without(("base_image", "image-1"))),
    "no base image for the scope": ("no_base_image", documents("scope", SCOPE, base_images=["image-2"])),
}


@pytest.mark.parametrize("fault", sorted(UNKNOWN_CALLER))
def test_request_of_an_unknown_caller_is_refused(world: World, fault: str) -> None:
    code, prepare = UNKNOWN_CALLER[fault]
    answer = world.public.post(CHALLENGE, content=prepare(world))
    check_refused(world, answer, code, 0)
    assert world.results() == [] and world.histories() == {}


@pytest.mark.parametrize("fault", sorted(VOUCHED))
def test_request_of_a_vouched_host_is_refused(world: World, fault: str) -> None:
    code, prepare = VOUCHED[fault]
    answer = world.public.post(CHALLENGE, content=prepare(world))
    message = check_refused(world, answer, code, 0)
    (result,) = world.results()
    assert (result["host"], result["state"], result["reason"]) == ("host1", "FAILED", code)
    assert result["message"] == message and result["until"] is None and result["address"] == "192.0.2.7"
    assert world.histories() == {}


@pytest.mark.parametrize(
    ("settings", "missing", "code"),
    [
        ({"require_endorsement_keys": False}, ("endorsement_key", "host1"), None),
        ({"require_certificate_validation": False}, ("ca_certificate", "vendor"), None),
        ({"require_endorsement_keys": False}, ("ca_certificate", "vendor"), "ek_certificate_invalid"),
        ({"require_certificate_validation": False}, ("endorsement_key", "host1"), "ek_not_enrolled"),
        ({}, ("endorsement_key", "host1"), "ek_not_enrolled"),
        ({}, ("ca_certificate", "vendor"), "ek_certificate_invalid"),
    ],
)
def test_matrix_of_the_tpm_settings(
    world: World, settings: dict[str, bool], missing: tuple[str, str], code: str | None
) -> None:
    world.change("tpm2_settings", "settings", **settings)
    del world.documents[missing]
    world.publish()
    answer = world.public.post(CHALLENGE, content=world.request())
    assert (answer.status_code == 200) if code is None else (answer.json()["error"]["code"] == code)


def test_without_settings_both_are_required(world: World) -> None:
    del world.documents["tpm2_settings", "settings"]
    del world.documents["endorsement_key", "host1"]
    world.publish()
    answer = world.public.post(CHALLENGE, content=world.request())
    assert answer.json()["error"]["code"] == "ek_not_enrolled"


# ---- evidence ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """attest: changes of what is signed. bound: changes of the message that the quote is made for. message:
    changes of the message after the quote."""

    code: str
    attest: dict[str, Any] = field(default_factory=dict)
    bound: dict[str, Any] = field(default_factory=dict)
    message: Callable[[World, Any], dict[str, Any]] | None = None
    boot: Any = None
    signing_key: str | None = None
    reason: str = ""


def jwk_of(key: Any) -> ProofKey:
    jwk = tokens.jwk(key.public_key())
    return ProofKey(x=jwk["x"], y=jwk["y"])


def log_of(boot: Boot) -> bytes:
    return Host(boot=boot).event_log


SHA1_PCRS = ((0x0004, b"\x95\x7b\x00"),)
CHANGED_LOADER = (*BOOT[:BOOT_LOADER], (4, BOOT[BOOT_LOADER][1], b"evil"), *BOOT[BOOT_LOADER + 1 :])
OTHER_KEY = software_keys.private_key("p256:somebody")
CLASSICAL = SealingKey.generate("X25519")

FAULTS: dict[str, Fault] = {
    # 3.4.1
    "magic": Fault("quote_magic", {"magic": 0xFF544348}),
    "type: certify": Fault("quote_type", {"kind": 0x8017}),
    "type: time": Fault("quote_type", {"kind": 0x8019}),
    "trailing bytes": Fault("malformed_request", {"trailing": b"\0"}),
    "safe is 2": Fault("malformed_request", {"safe": 2}),
    "cut": Fault("malformed_request", message=lambda world, made: {"quote": made.quote[:-1]}),
    "empty": Fault("malformed_request", message=lambda world, made: {"quote": b""}),
    "huge": Fault("malformed_request", message=lambda world, made: {"quote": made.quote + bytes(2000)}),
    # 3.4.2
    "signed by another key": Fault("quote_signature", signing_key="p256:somebody"),
    "signed by the EK's machine in software": Fault("quote_signature", signing_key="p256:otherak"),
    "signature of RSA": Fault(
        "quote_signature",
        message=lambda world, made: {"signature": b"\x00\x14\x00\x0b\x01\x00" + bytes(256)},
    ),
    "signature says SHA-1": Fault(
        "quote_signature",
        message=lambda world, made: {"signature": b"\x00\x18\x00\x04" + made.signature[4:]},
    ),
    "signature of zeros": Fault(
        "quote_signature",
        message=lambda world, made: {
            "signature": b"\x00\x18\x00\x0b\x00\x20" + bytes(32) + b"\x00\x20" + bytes(32)
        },
    ),
    "signature empty": Fault("quote_signature", message=lambda world, made: {"signature": b""}),
    "signature with a tail": Fault(
        "quote_signature", message=lambda world, made: {"signature": made.signature + b"\0"}
    ),
    "quote changed after signing": Fault(
        "quote_signature",
        message=lambda world, made: {"quote": made.quote[:-1] + bytes([made.quote[-1] ^ 1])},
    ),
    # 3.4.3
    "no qualifying data": Fault("quote_qualifying_data", {"extra": b""}),
    "other purpose": Fault("quote_qualifying_data", bound={"purpose": "enrolment"}),
    "other service": Fault("quote_qualifying_data", bound={"service_id": "attestation@ta2"}),
    "other nonce": Fault("quote_qualifying_data", bound={"nonce": bytes(32)}),
    "other secret": Fault("quote_qualifying_data", bound={"secret": bytes(32)}),
    "other request": Fault("quote_qualifying_data", bound={"challenge_request": b"{}"}),
    "other selection bound": Fault("quote_qualifying_data", bound={"pcrs": [0]}),
    "proof key exchanged": Fault(
        "quote_qualifying_data", message=lambda world, made: {"proof_key": jwk_of(OTHER_KEY)}
    ),
    "sealing key exchanged": Fault(
        "quote_qualifying_data",
        message=lambda world, made: {"hpke_public_key": SealingKey.generate().public_bytes()},
    ),
    "log exchanged": Fault(
        "quote_qualifying_data", message=lambda world, made: {"event_log": made.event_log[:-1]}
    ),
    "claims exchanged": Fault("quote_qualifying_data", message=lambda world, made: {"claims": b"{ }"}),
    # 3.4.4
    "AK of the owner hierarchy": Fault("quote_qualified_name", {"signer": b"\x00\x0b" + bytes(32)}),
    "no signer": Fault("quote_qualified_name", {"signer": b""}),
    # 3.4.5
    "no PCR": Fault("quote_pcr_selection", {"selections": ()}),
    "empty selection": Fault("quote_pcr_selection", {"selections": ((0x000B, bytes(3)),)}),
    "fewer PCRs": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x95\x6b\x00"),)}),
    "PCR 23 too": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x95\x7b\x80"),)}),
    "bank sha1": Fault("quote_pcr_selection", {"selections": SHA1_PCRS}),
    "two banks": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x9d\x7b\x00"), *SHA1_PCRS)}),
    # 3.4.6
    "PCR digest": Fault("event_log_replay", {"digest": bytes(32)}),
    "PCR digest empty": Fault("event_log_replay", {"digest": b""}),
    "claimed values are not the signed ones": Fault(
        "quote_pcr_digest", bound={"claims": b'{"pcr_values":{"4":"%s"}}' % (b"00" * 32)}
    ),
    "claimed value of another size": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"4":"%s"}}' % (b"00" * 20)}
    ),
    "claimed PCR 24": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"24":"%s"}}' % (b"00" * 32)}
    ),
    "claims are no JSON": Fault("malformed_request", bound={"claims": b"{"}),
    "claims nested": Fault("malformed_request", bound={"claims": b"[" * 4000}),
    "unknown claim": Fault("malformed_request", bound={"claims": b'{"secure":true}'}),
    "claims too long": Fault("malformed_request", bound={"claims": b"{%s}" % (b" " * 5000)}),
    # 3.4.8
    "log empty": Fault("event_log_malformed", bound={"event_log": b""}),
    "log is noise": Fault("event_log_malformed", bound={"event_log": b"\x01" * 100}),
    "log of another boot": Fault(
        "event_log_replay", bound={"event_log": Host(boot=CHANGED_LOADER).event_log}
    ),
    "log without the last event": Fault(
        "event_log_replay", bound={"event_log": Host(boot=BOOT[:-1]).event_log}
    ),
    "boot loader changed": Fault("base_image_mismatch", boot=CHANGED_LOADER, reason="event 11 (PCR 4"),
    "event added": Fault(
        "base_image_mismatch", boot=(*BOOT, (9, event_types.EV_EVENT_TAG, b"x")), reason="no further event"
    ),
    "event left out": Fault("base_image_mismatch", boot=BOOT[:-1], reason="expected a further event"),
    "events exchanged": Fault(
        "base_image_mismatch",
        boot=(*BOOT[:BOOT_LOADER], BOOT[BOOT_LOADER + 2], BOOT[BOOT_LOADER + 1], BOOT[BOOT_LOADER]),
    ),
    "event of another type": Fault("base_image_mismatch", boot=((0, 1, b"firmware 1"), *BOOT[1:])),
    "secure boot variable": Fault(
        "base_image_mismatch",
        boot=(BOOT[0], (7, event_types.EV_EFI_VARIABLE_DRIVER_CONFIG, b"SecureBoot=0"), *BOOT[2:]),
        reason="PCR 7",
    ),
    "nothing measured": Fault("base_image_mismatch", boot=SEPARATORS),
    "PCR that had no event": Fault("base_image_mismatch", boot=(*BOOT, (14, 0xD, b"MOK")), reason="PCR 14"),
    # session keys
    "suite below the minimum": Fault(
        "malformed_request",
        bound={"hpke_suite": "X25519", "hpke_public_key": CLASSICAL.public_bytes()},
        reason="below the configured MLKEM768_X25519",
    ),
    "suite unknown": Fault("malformed_request", bound={"hpke_suite": "ROT13"}),
    "sealing key of another suite": Fault("malformed_request", bound={"hpke_public_key": bytes(32)}),
    "proof key off the curve": Fault(
        "malformed_request", bound={"proof_key": ProofKey(x="AA" * 21 + "A", y="AA" * 21 + "A")}
    ),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_evidence_is_refused(world: World, name: str) -> None:
    fault = FAULTS[name]
    world.attested()
    before = world.histories()
    if fault.boot is not None:
        world.host.start(fault.boot)
    request = world.request()
    challenge = world.challenge(request)
    key = software_keys.private_key(fault.signing_key) if fault.signing_key else None
    evidence = world.host.evidence(
        request,
        challenge,
        change_attest=lambda attest: replace(attest, **fault.attest),
        signing_key=key,
        **fault.bound,
    )
    if fault.message is not None:
        evidence = msgspec.structs.replace(evidence, **fault.message(world, evidence))
    answer = world.public.post(EVIDENCE, content=encode(evidence))
    message = check_refused(world, answer, fault.code, 1)
    assert fault.reason in message
    assert world.histories() == before
    (result,) = world.results()
    assert (result["state"], result["reason"], result["until"]) == ("FAILED", fault.code, None)
    again = world.public.post(EVIDENCE, content=encode(evidence))
    check_refused(world, again, "challenge_used", 2)


def test_faults_are_all_that_is_wrong(world: World) -> None:
    """Without a lie, the same steps end in a token: the table refuses because of what it says it changes."""
    # The log explains PCR 4, so claiming its true value changes nothing.
    for claims in (b"{}", b'{"pcr_values":{"4":"%s"}}' % world.host.pcrs[4].hex().encode()):
        answer = world.attest(claims=claims)
        assert answer.status_code == 200, answer.text


def test_mismatch_names_event_expected_and_found(world: World) -> None:
    world.host.start(CHANGED_LOADER)
    message = world.attest().json()["error"]["message"]
    expected, found = (hashlib.sha256(content).hexdigest() for content in (b"boot loader 1", b"evil"))
    for part in (
        "event 11 (PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION",
        f"with digest {expected}",
        f"found digest {found}",
        "closest base image: image-1",
    ):
        assert part in message


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"version":1}', b"\xff"])
def test_malformed_evidence_is_refused(world: World, body: bytes) -> None:
    check_refused(world, world.public.post(EVIDENCE, content=body), "malformed_request", 0, status=400)
    assert world.results() == []


# ---- challenges -------------------------------------------------------------------------------------------


def test_challenge_holds_for_thirty_seconds_and_once(world: World) -> None:
    request = world.request()
    challenge = world.challenge(request)
    assert challenge.expires == NOW + 30
    body = encode(world.host.evidence(request, challenge))
    world.now = NOW + 30
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_expired", 0, status=400)
    world.now = NOW + 29
    assert world.public.post(EVIDENCE, content=body).status_code == 200
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_used", 2, status=400)


@pytest.mark.parametrize("change", ["flipped", "cut", "empty", "foreign", "not base64", "long"])
def test_challenge_that_was_not_given_out_is_refused(world: World, change: str) -> None:
    request = world.request()
    challenge = world.challenge(request)
    text = challenge.challenge
    changed_text = {
        "flipped": text[:40] + ("A" if text[40] != "A" else "B") + text[41:],
        "cut": text[:-8],
        "empty": "",
        "foreign": "AQ" + "A" * 100,
        "not base64": "\u00e9" * 30,
        "long": "A" * 200_000,
    }[change]
    evidence = world.host.evidence(request, challenge)
    body = encode(msgspec.structs.replace(evidence, challenge=changed_text))
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_invalid", 0, status=400)
    assert world.results() == []


def test_restart_voids_challenges(world: World) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))
    world.service.close()
    world.start()
    check_refused(world, world.public.post(EVIDENCE, content=body), "challenge_invalid", 0)


def test_challenge_of_one_host_is_of_no_use_to_another(world: World) -> None:
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2"))
    request = world.request(other)
    challenge = world.challenge(request)
    # host1's TPM cannot open it; with a guessed secret and its own AK it fails at the first step that counts.
    with pytest.raises(AssertionError):
        world.host.evidence(request, challenge)
    other_tpm = Host("host2", "p256:ek2", "p256:ak2")
    evidence = other_tpm.evidence(request, challenge, signing_key=software_keys.private_key("p256:ak"))
    check_refused(world, world.public.post(EVIDENCE, content=encode(evidence)), "quote_signature", 0)


def test_credential_does_not_open_for_another_ak(world: World) -> None:
    """An AK in software, shown with a genuine EK: the TPM computes the name of the key that it holds."""
    request = world.request(ak_public=software_keys.attestation_key("p256:soft").tpm2b())
    challenge = world.challenge(request)
    with pytest.raises(AssertionError):
        world.host.evidence(request, challenge)


@pytest.mark.parametrize(
    ("code", "withdraw"),
    [
        ("host_denied", with_document("denied_host", "d", host="host1", ek_digest="00" * 32)),
        ("ek_not_enrolled", without(("endorsement_key", "host1"))),
        ("principal_unknown", without(("consumer_principal", "principal-1"))),
        ("scope_unknown", without(("scope", SCOPE))),
        ("no_base_image", without(("base_image", "image-1"))),
        ("ek_certificate_invalid", without(("ca_certificate", "vendor"))),
    ],
)
def test_trust_withdrawn_after_the_challenge(
    world: World, code: str, withdraw: Callable[[World], bytes]
) -> None:
    request = world.request()
    body = encode(world.host.evidence(request, world.challenge(request)))
    withdraw(world)
    check_refused(world, world.public.post(EVIDENCE, content=body), code, 0)
    assert world.histories() == {}


# ---- clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("tpm_cleared", {"resets": 6}),
        ("tpm_cleared", {"resets": 0, "restarts": 0, "clock": 5}),
        ("tpm_cleared", {"restarts": 0}),
        ("tpm_cleared", {"firmware": 0x2024_0001_0002_0002}),
        ("tpm_cleared", {"resets": 8, "firmware": 1}),
        ("tpm_cleared", {"clock": 1_000_000 - 120_001}),
        ("clock_unsafe", {"safe": 0}),
        (None, {"clock": 1_000_000 - 120_000}),
        (None, {"resets": 8, "restarts": 0, "clock": 5}),
        (None, {"resets": 8, "safe": 0}),
        (None, {"restarts": 2, "safe": 0}),
        (None, {"firmware": 0xFFFF_FFFF_FFFF_FFFF}),
    ],
)
def test_clock_against_history(world: World, code: str | None, changes: dict[str, int]) -> None:
    world.attested()
    before = world.histories()
    for name, value in changes.items():
        setattr(world.host, name, value)
    answer = world.attest()
    if code is None:
        assert answer.status_code == 200, answer.text
        return
    check_refused(world, answer, code, 1, status=403)
    assert world.histories() == before


def test_cleared_tpm_stays_refused_until_accepted(world: World) -> None:
    world.attested()
    world.host.resets = 0
    path = f"/attestation/manage/v1/endorsement-keys/{world.host.ek.digest}/accept-clock"
    for _index in range(2):
        assert world.attest().json()["error"]["code"] == "tpm_cleared"
    assert world.management.post(path).json() == {"changed": True}
    assert world.audit()[-1].code == "clock_accepted" and world.audit()[-1].detail["by"] == "ta-manager"
    assert world.attested().reset_count == 0
    world.host.resets = 7
    assert world.attested().reset_count == 7
    assert world.management.post(path.replace(world.host.ek.digest, "00" * 32)).json() == {"changed": False}


def test_history_outlives_a_restart_and_is_of_one_ek(world: World) -> None:
    world.attested()
    world.service.close()
    world.start()
    other = world.add_host(Host("host2", "p256:ek2", "p256:ak2", resets=1))
    assert world.attested(other).reset_count == 1
    world.host.resets = 6
    assert world.attest().json()["error"]["code"] == "tpm_cleared"


# ---- base images ------------------------------------------------------------------------------------------


def test_image_that_leaves_out_a_required_pcr_matches_nobody(world: World) -> None:
    pcrs = dict(world.documents["base_image", "image-1"]["pcrs"])
    for pcr in ("0", "4", "7", "9", "14"):
        world.change("base_image", "image-1", pcrs={k: v for k, v in pcrs.items() if k != pcr})
        answer = world.attest()
        assert answer.json()["error"]["code"] == "base_image_mismatch"
        assert f"does not cover PCR {pcr}" in answer.json()["error"]["message"]


def test_one_of_two_images_will_do_but_no_mixture(world: World) -> None:
    new = Host(boot=(*BOOT[:-1], (9, event_types.EV_EVENT_TAG, b"initrd 2")))
    newer = Host(boot=(*CHANGED_LOADER[:-1], (9, event_types.EV_EVENT_TAG, b"initrd 2")))
    world.documents["base_image", "image-2"] = world.image(newer, "image-2")
    world.publish()
    world.host.start(newer.boot)
    assert world.attested().base_image == "image-2"
    world.host.start(BOOT)
    assert world.attested().base_image == "image-1"
    world.host.start(new.boot)
    message = world.attest().json()["error"]["message"]
    assert "closest base image: image-1" in message
    world.change("scope", SCOPE, base_images=["image-2"])
    world.host.start(BOOT)
    assert world.attest().json()["error"]["code"] == "base_image_mismatch"


def test_pcr_that_the_log_does_not_explain_is_judged_by_value_alone(world: World) -> None:
    """systemd extends PCR 11 after the firmware's log has ended."""
    world.host.pcrs[11] = bytes(31) + b"\1"
    assert world.attest().json()["error"]["code"] == "event_log_replay"
    claims = b'{"pcr_values":{"11":"%s"}}' % world.host.pcrs[11].hex().encode()
    assert world.attest(claims=claims).json()["error"]["code"] == "base_image_mismatch"
    world.documents["base_image", "image-1"] = world.image()
    world.publish()
    assert world.attest(claims=claims).status_code == 200
    world.host.pcrs[4] = bytes(31) + b"\1"
    claims = claims[:-2] + b',"4":"%s"}}' % world.host.pcrs[4].hex().encode()
    refused = world.attest(claims=claims).json()["error"]
    assert refused["code"] == "event_log_replay" and "PCR 4" in refused["message"]


def test_extra_pcr_of_one_image_is_quoted_and_others_still_match(world: World) -> None:
    image = world.image(version="image-2")
    image["pcrs"] = image["pcrs"] | {"1": {"value": "11" * 32}}
    world.documents["base_image", "image-2"] = image
    world.publish()
    assert 1 in world.challenge(world.request()).pcrs
    assert world.attested().base_image == "image-1"


def test_area_helper_keeps_the_key() -> None:
    host = Host()
    assert with_area(host.ak, attributes=AK).name == host.ak.name

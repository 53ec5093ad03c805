# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed JSON: each kind verifies, and every mutation of it is refused with its own code."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from trusted_infrastructure import identity, messages, tokens
from trusted_infrastructure.refusal import Refusal

NOW = 1_800_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
KID = tokens.thumbprint(KEY.public_key())
JKT = tokens.thumbprint(OTHER.public_key())
URL = "https://ta1.example/kms/v1/providers/p/keys?action=create"

CLAIMS = tokens.TokenClaims(
    iss="attestation@ta1",
    aud="group-1",
    sub="host1",
    scope="scope-1",
    principal="https://wm.example/sts",
    ek_digest="ab" * 32,
    base_image="image-1",
    userspace="verity",
    security_generation=3,
    reset_count=5,
    restart_count=0,
    iat=NOW,
    nbf=NOW,
    exp=NOW + 3600,
    jti="0123456789abcdef",
    cnf=tokens.Confirmation(JKT),
    hpke=tokens.SealingTarget("MLKEM768_X25519", "cd" * 32),
)

Changes = dict[str, Any]


def raw(claims: msgspec.Struct, header: Changes | None = None, key: Any = KEY, **changes: Any) -> str:
    """A JWS with whatever header and claims a test wants; a value of None removes a claim."""
    payload = msgspec.to_builtins(claims) | changes
    payload = {name: value for name, value in payload.items() if value is not None}
    fields: Changes = {"typ": tokens.TOKEN_TYPE, "kid": KID, "alg": "ES256"} | (header or {})
    fields = {name: value for name, value in fields.items() if value is not None}
    algorithm = fields.pop("alg")
    return jwt.PyJWS().encode(json.dumps(payload).encode(), key, algorithm=algorithm, headers=fields)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as refusal:
        call()
    assert 400 <= refusal.value.status < 500
    return refusal.value.code


def verify(token: str, now: int = NOW, audience: str = "group-1") -> tokens.TokenClaims:
    return tokens.verify_token(
        token, {KID: KEY.public_key()}, audience, now, issuers={KID: {"attestation@ta1"}}
    )


def test_token_round_trip() -> None:
    token = tokens.sign_token(CLAIMS, KEY, KID)
    assert verify(token) == CLAIMS
    assert tokens.unverified_kid(token) == KID
    assert verify(token, now=NOW - tokens.SKEW) == CLAIMS


def test_thumbprint_is_that_of_the_messages() -> None:
    jwk = tokens.jwk(KEY.public_key())
    assert messages.ProofKey(x=jwk["x"], y=jwk["y"]).thumbprint() == KID
    # RFC 7638 keys with leading zeros in a coordinate keep them.
    for number in range(1, 400):
        key = ec.derive_private_key(number, ec.SECP256R1()).public_key()
        assert len(tokens.jwk(key)["x"]) == 43
    assert tokens.public_key_from_jwk(jwk["x"], jwk["y"]) == KEY.public_key()


RSA_KEY = rsa.generate_private_key(65537, 2048)
P384_KEY = ec.generate_private_key(ec.SECP384R1())

TOKEN_FAULTS: dict[str, tuple[str, Changes, Changes]] = {
    "typ of a JWT": ("token_invalid", {"typ": "JWT"}, {}),
    "typ of an assertion": ("token_invalid", {"typ": tokens.ASSERTION_TYPE}, {}),
    "no typ": ("token_invalid", {"typ": ""}, {}),
    "unknown kid": ("token_invalid", {"kid": "other"}, {}),
    "no kid": ("token_invalid", {"kid": None}, {}),
    "crit": ("token_invalid", {"crit": ["b64"]}, {}),
    "jku": ("token_invalid", {"jku": "https://evil.example"}, {}),
    "audience": ("token_audience", {}, {"aud": "group-2"}),
    "list of audiences": ("token_invalid", {}, {"aud": ["group-1"]}),
    "ended": ("token_expired", {}, {"iat": NOW - 3600, "nbf": NOW - 3600, "exp": NOW}),
    "too long": ("token_invalid", {}, {"exp": NOW + 86401}),
    "from the future": (
        "token_invalid",
        {},
        {"iat": NOW + tokens.SKEW + 1, "nbf": NOW},
    ),
    "not yet": ("token_invalid", {}, {"nbf": NOW + tokens.SKEW + 1}),
    "exp as text": ("token_invalid", {}, {"exp": str(NOW + 60)}),
    "unknown claim": ("token_invalid", {}, {"admin": True}),
    "other version": ("token_invalid", {}, {"version": 2}),
    "other issuer": ("token_invalid", {}, {"iss": "attestation@ta2"}),
    "cnf without jkt": ("token_invalid", {}, {"cnf": {}}),
    "userspace unknown": ("token_invalid", {}, {"userspace": "all"}),
    "host that is no name": ("token_invalid", {}, {"sub": "host1\u2028"}),
}
TOKEN_FAULTS |= {
    f"without {name}": ("token_invalid", {}, {name: None})
    for name in CLAIMS.__struct_fields__
    if name != "version"
}


@pytest.mark.parametrize("fault", sorted(TOKEN_FAULTS))
def test_token_refused(fault: str) -> None:
    code, header, changes = TOKEN_FAULTS[fault]
    assert code_of(lambda: verify(raw(CLAIMS, header, **changes))) == code


@pytest.mark.parametrize(
    "token",
    [
        raw(CLAIMS, key=OTHER),
        raw(CLAIMS, {"alg": "none"}, key=None),
        raw(CLAIMS, {"alg": "HS256"}, key=b"k" * 32),
        raw(CLAIMS, {"alg": "RS256"}, key=RSA_KEY),
        raw(CLAIMS, {"alg": "ES384"}, key=P384_KEY),
        raw(CLAIMS) + "A",
        raw(CLAIMS) + ".e30",
        raw(CLAIMS)[:-8],
        raw(CLAIMS).replace(".", ". ", 1),
        "",
        "..",
        "\u00e9.\u00e9.\u00e9",
        "a" * (tokens.MAX_SIZE + 1),
        base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".e30.e30",
    ],
)
def test_token_with_another_signature_or_shape_refused(token: str) -> None:
    assert code_of(lambda: verify(token)) == "token_invalid"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_changed_character_is_refused(part: int) -> None:
    parts = tokens.sign_token(CLAIMS, KEY, KID).split(".")
    for position in range(len(parts[part])):
        changed = list(parts)
        old = changed[part][position]
        changed[part] = (
            changed[part][:position] + ("A" if old != "A" else "B") + changed[part][position + 1 :]
        )
        with pytest.raises(Refusal):
            verify(".".join(changed))


# ---- host assertions --------------------------------------------------------------------------------------


def certificate(key: Any, days: int = 30, name: str = "principal") -> str:
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC) - datetime.timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()


ISSUER = "https://wm.example/sts"
LEAF = certificate(KEY)
EXPIRED_LEAF = certificate(KEY, days=0)
RSA_LEAF = certificate(RSA_KEY)
ASSERTION = tokens.AssertionClaims(
    iss=ISSUER,
    sub="host1",
    scope="scope-1",
    ek_digest="ab" * 32,
    aud="group-1",
    iat=NOW,
    exp=NOW + 30 * 86400,
    jti="a1",
)


def thumbprint_of(pem: str) -> str:
    fingerprint = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256())
    return base64.urlsafe_b64encode(fingerprint).decode().rstrip("=")


def verify_assertion(assertion: str, now: int = NOW, leaf: str = LEAF) -> tokens.AssertionClaims:
    principals = [
        tokens.Principal("https://other.example", [[certificate(OTHER)]]),
        tokens.Principal(ISSUER, [[certificate(OTHER)], [leaf]]),
    ]
    return tokens.verify_assertion(assertion, principals, "group-1", now)


def test_assertion_round_trip() -> None:
    assert verify_assertion(tokens.sign_assertion(ASSERTION, KEY, LEAF)) == ASSERTION


HEADER = {"typ": tokens.ASSERTION_TYPE, "kid": None, "x5t#S256": thumbprint_of(LEAF)}


@pytest.mark.parametrize(
    ("code", "header", "changes"),
    [
        ("assertion_invalid", {"typ": tokens.TOKEN_TYPE}, {}),
        ("assertion_invalid", {}, {"aud": "group-2"}),
        ("assertion_invalid", {}, {"exp": NOW + 91 * 86400}),
        ("assertion_invalid", {}, {"iat": NOW + 61}),
        ("assertion_invalid", {}, {"ek_digest": "AB" * 32}),
        ("assertion_invalid", {}, {"ek_digest": ["ab" * 32]}),
        ("assertion_invalid", {}, {"sub": ""}),
        # What would be no name in the manager's answers, records and texts.
        ("assertion_invalid", {}, {"sub": "h" * 256}),
        ("assertion_invalid", {}, {"sub": "host1\u2028"}),
        ("assertion_invalid", {}, {"sub": "host1\u202e"}),
        ("assertion_invalid", {}, {"sub": "host1\n"}),
        ("assertion_invalid", {}, {"version": 2}),
        ("assertion_invalid", {}, {"scope": None}),
        ("assertion_expired", {}, {"iat": NOW - 60, "exp": NOW}),
        ("principal_unknown", {}, {"iss": "https://nobody.example"}),
        ("principal_unknown", {"x5t#S256": None}, {}),
        ("principal_unknown", {"x5t#S256": "AAAA"}, {}),
        # The certificate of another principal does not sign for this one.
        ("principal_unknown", {}, {"iss": "https://other.example"}),
    ],
)
def test_assertion_refused(code: str, header: Changes, changes: Changes) -> None:
    assert code_of(lambda: verify_assertion(raw(ASSERTION, HEADER | header, **changes))) == code


def test_assertion_of_another_key_of_the_principal_refused() -> None:
    assert code_of(lambda: verify_assertion(raw(ASSERTION, HEADER, key=OTHER))) == "assertion_invalid"


def test_assertion_under_an_expired_certificate_names_it() -> None:
    assertion = tokens.sign_assertion(ASSERTION, KEY, EXPIRED_LEAF)
    with pytest.raises(Refusal, match="CN=principal is valid from 2027") as refusal:
        verify_assertion(assertion, leaf=EXPIRED_LEAF)
    assert refusal.value.code == "certificate_expired"


def test_principal_with_an_rsa_key_is_told_why() -> None:
    header = HEADER | {"x5t#S256": thumbprint_of(RSA_LEAF)}
    with pytest.raises(Refusal, match="not P-256"):
        verify_assertion(raw(ASSERTION, header), leaf=RSA_LEAF)


# ---- proofs -----------------------------------------------------------------------------------------------

TOKEN = "header.payload.signature"
BODY = b'{"object_label":"vm1"}'


def check_proof(proof: str, **changes: Any) -> str:
    request: Changes = {"method": "POST", "url": URL, "body": BODY, "token": TOKEN, "jkt": JKT, "now": NOW}
    return tokens.verify_proof(proof, **(request | changes))


def test_proof_round_trip() -> None:
    proof, jti = tokens.make_proof(OTHER, "POST", URL, BODY, TOKEN, NOW)
    assert check_proof(proof) == jti
    assert check_proof(proof, now=NOW + 60) == jti
    assert check_proof(proof, url="HTTPS://TA1.example:443/kms/v1/providers/p/keys") == jti


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("proof_mismatch", {"method": "GET"}),
        ("proof_mismatch", {"url": "https://ta2.example/kms/v1/providers/p/keys"}),
        ("proof_mismatch", {"url": "http://ta1.example/kms/v1/providers/p/keys"}),
        ("proof_mismatch", {"url": "https://ta1.example:8443/kms/v1/providers/p/keys"}),
        ("proof_mismatch", {"url": "https://ta1.example/kms/v1/providers/q/keys"}),
        ("proof_mismatch", {"body": BODY + b" "}),
        ("proof_mismatch", {"token": TOKEN + "x"}),
        ("proof_mismatch", {"jkt": KID}),
        ("proof_expired", {"now": NOW + 61}),
        ("proof_expired", {"now": NOW - 61}),
    ],
)
def test_proof_for_something_else_refused(code: str, changes: Changes) -> None:
    proof, _jti = tokens.make_proof(OTHER, "POST", URL, BODY, TOKEN, NOW)
    assert code_of(lambda: check_proof(proof, **changes)) == code


def test_proof_signed_by_another_key_than_its_jwk_refused() -> None:
    proof, _jti = tokens.make_proof(OTHER, "POST", URL, BODY, TOKEN, NOW)
    claims = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))
    own = tokens.jwk(OTHER.public_key())
    header: Changes = {"typ": "dpop+jwt", "alg": "ES256", "jwk": own}
    forged = jwt.PyJWS().encode(json.dumps(claims).encode(), KEY, algorithm="ES256", headers=header)
    assert code_of(lambda: check_proof(forged)) == "proof_invalid"
    for jwk in (
        None,
        {"kty": "oct", "k": "AAAA"},
        header["jwk"] | {"d": "AAAA"},
        header["jwk"] | {"x": "AA"},
    ):
        token = jwt.PyJWS().encode(
            json.dumps(claims).encode(), OTHER, algorithm="ES256", headers=header | {"jwk": jwk}
        )
        assert code_of(lambda token=token: check_proof(token)) == "proof_invalid"  # type: ignore[misc]
    short = tokens.make_proof(OTHER, "POST", URL, BODY, TOKEN, NOW, jti="short")[0]
    assert code_of(lambda: check_proof(short)) == "proof_invalid"


# ---- key sets and audit heads -----------------------------------------------------------------------------

SIDE, ROLE = "trust_authority", "attestation-service"
CA_KEY, CA = identity.create_authority("Trust Authority", SIDE, now=NOW)


def leaf_for(key: Any, host: str = "ta1", role: str = ROLE, side: str = SIDE, now: int = NOW) -> str:
    authority = (CA_KEY, CA) if side == SIDE else identity.create_authority("Other", side, now=NOW)
    uri = identity.role_uri(side, role, host)
    request = identity.create_request(key, uri, [host], [])
    return identity.sign_request(request, *authority, uri, [host], [], now=now)


def key_set(leaf: str, service_id: str = "attestation@ta1", kid: str | None = None, now: int = NOW) -> str:
    keys = {kid or tokens.thumbprint(OTHER.public_key()): OTHER.public_key()}
    return tokens.sign_key_set(keys, service_id, KEY, [leaf], now, 3600)


def verify_keys(jws: str, now: int = NOW) -> tokens.KeySet:
    return tokens.verify_key_set(jws, CA, SIDE, ROLE, {"ta1", "ta2"}, now)


def test_key_set_round_trip() -> None:
    found = verify_keys(key_set(leaf_for(KEY)))
    assert (found.service_id, found.host, found.expires) == ("attestation@ta1", "ta1", NOW + 3600)
    assert found.keys == {JKT: OTHER.public_key()}


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("key_set_invalid", lambda: key_set(leaf_for(KEY, host="ta9"), "attestation@ta9")),
        ("key_set_invalid", lambda: key_set(leaf_for(KEY), "attestation@ta2")),
        ("key_set_invalid", lambda: key_set(leaf_for(KEY), kid="chosen")),
        ("key_set_invalid", lambda: key_set(leaf_for(KEY), now=NOW - 3600)),
        ("key_set_invalid", lambda: key_set(leaf_for(KEY), now=NOW + 61)),
        ("key_set_invalid", lambda: key_set(leaf_for(OTHER))),
        (
            "key_set_invalid",
            lambda: tokens.sign_key_set({}, "attestation@ta1", KEY, [leaf_for(KEY)], NOW, 60),
        ),
        ("key_set_invalid", lambda: tokens.sign_key_set({KID: KEY.public_key()}, "a@ta1", KEY, [], NOW, 60)),
        ("certificate_invalid", lambda: key_set(leaf_for(KEY, role="key-provider-service"))),
        ("certificate_invalid", lambda: key_set(leaf_for(KEY, role="agent", side="workload"))),
        ("certificate_invalid", lambda: key_set(certificate(KEY))),
        ("key_set_invalid", lambda: tokens.sign_token(CLAIMS, KEY, KID)),
    ],
)
def test_key_set_refused(code: str, make: Callable[[], str]) -> None:
    assert code_of(lambda: verify_keys(make())) == code


def test_key_set_under_an_expired_identity_refused() -> None:
    jws = key_set(leaf_for(KEY), now=NOW + 91 * 86400)
    assert code_of(lambda: verify_keys(jws, now=NOW + 91 * 86400)) == "certificate_expired"


def test_audit_head_is_bound_to_its_service() -> None:
    claims = tokens.AuditHeadClaims(
        service_id="attestation@ta1", chain="c0ffee", seq=7, hash="ab" * 32, iat=NOW
    )
    jws = tokens.sign_audit_head(claims, KEY, [leaf_for(KEY)])
    assert tokens.verify_audit_head(jws, CA, SIDE, ROLE, NOW) == claims
    moved = tokens.sign_audit_head(claims, KEY, [leaf_for(KEY, host="ta2")])
    endless = tokens.sign_audit_head(msgspec.structs.replace(claims, seq=2**63), KEY, [leaf_for(KEY)])
    for other in (moved, endless, jws[:-6] + "AAAAAA", key_set(leaf_for(KEY))):
        refused = code_of(lambda jws=other: tokens.verify_audit_head(jws, CA, SIDE, ROLE, NOW))  # type: ignore[misc]
        assert refused == "audit_head_invalid"

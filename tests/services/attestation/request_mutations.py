# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutations of challenge requests: form, assertion, enrolment, endorsement key, attestation key."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from services.attestation.mutations import Prepare
from services.attestation.vendor import Vendor
from services.attestation.world import ISSUER, SCOPE, Host, World
from services.side_authority import NOW, SideAuthority
from services.tpm import software_keys

from trusted_infrastructure import tokens
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.public_area import Attributes, Scheme, Symmetric


def assertion(**changes: Any) -> Prepare:
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


def documents(kind: str, name: str, **fields: Any) -> Prepare:
    def prepare(world: World) -> bytes:
        world.change(kind, name, **fields)
        return world.request()

    return prepare


def without(*names: tuple[str, str]) -> Prepare:
    def prepare(world: World) -> bytes:
        for name in names:
            del world.documents[name]
        world.publish()
        return world.request()

    return prepare


def with_document(kind: str, name: str, **content: Any) -> Prepare:
    def prepare(world: World) -> bytes:
        world.documents[kind, name] = {
            key: value(world) if callable(value) else value for key, value in content.items()
        }
        world.publish()
        return world.request()

    return prepare


def ek(**fields: Any) -> Prepare:
    """An EK with other fields, enrolled and certified: only its own properties are wrong."""

    def prepare(world: World) -> bytes:
        kind = fields.get("kind", "p256:ek")
        host = Host(ek_kind=kind)
        host.ek = software_keys.endorsement_key(**{"kind": kind} | fields)
        return world.request(world.add_host(host))

    return prepare


def ak(**fields: Any) -> Prepare:
    def prepare(world: World) -> bytes:
        made = software_keys.attestation_key(**{"kind": "p256:ak"} | fields)
        return world.request(ak_public=made.tpm2b())

    return prepare


def certificates(make: Callable[[World], list[bytes]]) -> Prepare:
    return lambda world: world.request(ek_certificates=make(world))


def changed(**fields: Any) -> Prepare:
    """The request with JSON fields changed after it was made; None removes one."""

    def prepare(world: World) -> bytes:
        plain = msgspec.json.decode(world.request()) | fields
        return msgspec.json.encode({name: value for name, value in plain.items() if value is not None})

    return prepare


def text(change: Callable[[str], str]) -> Prepare:
    """The request's JSON text, changed: what a JSON library would not write."""
    return lambda world: change(world.request().decode()).encode()


def jws(header: dict[str, Any] | None = None, payload: bytes | None = None, key: Any = None) -> Prepare:
    """The assertion with another header or payload; signed with the principal's key, or by `key`(bytes)."""
    return lambda world: world.request(assertion=forged(world, header or {}, payload, key))


def forged(world: World, header: dict[str, Any], payload: bytes | None, key: Any) -> str:
    """A compact JWS made by hand: `tokens` would not make it. header: None removes a parameter."""
    first, second, _signature = world.assertion(world.host).split(".")
    plain = msgspec.json.decode(unpadded(first)) | header
    head = msgspec.json.encode({name: value for name, value in plain.items() if value is not None})
    body = unpadded(second) if payload is None else payload
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body))
    signature = es256(load_key(world.principal_key), signed) if key is None else key(signed)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def es256(key: Any, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def hs256_with_the_public_key(world: World) -> bytes:
    """The oldest trick: an HMAC whose key is the public key that everybody knows."""
    secret = world.principal_certificate.encode()
    mac = hmac.digest
    return world.request(assertion=forged(world, {"alg": "HS256"}, None, lambda s: mac(secret, s, "sha256")))


def own_key_in_the_header(world: World) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    header = {"jwk": tokens.jwk(key.public_key())}
    return world.request(assertion=forged(world, header, None, lambda signed: es256(key, signed)))


def claims_text(change: Callable[[bytes], bytes]) -> Prepare:
    """The assertion's claims as text, changed, and signed by the principal."""

    def prepare(world: World) -> bytes:
        payload = unpadded(world.assertion(world.host).split(".")[1])
        return world.request(assertion=forged(world, {}, change(payload), None))

    return prepare


def malleable(world: World) -> bytes:
    """The same signature in another text: the last character's unused bits."""
    made = world.assertion(world.host)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return world.request(assertion=made[:-1] + alphabet[alphabet.index(made[-1]) ^ 1])


def public_area(change: Callable[[bytes], bytes], field: str = "ak_public") -> Prepare:
    """A TPM2B_PUBLIC with other bytes."""

    def prepare(world: World) -> bytes:
        key = world.host.ak if field == "ak_public" else world.host.ek
        return world.request(**{field: change(key.tpm2b())})

    return prepare


def at(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Bytes from `offset` on replaced. Counted from the end where it is negative."""

    def change(data: bytes) -> bytes:
        start = offset % len(data)
        return data[:start] + value + data[start + len(value) :]

    return change


def sized(area: bytes) -> bytes:
    return len(area).to_bytes(2, "big") + area


def longer(area: bytes) -> bytes:
    """A TPM2B whose size includes a byte that the structure has not."""
    return (int.from_bytes(area[:2], "big") + 1).to_bytes(2, "big") + area[2:] + b"\0"


def own_root(world: World) -> bytes:
    """A whole chain, root included, in the request: only imported CAs are anchors."""
    vendor = Vendor(NOW)
    root = vendor.certificate.public_bytes(DER)
    return world.request(ek_certificates=[vendor.certify(world.host.ek), root])


def too_often(world: World) -> bytes:
    world.service.close()
    world.settings = msgspec.structs.replace(world.settings, burst=1, requests_per_minute=1)
    world.start()
    request = world.request()
    world.challenge(request)
    return request


def ended_principal(world: World) -> bytes:
    """The manager signs with a certificate that was imported, and has ended."""
    world.principal_key, world.principal_certificate = world.principal.leaf(
        "manager", "workload-manager", side="workload", now=NOW - 20 * 86400, days=10
    )
    world.change("consumer_principal", "principal-1", certificates=[[world.principal_certificate]])
    return world.request()


OTHER = Host(ek_kind="p256:other", ak_kind="p256:otherak")
EK = software_keys.EK_ATTRIBUTES
AK = software_keys.AK_ATTRIBUTES
DER = serialization.Encoding.DER

# What a manager vouches for, and who it is: no result may be written for these, nobody vouches for the host.
UNKNOWN_CALLER: dict[str, tuple[str, Prepare]] = {
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
    "too large for any request": ("request_too_large", lambda world: b"x" * ((2 << 20) + 1)),
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
    # JSON that two parsers read differently, or that one should not read at all
    "field twice, the first one right": (
        "malformed_request",
        text(lambda good: good[:-1] + ',"ak_public":"AAA="}'),
    ),
    "byte order mark": ("malformed_request", text(lambda good: "\ufeff" + good)),
    "second value": ("malformed_request", text(lambda good: good + "{}")),
    "comment": ("malformed_request", text(lambda good: good + "/**/")),
    "trailing comma": ("malformed_request", text(lambda good: good[:-1] + ",}")),
    "version NaN": ("malformed_request", text(lambda good: good.replace('"version":1', '"version":NaN'))),
    "version 1.0": ("malformed_request", text(lambda good: good.replace('"version":1', '"version":1.5'))),
    "version true": ("malformed_request", text(lambda good: good.replace('"version":1', '"version":true'))),
    "version of 5000 digits": (
        "malformed_request",
        text(lambda good: good.replace('"version":1', '"version":' + "9" * 5000)),
    ),
    "version 1e400": ("malformed_request", text(lambda good: good.replace('"version":1', '"version":1e400'))),
    "invalid UTF-8 in a text": (
        "malformed_request",
        lambda world: world.request().replace(b'"assertion":"', b'"assertion":"\xff'),
    ),
    "lone surrogate": (
        "malformed_request",
        text(lambda good: good.replace('"assertion":"', '"assertion":"\\ud800')),
    ),
    "UTF-16": ("malformed_request", lambda world: world.request().decode().encode("utf-16")),
    "field in another case": ("malformed_request", text(lambda good: good.replace("ek_public", "EK_public"))),
    "null for a field": ("malformed_request", text(lambda good: good.replace(":[", ':null,"x":['))),
    "base64url for base64": ("malformed_request", changed(ak_public="__--")),
    "base64 with white space": ("malformed_request", changed(ak_public="AA A=")),
    "base64 without padding": ("malformed_request", changed(ak_public="AAA")),
    # algorithms and headers of the assertion's JWS
    "assertion unsigned": ("assertion_invalid", jws({"alg": "none"}, key=lambda signed: b"")),
    "assertion unsigned, ES256": ("assertion_invalid", jws(key=lambda signed: b"")),
    "assertion with a signature of zeros": ("assertion_invalid", jws(key=lambda signed: bytes(64))),
    "assertion with a DER signature": ("assertion_invalid", jws(key=lambda signed: b"0\6\2\1\1\2\1\1")),
    "assertion by HS256 with the public key": ("assertion_invalid", hs256_with_the_public_key),
    "assertion says ES512": ("assertion_invalid", jws({"alg": "ES512"})),
    "assertion says es256": ("assertion_invalid", jws({"alg": "es256"})),
    "assertion by the key in its header": ("assertion_invalid", own_key_in_the_header),
    "assertion with x5u": ("assertion_invalid", jws({"x5u": "https://evil.test/key.pem"})),
    "assertion with jku": ("assertion_invalid", jws({"jku": "https://evil.test/keys"})),
    "assertion with kid": ("assertion_invalid", jws({"kid": "A" * 43})),
    "assertion with x5c": ("assertion_invalid", jws({"x5c": ["AAAA"]})),
    "assertion with crit": ("assertion_invalid", jws({"crit": ["exp"]})),
    "assertion with b64": ("assertion_invalid", jws({"b64": False})),
    "assertion with typ of a token": ("assertion_invalid", jws({"typ": "ti-token+jwt"})),
    "assertion without typ": ("assertion_invalid", jws({"typ": None})),
    "assertion naming no certificate": ("principal_unknown", jws({"x5t#S256": None})),
    "assertion naming another certificate": ("principal_unknown", jws({"x5t#S256": "A" * 43})),
    "assertion in another text": ("assertion_invalid", malleable),
    "assertion of four parts": (
        "assertion_invalid",
        lambda world: world.request(assertion=world.assertion(world.host) + ".AA"),
    ),
    "assertion with padding": (
        "assertion_invalid",
        lambda world: world.request(assertion=world.assertion(world.host) + "="),
    ),
    "assertion of 20000 characters": ("assertion_invalid", changed(assertion="A" * 20_000)),
    "assertion with a letter of Cyrillic": ("assertion_invalid", changed(assertion="\u0430.b.c")),
    # its claims
    "assertion with a further claim": (
        "assertion_invalid",
        claims_text(lambda claims: claims[:-1] + b',"admin":true}'),
    ),
    "assertion with sub twice": (
        "assertion_invalid",
        claims_text(lambda claims: claims[:-1] + b',"sub":"host2"}'),
    ),
    "assertion with exp as text": (
        "assertion_invalid",
        claims_text(lambda claims: claims.replace(b'"exp":', b'"exp":"9","x":')),
    ),
    "assertion with exp beyond 64 bits": ("assertion_invalid", assertion(exp=2**63)),
    "assertion that ends before it begins": ("assertion_expired", assertion(iat=NOW, exp=NOW - 10)),
    "assertion that ends now": ("assertion_expired", assertion(iat=NOW - 60, exp=NOW)),
    "assertion begins in 61 s": ("assertion_invalid", assertion(iat=NOW + 61)),
    "assertion with an EK digest in capitals": ("assertion_invalid", assertion(ek_digest="AB" * 32)),
    "assertion for nobody": ("assertion_invalid", assertion(sub="")),
    "assertion for a list of clusters": (
        "assertion_invalid",
        claims_text(lambda claims: claims.replace(b'"group-1"', b'["group-1"]')),
    ),
    "principal's certificate ended": (
        "certificate_expired",
        ended_principal,
    ),
}

# The endorsement key, and what the administrators of both sides say of it.
ENROLMENT: dict[str, tuple[str, Prepare]] = {
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
    "no base image": ("no_base_image", without(("base_image", "image-1"))),
    "no base image for the scope": ("no_base_image", documents("scope", SCOPE, base_images=["image-2"])),
    # the public area's form: what is signed and hashed has to be read to its last byte, in one way
    "EK with a tail": ("malformed_request", public_area(lambda area: area + b"\0", "ek_public")),
    "EK with a tail inside": ("malformed_request", public_area(longer, "ek_public")),
    "EK empty": ("malformed_request", changed(ek_public="")),
    "EK size zero": ("malformed_request", changed(ek_public="AAA=")),
    "EK of 2000 bytes": ("malformed_request", changed(ek_public="A" * 2668)),
    "EK of a keyed hash": ("malformed_request", public_area(at(2, b"\0\x08"), "ek_public")),
    "EK with reserved attributes": ("malformed_request", public_area(at(6, b"\xff"), "ek_public")),
    "EK with one bit more": ("ek_mismatch", public_area(at(9, b"\xf2"), "ek_public")),
    "EK can leave its parent": ("ek_attributes", ek(attributes=EK & ~Attributes.FIXED_PARENT)),
    "EK cannot decrypt": ("ek_attributes", ek(attributes=EK & ~Attributes.DECRYPT)),
    "EK is RSA-4096": ("ek_weak", ek(kind="rsa4096")),
    "EK named by SHA-1": ("ek_weak", ek(name_alg=algorithms.SHA1)),
    "EK with AES-192": ("ek_weak", ek(aes=192)),
    "EK with AES in CBC": ("ek_weak", ek(symmetric=Symmetric(algorithms.AES, 128, 0x0042))),
    "EK with exponent 3": ("ek_weak", ek(kind="rsa2048", exponent=3)),
    "EK with a scheme": (
        "ek_attributes",
        ek(scheme=Scheme(algorithms.ECDSA, algorithms.SHA256)),
    ),
    "certificate cut": (
        "ek_certificate_invalid",
        certificates(lambda world: [world.host.certificates[0][:-9]]),
    ),
    "certificate with a tail": (
        "ek_certificate_invalid",
        certificates(lambda world: [world.host.certificates[0] + b"\1"]),
    ),
    "certificate changed": (
        "ek_certificate_invalid",
        certificates(lambda world: [at(-1, b"\x55")(world.host.certificates[0])]),
    ),
    "certificate of 17 KiB": (
        "ek_certificate_invalid",
        certificates(lambda world: [world.host.certificates[0] + bytes(17 * 1024)]),
    ),
    "certificate that the host's own root issued": ("ek_certificate_invalid", own_root),
    "certificate of the CA itself": (
        "ek_mismatch",
        certificates(lambda world: [world.vendor.certificate.public_bytes(DER)]),
    ),
    "too often": ("rate_limited", too_often),
}

# The attestation key: what an administrator never sees, so only its own properties speak for it.
ATTESTATION_KEY: dict[str, tuple[str, Prepare]] = {
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
    "AK with a tail": ("malformed_request", public_area(lambda area: area + b"\0")),
    "AK with a tail inside": ("malformed_request", public_area(longer)),
    "AK without its last byte": ("malformed_request", public_area(lambda area: area[:-1])),
    "AK off the curve": ("malformed_request", public_area(at(-1, b"\x55"))),
    "AK is a template": ("malformed_request", public_area(lambda area: sized(area[2:-68] + bytes(4)))),
    "AK with reserved attributes": ("malformed_request", public_area(at(6, b"\xff"))),
    "AK with a policy of 5 bytes": (
        "malformed_request",
        public_area(lambda area: sized(area[2:10] + b"\0\x0512345" + area[12:])),
    ),
    "AK cannot sign": ("ak_attributes", ak(attributes=AK & ~Attributes.SIGN)),
    "AK is P-224": ("ak_weak", ak(kind="p224")),
    "AK is RSA-4096": ("ak_weak", ak(kind="rsa4096")),
    "AK with exponent 3": ("ak_weak", ak(kind="rsa2048", exponent=3)),
    "AK of ECDAA": ("ak_attributes", ak(scheme=Scheme(algorithms.ECDAA, algorithms.SHA256))),
    "AK of SM2": ("ak_attributes", ak(scheme=Scheme(algorithms.SM2, algorithms.SHA256))),
    "AK that encrypts": ("ak_attributes", ak(kind="rsa2048", scheme=Scheme(algorithms.RSAES))),
}

# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service's identity key signs: its key set, and the head of its audit log. docs/protocol.md 6, 10."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from trusted_infrastructure import identity
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens.jws import (
    SKEW,
    Claims,
    Hex256,
    Number,
    PrivateKey,
    PublicKey,
    Text,
    coordinates,
    from_jwk,
    read_header,
    require_p256,
    sign,
    thumbprint,
    unverified_payload,
    verify,
)

KEY_SET_TYPE = "ti-keys+jws"
AUDIT_HEAD_TYPE = "ti-audit-head+jws"
MAX_KEY_SET_LIFETIME = 7 * 86400


class KeySet(NamedTuple):
    """Verified keys of one service. keys: kid -> key.

    expires, issued: Unix seconds; after `expires` it is read again.
    """

    service_id: str
    host: str
    keys: Mapping[str, PublicKey]
    expires: int
    issued: int = 0


class _SetKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    x: str
    y: str
    kid: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"
    use: Literal["sig"] = "sig"
    alg: Literal["ES256"] = "ES256"


class _KeySetClaims(Claims, frozen=True):
    service_id: Text
    keys: Annotated[list[_SetKey], msgspec.Meta(min_length=1, max_length=16)]
    iat: int
    exp: int


class AuditHeadClaims(Claims, frozen=True):
    """Where an audit chain stands: `audit.Head` of one service at a time (iat, Unix seconds).

    security_generation: of the configuration that the service has; None when it has none.
    """

    service_id: Text
    chain: Text
    seq: Number
    hash: Hex256
    iat: int
    security_generation: Number | None = None


def sign_key_set(
    keys: Mapping[str, PublicKey],
    service_id: str,
    identity_key: PrivateKey,
    identity_chain: Sequence[str],
    now: int,
    lifetime: int,
) -> str:
    """A service's keys, signed by its identity. identity_chain: PEM, leaf first. lifetime: seconds."""
    members = []
    for kid, key in keys.items():
        x, y = coordinates(key)
        members.append(_SetKey(kid=kid, x=x, y=y))
    claims = _KeySetClaims(service_id=service_id, keys=members, iat=now, exp=now + lifetime)
    return sign(claims, identity_key, {"typ": KEY_SET_TYPE, "x5c": _x5c(identity_chain)})


def verify_key_set(
    jws: str, ca_pem: str, side: str, role: str, allowed_hosts: Collection[str], now: int
) -> KeySet:
    """Verify a key set up to the anchor `ca_pem`; answers whose keys they are.

    side, role: what the signing certificate must be for; allowed_hosts: host ids from the anchors.
    The service id must be the certificate's own: "<service>@<host>".
    Raises Refusal `key_set_invalid`, `certificate_invalid`, `certificate_expired`.
    """
    code = "key_set_invalid"
    host, identity_key = _identity_of(jws, KEY_SET_TYPE, ca_pem, side, role, now, code)
    if host not in allowed_hosts:
        raise Refusal(code, f"host {host!r} is not in the anchors", "Deploy the anchors again.", 401)
    claims = verify(jws, identity_key, _KeySetClaims, code)
    _check_service(claims.service_id, host, code)
    if claims.iat > now + SKEW or now >= claims.exp or claims.exp - claims.iat > MAX_KEY_SET_LIFETIME:
        raise Refusal(code, f"valid from {claims.iat} to {claims.exp}, now is {now}", status=401)
    keys = {}
    for member in claims.keys:
        key = from_jwk(member.x, member.y, code)
        if member.kid != thumbprint(key):
            raise Refusal(code, f"kid {member.kid[:64]!r} is not the thumbprint of its key", status=401)
        keys[member.kid] = key
    return KeySet(claims.service_id, host, keys, claims.exp, claims.iat)


def sign_audit_head(claims: AuditHeadClaims, identity_key: PrivateKey, identity_chain: Sequence[str]) -> str:
    """Where a service's audit chain stands, signed by its identity, to be kept by peers and managers."""
    return sign(claims, identity_key, {"typ": AUDIT_HEAD_TYPE, "x5c": _x5c(identity_chain)})


def verify_audit_head(jws: str, ca_pem: str, side: str, role: str, now: int) -> AuditHeadClaims:
    """Verify a signed audit head. Raises Refusal `audit_head_invalid`, `certificate_invalid`,
    `certificate_expired`."""
    code = "audit_head_invalid"
    host, identity_key = _identity_of(jws, AUDIT_HEAD_TYPE, ca_pem, side, role, now, code)
    claims = verify(jws, identity_key, AuditHeadClaims, code)
    _check_service(claims.service_id, host, code)
    return claims


def verify_kept_audit_head(jws: str, ca_pem: str, side: str, role: str) -> AuditHeadClaims:
    """Verify a head that was kept: its certificate must have been valid when it was signed.

    A head must outlive the certificate: it says what a log held once. Raises as `verify_audit_head`.
    """
    code = "audit_head_invalid"
    read_header(jws, AUDIT_HEAD_TYPE, "x5c", code)
    signed_at = unverified_payload(jws, AuditHeadClaims, code).iat
    return verify_audit_head(jws, ca_pem, side, role, signed_at)


def _x5c(chain: Sequence[str]) -> list[str]:
    certificates = [x509.load_pem_x509_certificate(pem.encode()) for pem in chain]
    return [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode() for one in certificates]


def _identity_of(
    jws: str, media_type: str, ca_pem: str, side: str, role: str, now: int, code: str
) -> tuple[str, PublicKey]:
    """Host and key of the certificate that came with a JWS, after the certificate was verified."""
    header = read_header(jws, media_type, "x5c", code)
    try:
        chain = [
            identity.load_der_certificate(base64.b64decode(text, validate=True))
            for text in (header.x5c or [])[:4]
        ]
        leaf = chain[0]
    except (ValueError, IndexError, Refusal):
        raise Refusal(code, "the certificate that came with it (x5c) cannot be read", status=401) from None
    host = identity.verify_leaf(leaf, ca_pem, side, role, now, chain[1:])
    return host, require_p256(leaf.public_key(), code)


def _check_service(service_id: str, host: str, code: str) -> None:
    if service_id.partition("@")[2] != host:
        raise Refusal(code, f"service id {service_id!r} is not of host {host!r}", status=401)

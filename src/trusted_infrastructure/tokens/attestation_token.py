# SPDX-License-Identifier: GPL-3.0-or-later
"""The attestation token: what an attestation service says of a host. docs/protocol.md 4."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens.jws import (
    SKEW,
    Claims,
    Hex256,
    PrivateKey,
    PublicKey,
    ReadableName,
    Text,
    read_header,
    sign,
    verify,
)

TOKEN_TYPE = "ti-token+jwt"  # noqa: S105 - a media type, not a password
MAX_TOKEN_LIFETIME = 86400


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cnf` (RFC 7800). jkt: RFC 7638 thumbprint of the proof key."""

    jkt: Text


class SealingTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What keys are sealed to. suite: name from `sealing.SUITES`; digest: SHA-256 (hex) of the raw public
    key."""

    suite: Text
    digest: Hex256


class TokenClaims(Claims, frozen=True):
    """What an attestation service says of a host. Times in Unix seconds.

    iss: id of the attestation service. aud: group of the Trust Authority Cluster. sub: host id.
    ek_digest: SHA-256 (hex) of the EK's public area. base_image, userspace: what it booted, and what covers
    its user space. reset_count, restart_count: of its TPM, at attestation.
    """

    iss: Text
    aud: Text
    sub: ReadableName
    scope: Text
    principal: Text
    ek_digest: Hex256
    base_image: Text
    userspace: Literal["verity", "ima", "none"]
    security_generation: int
    reset_count: int
    restart_count: int
    iat: int
    nbf: int
    exp: int
    jti: Text
    cnf: Confirmation
    hpke: SealingTarget


def sign_token(claims: TokenClaims, key: PrivateKey, kid: str) -> str:
    """The token as a compact JWS. kid: thumbprint of the key, as published in the key set."""
    return sign(claims, key, {"typ": TOKEN_TYPE, "kid": kid})


def unverified_kid(token: str) -> str:
    """The key id that a token names, to find out which key set is needed. Raises Refusal `token_invalid`."""
    kid = read_header(token, TOKEN_TYPE, "kid", "token_invalid").kid
    if not kid:
        raise Refusal("token_invalid", "the token names no key (kid)", status=401)
    return kid


def verify_token(
    token: str,
    keys: Mapping[str, PublicKey],
    audience: str,
    now: int,
    issuers: Mapping[str, Collection[str]] | None = None,
) -> TokenClaims:
    """Verify a token and answer its claims.

    keys: kid -> key of the attestation services. issuers: kid -> service ids, when given: `iss` must be a
    service that published the key, so that one host cannot speak in another's name. Raises Refusal (401)
    `token_invalid`, `token_expired`, `token_audience`.
    """
    kid = unverified_kid(token)
    if kid not in keys:
        raise Refusal("token_invalid", f"no known attestation service has key {kid[:64]!r}", status=401)
    claims = verify(token, keys[kid], TokenClaims, "token_invalid")
    check_token(claims, kid, audience, now, issuers)
    return claims


def check_token(
    claims: TokenClaims,
    kid: str,
    audience: str,
    now: int,
    issuers: Mapping[str, Collection[str]] | None = None,
) -> None:
    """All of `verify_token` but the signature: of claims that key `kid` signed. Raises as it does."""
    if issuers is not None and claims.iss not in issuers.get(kid, ()):
        raise Refusal("token_invalid", f"key {kid} does not belong to issuer {claims.iss!r}", status=401)
    if claims.aud != audience:
        raise Refusal("token_audience", f"expected {audience!r}, found {claims.aud!r}", status=401)
    if claims.exp - claims.iat > MAX_TOKEN_LIFETIME:
        raise Refusal("token_invalid", f"valid for more than {MAX_TOKEN_LIFETIME} s", status=401)
    if max(claims.nbf, claims.iat) > now + SKEW:
        raise Refusal("token_invalid", "not valid yet: compare the clocks of the hosts", status=401)
    if now >= claims.exp:
        raise Refusal("token_expired", f"ended {now - claims.exp} s ago", "Attest again.", status=401)

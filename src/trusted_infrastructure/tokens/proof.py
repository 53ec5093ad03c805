# SPDX-License-Identifier: GPL-3.0-or-later
"""Proofs of possession (DPoP, RFC 9449) that also hold the digest of the body. docs/protocol.md 5."""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens.jws import (
    PrivateKey,
    from_jwk,
    jwk,
    read_header,
    sha256,
    sign,
    thumbprint,
    verify,
)

PROOF_TYPE = "dpop+jwt"
PROOF_WINDOW = 60


class _ProofClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    jti: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    htm: str
    htu: str
    iat: int
    ath: str
    body: str


def make_proof(
    key: PrivateKey, method: str, url: str, body: bytes, token: str, now: int, jti: str | None = None
) -> tuple[str, str]:
    """A DPoP proof (RFC 9449) that also holds the body's SHA-256; answers (proof, jti)."""
    jti = secrets.token_urlsafe(24) if jti is None else jti
    claims = _ProofClaims(
        jti=jti, htm=method, htu=_target(url), iat=now, ath=sha256(token.encode()), body=sha256(body)
    )
    return sign(claims, key, {"typ": PROOF_TYPE, "jwk": jwk(key.public_key())}), jti


def verify_proof(proof: str, method: str, url: str, body: bytes, token: str, jkt: str, now: int) -> str:
    """Verify the proof that came with `token`; answers its jti.

    url: of the configured public name, never made from the Host header. jkt: thumbprint from the token.
    Raises Refusal (401) `proof_invalid`, `proof_expired`, `proof_mismatch`.
    """
    header = read_header(proof, PROOF_TYPE, "jwk", "proof_invalid")
    if header.jwk is None:
        raise Refusal("proof_invalid", "the proof carries no key (jwk)", status=401)
    key = from_jwk(header.jwk.x, header.jwk.y, "proof_invalid")
    if not hmac.compare_digest(thumbprint(key).encode(), jkt.encode()):
        raise Refusal(
            "proof_mismatch", "the proof's key is not the one that the token is bound to", status=401
        )
    claims = verify(proof, key, _ProofClaims, "proof_invalid")
    expected = {"htm": method, "htu": _target(url), "ath": sha256(token.encode()), "body": sha256(body)}
    for name, value in expected.items():
        if getattr(claims, name) != value:
            raise Refusal("proof_mismatch", f"the proof's {name} is not this request's", status=401)
    if abs(now - claims.iat) > PROOF_WINDOW:
        raise Refusal(
            "proof_expired",
            f"made {now - claims.iat} s ago, allowed are {PROOF_WINDOW} s",
            "Compare the clocks of the hosts.",
            status=401,
        )
    return claims.jti


def _target(url: str) -> str:
    """`htu` (RFC 9449 section 4.3): scheme, host and path, without query and fragment; host in lower case."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path or '/'}"

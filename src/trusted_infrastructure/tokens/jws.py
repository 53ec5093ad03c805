# SPDX-License-Identifier: GPL-3.0-or-later
"""What all kinds share: JWS compact form (RFC 7515) with ES256, and P-256 keys as JWK (RFC 7517).

The rules are in the package's docstring. `code` is the reason code of refusals, which have status 401.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.refusal import Refusal

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

MAX_SIZE = 16384
SKEW = 60

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
# People read these, and managers take no other: no control characters, none that turn the direction of text.
ReadableName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\Z"
    ),
]
# What databases keep: SQLite has integers of 64 bits.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Hex256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all payloads of our own. version: 1 in this release."""

    version: Literal[1] = 1


class Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public P-256 key (RFC 7518, 6.2). A private one, with "d", is an unknown field and refused."""

    x: str
    y: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """All header parameters that we understand; any other is refused. RFC 7515, 4.1; x5t: of SHA-256."""

    alg: Literal["ES256"]
    typ: str
    kid: str | None = None
    jwk: Jwk | None = None
    x5c: list[str] | None = None
    x5t: str | None = msgspec.field(default=None, name="x5t#S256")


_KEY_PARAMETERS = frozenset({"kid", "jwk", "x5c", "x5t"})

Decoded = TypeVar("Decoded", bound=msgspec.Struct)

_JWS = jwt.PyJWS(algorithms=["ES256"])


def sign(claims: msgspec.Struct, key: PrivateKey, header: Mapping[str, object]) -> str:
    """A compact JWS of `claims`. header: at least `typ`."""
    return _JWS.encode(msgspec.json.encode(claims), key, algorithm="ES256", headers=dict(header))


def verify(token: str, key: PublicKey, claims: type[Decoded], code: str) -> Decoded:
    """The claims, after the signature was verified. Call `read_header` on the token before."""
    try:
        payload = _JWS.decode_complete(token, key, algorithms=["ES256"])["payload"]
    except jwt.InvalidTokenError:
        raise Refusal(code, "the signature does not verify", status=401) from None
    return _decode(payload, claims, code)


def read_header(token: str, media_type: str, parameter: str, code: str) -> Header:
    """The header of a token of this `typ`, not verified: it only says which key to verify with.

    parameter: the one by which this kind says it ("kid", "jwk", "x5c" or "x5t"); the others are refused.
    """
    if len(token) > MAX_SIZE or not token.isascii():
        raise Refusal(code, f"is longer than {MAX_SIZE} characters, or not ASCII", status=401)
    parts = token.split(".")
    if len(parts) != 3:
        raise Refusal(code, "is not a compact JWS", status=401)
    header = _decode(_segment(parts[0], code), Header, code)
    if header.typ != media_type:
        raise Refusal(code, f"expected typ {media_type!r}, found {header.typ[:64]!r}", status=401)
    # Without this, two places could name a key, and a reader could take the wrong one.
    for other in _KEY_PARAMETERS - {parameter}:
        if getattr(header, other) is not None:
            raise Refusal(code, f"the header must not have {other}", status=401)
    return header


def unverified_payload(token: str, claims: type[Decoded], code: str) -> Decoded:
    """The claims without verification: to find the key that must then verify them, nothing else."""
    return _decode(_segment(token.split(".")[1], code), claims, code)


def _decode(data: bytes, struct: type[Decoded], code: str) -> Decoded:
    try:
        decoded = msgspec.json.decode(data, type=struct)
        repeated = repeated_name(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(code, f"cannot be read: {str(error)[:200]}", status=401) from None
    if repeated is not None:
        raise Refusal(code, f"has {repeated[:64]!r} more than once", status=401)
    return decoded


def jwk(key: PublicKey) -> dict[str, str]:
    """The public key as a JWK (RFC 7517): kty, crv, x, y."""
    x, y = coordinates(key)
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def thumbprint(key: PublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint of a P-256 key, base64url: used as kid and as `jkt`."""
    x, y = coordinates(key)
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return sha256(canonical.encode())


def public_key_from_jwk(x: str, y: str) -> PublicKey:
    """P-256 key from base64url coordinates. Raises Refusal `malformed_request` (400) when there is none."""
    return from_jwk(x, y, "malformed_request", 400)


def coordinates(key: PublicKey) -> tuple[str, str]:
    """x and y of a P-256 key, base64url of 32 bytes each."""
    numbers = key.public_numbers()
    return base64url(numbers.x.to_bytes(32, "big")), base64url(numbers.y.to_bytes(32, "big"))


def from_jwk(x: str, y: str, code: str, status: int = 401) -> PublicKey:
    """P-256 key from base64url coordinates; refuses what is not a point of the curve."""
    try:
        # Canonical text only: a key has one encoding, and so one thumbprint.
        point = [_base64url_decode(part) for part in (x, y)]
        if any(len(part) != 32 for part in point):
            raise ValueError("32 bytes each")
        return PublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point[0] + point[1])
    except ValueError:
        raise Refusal(code, "the key (jwk) is not a point of P-256", status=status) from None


def require_p256(key: object, code: str) -> PublicKey:
    """`key` itself when it is a P-256 public key; refuses any other."""
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refusal(code, "the certificate's key is not P-256, which ES256 needs", status=401)
    return key


def sha256(data: bytes) -> str:
    """SHA-256 as base64url."""
    return base64url(hashlib.sha256(data).digest())


def base64url(data: bytes) -> str:
    """RFC 7515 base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _segment(text: str, code: str) -> bytes:
    try:
        return _base64url_decode(text)
    except ValueError:
        raise Refusal(code, "is not a compact JWS", status=401) from None

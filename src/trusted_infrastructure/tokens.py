# SPDX-License-Identifier: GPL-3.0-or-later
"""The signed JSON that parts of the system show each other. Pure: no I/O; the time is an argument.

| what           | signed by                           | judged by             | `typ` header          |
| -------------- | ----------------------------------- | --------------------- | --------------------- |
| token          | token key of an attestation service | key provider services | ti-token+jwt          |
| host assertion | a workload manager's principal      | attestation services  | ti-host-assertion+jwt |
| proof          | the host's proof key (RFC 9449)     | key provider services | dpop+jwt              |
| key set        | a service's identity key (x5c)      | whoever uses its keys | ti-keys+jws           |

Rules, for every one of them
- ES256 over P-256 and nothing else, whatever the header says; each kind has a `typ` of its own, so that none
  can be shown in place of another; an unknown header parameter is refused (so `crit`, `b64`, `jku` and their
  like are).
- A size limit comes before any parsing. All claims are required, unknown ones are refused, and `version` is
  1.
- Times are compared with the `now` of the caller, with SKEW seconds of tolerance for what is not valid yet;
  what has ended has ended. No lifetime above its limit is accepted, whoever signed.
- Nothing of a payload is used before its signature was verified, but for the issuer of an assertion and the
  jwk of a proof, which say which key to verify with.

What is not checked here: whether a jti was used before, deny lists, security generations, scopes. Callers do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.refusal import Refusal

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

MAX_SIZE = 16384
SKEW = 60
MAX_TOKEN_LIFETIME = 86400
MAX_ASSERTION_LIFETIME = 90 * 86400
MAX_KEY_SET_LIFETIME = 7 * 86400
PROOF_WINDOW = 60

TOKEN_TYPE = "ti-token+jwt"  # noqa: S105 - a media type, not a password
ASSERTION_TYPE = "ti-host-assertion+jwt"
PROOF_TYPE = "dpop+jwt"
KEY_SET_TYPE = "ti-keys+jws"

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Hex256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1] = 1


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cnf` (RFC 7800). jkt: RFC 7638 thumbprint of the proof key."""

    jkt: Text


class SealingTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What keys are sealed to. suite: name from `sealing.SUITES`; digest: SHA-256 (hex) of the raw public
    key."""

    suite: Text
    digest: Hex256


class TokenClaims(_Claims, frozen=True):
    """What an attestation service says of a host. PROTOCOL 4. Times in Unix seconds.

    iss: id of the attestation service. aud: group of the Trust Authority Cluster. sub: host id.
    ek_digest: SHA-256 (hex) of the EK's public area. base_image, userspace: what it booted, and what covers
    its user space. reset_count, restart_count: of its TPM, at attestation.
    """

    iss: Text
    aud: Text
    sub: Text
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


class AssertionClaims(_Claims, frozen=True):
    """What a workload manager vouches for: this host (sub) is of this scope and has this TPM. PROTOCOL 3.0.

    iss: issuer of the principal. aud: group of the Trust Authority Cluster. ek_digest: SHA-256 (hex) of
    exactly one EK public area.
    """

    iss: Text
    sub: Text
    scope: Text
    ek_digest: Hex256
    aud: Text
    iat: int
    exp: int
    jti: Text


class Principal(NamedTuple):
    """Whose assertions are accepted. chains: PEM certificates, leaf first; the leaves' keys sign."""

    issuer: str
    chains: Sequence[Sequence[str]]


class KeySet(NamedTuple):
    """Verified keys of one service. keys: kid -> key. expires: Unix seconds, after which it is read again."""

    service_id: str
    host: str
    keys: Mapping[str, PublicKey]
    expires: int


class _Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    x: str
    y: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"


class _SetKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    x: str
    y: str
    kid: str
    kty: Literal["EC"] = "EC"
    crv: Literal["P-256"] = "P-256"
    use: Literal["sig"] = "sig"
    alg: Literal["ES256"] = "ES256"


class _KeySetClaims(_Claims, frozen=True):
    service_id: Text
    keys: Annotated[list[_SetKey], msgspec.Meta(min_length=1, max_length=16)]
    iat: int
    exp: int


class _ProofClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    jti: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    htm: str
    htu: str
    iat: int
    ath: str
    body: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    alg: Literal["ES256"]
    typ: str
    kid: str | None = None
    jwk: _Jwk | None = None
    x5c: list[str] | None = None
    x5t: str | None = msgspec.field(default=None, name="x5t#S256")


Claims = TypeVar("Claims", bound=msgspec.Struct)


# ---- tokens -----------------------------------------------------------------------------------------------


def sign_token(claims: TokenClaims, key: PrivateKey, kid: str) -> str:
    """The token as a compact JWS. kid: thumbprint of the key, as published in the key set."""
    return _sign(claims, key, {"typ": TOKEN_TYPE, "kid": kid})


def unverified_kid(token: str) -> str:
    """The key id that a token names, to find out which key set is needed. Raises Refusal `token_invalid`."""
    kid = _header(token, TOKEN_TYPE, "token_invalid").kid
    if not kid:
        raise Refusal("token_invalid", "the token names no key (kid)", status=401)
    return kid


def verify_token(
    token: str,
    keys: Mapping[str, PublicKey],
    audience: str,
    now: int,
    issuers: Mapping[str, str] | None = None,
) -> TokenClaims:
    """Verify a token and answer its claims.

    keys: kid -> key of the attestation services. issuers: kid -> service id, when given: `iss` must be the
    service that published the key, so that one host cannot speak in another's name. Raises Refusal (401)
    `token_invalid`, `token_expired`, `token_audience`.
    """
    kid = unverified_kid(token)
    if kid not in keys:
        raise Refusal("token_invalid", f"no known attestation service has key {kid[:64]!r}", status=401)
    claims = _verify(token, keys[kid], TokenClaims, "token_invalid")
    if issuers is not None and issuers.get(kid) != claims.iss:
        raise Refusal("token_invalid", f"key {kid} does not belong to issuer {claims.iss!r}", status=401)
    if claims.aud != audience:
        raise Refusal("token_audience", f"expected {audience!r}, found {claims.aud!r}", status=401)
    if claims.exp - claims.iat > MAX_TOKEN_LIFETIME:
        raise Refusal("token_invalid", f"valid for more than {MAX_TOKEN_LIFETIME} s", status=401)
    if max(claims.nbf, claims.iat) > now + SKEW:
        raise Refusal("token_invalid", "not valid yet: compare the clocks of the hosts", status=401)
    if now >= claims.exp:
        raise Refusal("token_expired", f"ended {now - claims.exp} s ago", "Attest again.", status=401)
    return claims


# ---- host assertions --------------------------------------------------------------------------------------


def sign_assertion(claims: AssertionClaims, key: PrivateKey, certificate: str) -> str:
    """The assertion as a compact JWS. certificate: the principal's leaf (PEM), named by its SHA-256."""
    thumbprint = _certificate_thumbprint(x509.load_pem_x509_certificate(certificate.encode()))
    return _sign(claims, key, {"typ": ASSERTION_TYPE, "x5t#S256": thumbprint})


def verify_assertion(
    assertion: str, principals: Sequence[Principal], audience: str, now: int
) -> AssertionClaims:
    """Verify a host assertion and answer its claims.

    The principal's leaf certificates are pinned: they were imported one by one, so their chains add nothing.
    Raises Refusal `assertion_invalid`, `assertion_expired`, `principal_unknown`, `certificate_expired`.
    """
    code = "assertion_invalid"
    remedy = "The workload manager renews the assertion when it replicates to the host."
    header = _header(assertion, ASSERTION_TYPE, code)
    issuer = _payload(assertion, AssertionClaims, code).iss
    leaf = _principal_leaf(issuer, header.x5t, principals, now)
    claims = _verify(assertion, leaf, AssertionClaims, code)
    if claims.aud != audience:
        raise Refusal(code, f"is for Trust Authority Cluster {claims.aud!r}, this is {audience!r}", remedy)
    if claims.exp - claims.iat > MAX_ASSERTION_LIFETIME:
        raise Refusal(code, f"valid for more than {MAX_ASSERTION_LIFETIME} s", remedy)
    if claims.iat > now + SKEW:
        raise Refusal(code, f"issued {claims.iat - now} s in the future: compare the clocks", remedy)
    if now >= claims.exp:
        raise Refusal("assertion_expired", f"ended {now - claims.exp} s ago", remedy)
    return claims


def _principal_leaf(
    issuer: str, named: str | None, principals: Sequence[Principal], now: int
) -> PublicKey:
    known = [principal for principal in principals if principal.issuer == issuer]
    remedy = "Import the workload manager's principal on the Trust Authority side (trust_authority role)."
    if not known:
        raise Refusal("principal_unknown", f"no principal has issuer {issuer[:255]!r}", remedy)
    for chain in (chain for principal in known for chain in principal.chains if chain):
        certificate = x509.load_pem_x509_certificate(chain[0].encode())
        if named != _certificate_thumbprint(certificate):
            continue
        _check_validity(certificate, now)
        return _p256(certificate.public_key(), "assertion_invalid")
    raise Refusal("principal_unknown", f"issuer {issuer!r} did not import the signing certificate", remedy)


# ---- proofs -----------------------------------------------------------------------------------------------


def make_proof(
    key: PrivateKey, method: str, url: str, body: bytes, token: str, now: int, jti: str | None = None
) -> tuple[str, str]:
    """A DPoP proof (RFC 9449) that also holds the body's SHA-256; answers (proof, jti)."""
    jti = secrets.token_urlsafe(24) if jti is None else jti
    claims = _ProofClaims(
        jti=jti, htm=method, htu=_target(url), iat=now, ath=_sha256(token.encode()), body=_sha256(body)
    )
    return _sign(claims, key, {"typ": PROOF_TYPE, "jwk": jwk(key.public_key())}), jti


def verify_proof(proof: str, method: str, url: str, body: bytes, token: str, jkt: str, now: int) -> str:
    """Verify the proof that came with `token`; answers its jti.

    url: of the configured public name, never made from the Host header. jkt: thumbprint from the token.
    Raises Refusal (401) `proof_invalid`, `proof_expired`, `proof_mismatch`.
    """
    header = _header(proof, PROOF_TYPE, "proof_invalid")
    if header.jwk is None:
        raise Refusal("proof_invalid", "the proof carries no key (jwk)", status=401)
    key = _from_jwk(header.jwk.x, header.jwk.y, "proof_invalid")
    if not hmac.compare_digest(thumbprint(key).encode(), jkt.encode()):
        raise Refusal(
            "proof_mismatch", "the proof's key is not the one that the token is bound to", status=401
        )
    claims = _verify(proof, key, _ProofClaims, "proof_invalid")
    expected = {"htm": method, "htu": _target(url), "ath": _sha256(token.encode()), "body": _sha256(body)}
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


# ---- key sets ---------------------------------------------------------------------------------------------


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
        x, y = _coordinates(key)
        members.append(_SetKey(kid=kid, x=x, y=y))
    claims = _KeySetClaims(service_id=service_id, keys=members, iat=now, exp=now + lifetime)
    certificates = [x509.load_pem_x509_certificate(pem.encode()) for pem in identity_chain]
    x5c = [
        base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        for certificate in certificates
    ]
    return _sign(claims, identity_key, {"typ": KEY_SET_TYPE, "x5c": x5c})


def verify_key_set(
    jws: str, ca_pem: str, side: str, role: str, allowed_hosts: Collection[str], now: int
) -> KeySet:
    """Verify a key set up to the anchor `ca_pem`; answers whose keys they are.

    side, role: what the signing certificate must be for; allowed_hosts: host ids from the anchors.
    The service id must be the certificate's own: "<service>@<host>".
    Raises Refusal `key_set_invalid`, `certificate_invalid`, `certificate_expired`.
    """
    from trusted_infrastructure import identity

    code = "key_set_invalid"
    header = _header(jws, KEY_SET_TYPE, code)
    try:
        leaf = x509.load_der_x509_certificate(base64.b64decode((header.x5c or [""])[0], validate=True))
    except (ValueError, IndexError, binascii.Error):
        raise Refusal(code, "the key set's certificate (x5c) cannot be read", status=401) from None
    host = identity.verify_leaf(leaf, ca_pem, side, role, now)
    if host not in allowed_hosts:
        raise Refusal(
            code,
            f"host {host!r} is not among the hosts that this one knows",
            "Deploy the anchors again.",
            401,
        )
    claims = _verify(jws, _p256(leaf.public_key(), code), _KeySetClaims, code)
    if claims.service_id.partition("@")[2] != host:
        raise Refusal(code, f"service id {claims.service_id!r} is not of host {host!r}", status=401)
    if claims.iat > now + SKEW or now >= claims.exp or claims.exp - claims.iat > MAX_KEY_SET_LIFETIME:
        raise Refusal(code, f"valid from {claims.iat} to {claims.exp}, now is {now}", status=401)
    keys = {}
    for member in claims.keys:
        key = _from_jwk(member.x, member.y, code)
        if member.kid != thumbprint(key):
            raise Refusal(code, f"kid {member.kid[:64]!r} is not the thumbprint of its key", status=401)
        keys[member.kid] = key
    return KeySet(claims.service_id, host, keys, claims.exp)


# ---- keys -------------------------------------------------------------------------------------------------


def jwk(key: PublicKey) -> dict[str, str]:
    """The public key as a JWK (RFC 7517): kty, crv, x, y."""
    x, y = _coordinates(key)
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def thumbprint(key: PublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint of a P-256 key, base64url: used as kid and as `jkt`."""
    x, y = _coordinates(key)
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    return _sha256(canonical.encode())


def public_key_from_jwk(x: str, y: str) -> PublicKey:
    """P-256 key from base64url coordinates. Raises Refusal `malformed_request` (400) when there is none."""
    return _from_jwk(x, y, "malformed_request", 400)


def _coordinates(key: PublicKey) -> tuple[str, str]:
    numbers = key.public_numbers()
    return _base64url(numbers.x.to_bytes(32, "big")), _base64url(numbers.y.to_bytes(32, "big"))


def _from_jwk(x: str, y: str, code: str, status: int = 401) -> PublicKey:
    try:
        # Canonical text only: a key has one encoding, and so one thumbprint.
        point = [_base64url_decode(part) for part in (x, y)]
        if any(len(part) != 32 for part in point):
            raise ValueError("32 bytes each")
        return PublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point[0] + point[1])
    except ValueError:
        raise Refusal(code, "the key (jwk) is not a point of P-256", status=status) from None


def _p256(key: object, code: str) -> PublicKey:
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refusal(code, "the certificate's key is not P-256, which ES256 needs", status=401)
    return key


def _check_validity(certificate: x509.Certificate, now: int) -> None:
    start = int(certificate.not_valid_before_utc.timestamp())
    end = int(certificate.not_valid_after_utc.timestamp())
    if not start <= now <= end:
        raise Refusal(
            "certificate_expired",
            f"{certificate.subject.rfc4514_string()} is valid"
            f" from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            "Renew the certificate and import it again.",
        )


def _certificate_thumbprint(certificate: x509.Certificate) -> str:
    return _base64url(certificate.fingerprint(hashes.SHA256()))


# ---- JWS --------------------------------------------------------------------------------------------------

_JWS = jwt.PyJWS(algorithms=["ES256"])


def _sign(claims: msgspec.Struct, key: PrivateKey, header: Mapping[str, object]) -> str:
    return _JWS.encode(msgspec.json.encode(claims), key, algorithm="ES256", headers=dict(header))


def _verify(token: str, key: PublicKey, claims: type[Claims], code: str) -> Claims:
    """The claims, after the signature was verified. `_header` must have been called on the token before."""
    try:
        payload = _JWS.decode_complete(token, key, algorithms=["ES256"])["payload"]
    except jwt.InvalidTokenError:
        raise Refusal(code, "the signature does not verify", status=401) from None
    return _decode(payload, claims, code)


def _header(token: str, media_type: str, code: str) -> _Header:
    if len(token) > MAX_SIZE or not token.isascii():
        raise Refusal(code, f"is longer than {MAX_SIZE} characters, or not ASCII", status=401)
    parts = token.split(".")
    if len(parts) != 3:
        raise Refusal(code, "is not a compact JWS", status=401)
    header = _decode(_segment(parts[0], code), _Header, code)
    if header.typ != media_type:
        raise Refusal(code, f"expected typ {media_type!r}, found {header.typ[:64]!r}", status=401)
    return header


def _payload(token: str, claims: type[Claims], code: str) -> Claims:
    return _decode(_segment(token.split(".")[1], code), claims, code)


def _segment(text: str, code: str) -> bytes:
    try:
        return _base64url_decode(text)
    except ValueError:
        raise Refusal(code, "is not a compact JWS", status=401) from None


def _decode(data: bytes, struct: type[Claims], code: str) -> Claims:
    try:
        return msgspec.json.decode(data, type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(code, f"cannot be read: {str(error)[:200]}", status=401) from None


def _target(url: str) -> str:
    """`htu` (RFC 9449 section 4.3): scheme, host and path, without query and fragment; host in lower case."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path or '/'}"


def _sha256(data: bytes) -> str:
    return _base64url(hashlib.sha256(data).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64url_decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data

# SPDX-License-Identifier: GPL-3.0-or-later
"""Host assertions: what a workload manager vouches for. docs/protocol.md 3.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens.jws import (
    SKEW,
    Claims,
    Hex256,
    PrivateKey,
    PublicKey,
    ReadableName,
    Text,
    base64url,
    read_header,
    require_p256,
    sign,
    unverified_payload,
    verify,
)

ASSERTION_TYPE = "ti-host-assertion+jwt"
MAX_ASSERTION_LIFETIME = 90 * 86400


class AssertionClaims(Claims, frozen=True):
    """What a workload manager vouches for: this host (sub) is of this scope and has this TPM.

    iss: issuer of the principal. aud: group of the Trust Authority Cluster. ek_digest: SHA-256 (hex) of
    exactly one EK public area.
    """

    iss: Text
    sub: ReadableName
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


def sign_assertion(claims: AssertionClaims, key: PrivateKey, certificate: str) -> str:
    """The assertion as a compact JWS. certificate: the principal's leaf (PEM), named by its SHA-256."""
    thumbprint = _certificate_thumbprint(x509.load_pem_x509_certificate(certificate.encode()))
    return sign(claims, key, {"typ": ASSERTION_TYPE, "x5t#S256": thumbprint})


def verify_assertion(
    assertion: str, principals: Sequence[Principal], audience: str, now: int
) -> AssertionClaims:
    """Verify a host assertion and answer its claims.

    The principal's leaf certificates are pinned: they were imported one by one, so their chains add nothing.
    Raises Refusal `assertion_invalid`, `assertion_expired`, `principal_unknown`, `certificate_expired`.
    """
    code = "assertion_invalid"
    remedy = "The workload manager renews the assertion when it replicates to the host."
    header = read_header(assertion, ASSERTION_TYPE, "x5t", code)
    issuer = unverified_payload(assertion, AssertionClaims, code).iss
    leaf = _principal_leaf(issuer, header.x5t, principals, now)
    claims = verify(assertion, leaf, AssertionClaims, code)
    if claims.aud != audience:
        raise Refusal(code, f"is for Trust Authority Cluster {claims.aud!r}, this is {audience!r}", remedy)
    if claims.exp - claims.iat > MAX_ASSERTION_LIFETIME:
        raise Refusal(code, f"valid for more than {MAX_ASSERTION_LIFETIME} s", remedy)
    if claims.iat > now + SKEW:
        raise Refusal(code, f"issued {claims.iat - now} s in the future: compare the clocks", remedy)
    if now >= claims.exp:
        raise Refusal("assertion_expired", f"ended {now - claims.exp} s ago", remedy)
    return claims


def certificate_boundaries(principals: Sequence[Principal]) -> list[float]:
    """When the certificates of principals begin and end (Unix seconds): what `verify_assertion` found may be
    otherwise from then on."""
    leaves = [x509.load_pem_x509_certificate(chain[0].encode()) for one in principals for chain in one.chains]
    return [
        moment.timestamp()
        for leaf in leaves
        for moment in (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    ]


def _principal_leaf(issuer: str, named: str | None, principals: Sequence[Principal], now: int) -> PublicKey:
    known = [principal for principal in principals if principal.issuer == issuer]
    remedy = "Import the workload manager's principal on the Trust Authority side (trust_authority role)."
    if not known:
        raise Refusal("principal_unknown", f"no principal has issuer {issuer[:255]!r}", remedy)
    for chain in (chain for principal in known for chain in principal.chains if chain):
        certificate = x509.load_pem_x509_certificate(chain[0].encode())
        if named != _certificate_thumbprint(certificate):
            continue
        _check_validity(certificate, now)
        return require_p256(certificate.public_key(), "assertion_invalid")
    raise Refusal("principal_unknown", f"issuer {issuer!r} did not import the signing certificate", remedy)


def _check_validity(certificate: x509.Certificate, now: int) -> None:
    start = int(certificate.not_valid_before_utc.timestamp())
    end = int(certificate.not_valid_after_utc.timestamp())
    if not start <= now <= end:
        raise Refusal(
            "certificate_expired",
            f"{certificate.subject.rfc4514_string()} is valid from"
            f" {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}",
            "Renew the certificate and import it again.",
        )


def _certificate_thumbprint(certificate: x509.Certificate) -> str:
    return base64url(certificate.fingerprint(hashes.SHA256()))

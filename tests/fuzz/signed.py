# SPDX-License-Identifier: GPL-3.0-or-later
"""JWS targets. Where the input has a zero byte, it is header || 0x00 || claims, and is signed here with the
right key; otherwise it is the compact text itself."""

from __future__ import annotations

import base64
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from services.attestation.world import GROUP, ISSUER
from services.key_provider.harness import NOW, Authority, Host
from services.side_authority import SideAuthority

from trusted_infrastructure import tokens
from trusted_infrastructure.identity import load_key, verify_leaf

_AUTHORITY = Authority()
_HOST = Host(_AUTHORITY)
_SIDE = SideAuthority(now=NOW)
_LEAF_KEY, _LEAF = _SIDE.leaf("attestation-service", "ta1")
_WORKLOAD = SideAuthority(side="workload", now=NOW)
_PRINCIPAL_KEY, _PRINCIPAL = _WORKLOAD.leaf("manager", "workload-manager")
_PRINCIPALS = [tokens.Principal(ISSUER, [[_PRINCIPAL]])]
_URL = "https://ta1/kms/v1/providers/finance/keys"


def compact(data: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """See the module."""
    head, separator, payload = data.partition(b"\0")
    if not separator:
        return data.decode("latin-1")
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, payload))
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def seeds(text: str) -> list[bytes]:
    """A compact JWS, as it is and taken apart."""
    head, payload = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split(".")[:2])
    return [text.encode(), head + b"\0" + payload]


def token(data: bytes) -> None:
    text = compact(data, _AUTHORITY.attestation.key)
    tokens.verify_token(text, _AUTHORITY.keys(), GROUP, NOW, _AUTHORITY.issuers())


def assertion(data: bytes) -> None:
    tokens.verify_assertion(compact(data, _principal_key()), _PRINCIPALS, GROUP, NOW)


def proof(data: bytes) -> None:
    jkt = tokens.thumbprint(_HOST.proof_key.public_key())
    tokens.verify_proof(compact(data, _HOST.proof_key), "POST", _URL, b"{}", "token", jkt, NOW)


def key_set(data: bytes) -> None:
    text = compact(data, load_key(_LEAF_KEY))
    arguments = (_SIDE.certificate, "trust_authority", "attestation-service")
    found = tokens.verify_key_set(text, *arguments, {"ta1"}, NOW)
    assert found.service_id.endswith("@ta1") and found.keys


def verify_identity(pem: str) -> None:
    verify_leaf(pem, _SIDE.certificate, "trust_authority", "attestation-service", NOW)


def identity_seeds() -> list[bytes]:
    leaf = x509.load_pem_x509_certificate(_LEAF.encode())
    return [_LEAF.encode(), leaf.public_bytes(serialization.Encoding.DER)]


def token_seeds() -> list[bytes]:
    return seeds(_HOST.token())


def assertion_seeds() -> list[bytes]:
    claims = tokens.AssertionClaims(
        iss=ISSUER,
        sub="host1",
        scope="scope-1",
        ek_digest="00" * 32,
        aud=GROUP,
        iat=NOW,
        exp=NOW + 60,
        jti="a",
    )
    return seeds(tokens.sign_assertion(claims, _principal_key(), _PRINCIPAL))


def proof_seeds() -> list[bytes]:
    return seeds(_HOST.proof("token", b"{}"))


def key_set_seeds() -> list[bytes]:
    made: Callable[..., str] = tokens.sign_key_set
    return seeds(made(_AUTHORITY.keys(), "attestation@ta1", load_key(_LEAF_KEY), [_LEAF], NOW, 3600))


def _principal_key() -> ec.EllipticCurvePrivateKey:
    return load_key(_PRINCIPAL_KEY)

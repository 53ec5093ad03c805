# SPDX-License-Identifier: GPL-3.0-or-later
"""A side's CA as files on its manager: `authority ensure` and `authority sign`.

ca.key (0600) and ca.pem; without ca.key the CA is offline: leaves are then signed elsewhere and installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from trusted_infrastructure.identity.files import (
    CERTIFICATE_MODE,
    KEY_MODE,
    FileName,
    Side,
    existing_directory,
    place_file,
)
from trusted_infrastructure.identity.issuing import AUTHORITY_DAYS, LEAF_DAYS, create_authority, sign_request
from trusted_infrastructure.identity.names import SIDES, role_uri
from trusted_infrastructure.identity.pem import invalid, load_certificate, load_key, utc
from trusted_infrastructure.identity.verification import key_matches, renewal_due
from trusted_infrastructure.refusal import InvalidField, Refusal

CERTIFICATE = "ca.pem"
KEY = "ca.key"


class EnsureAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Input of `authority ensure`.

    certificate: PEM of a CA that the operator brings. private_key: its key; without it the CA is offline.
    """

    directory: str
    side: Side
    common_name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    days: Annotated[int, msgspec.Meta(ge=1, le=36500)] = AUTHORITY_DAYS
    certificate: str | None = None
    private_key: str | None = None


class LeafRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request as `identity ensure` answers it; what it says beside these fields is not looked at."""

    name: FileName
    csr: str
    host: str
    side: Side
    role: str
    dns: list[str] = []
    ips: list[str] = []


class SignRequests(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Input of `authority sign`. days: life of the leaves."""

    directory: str
    requests: list[LeafRequest]
    days: Annotated[int, msgspec.Meta(ge=1, le=825)] = LEAF_DAYS


def ensure_authority(wanted: EnsureAuthority, now: int, *, check: bool = False) -> dict[str, Any]:
    """Make the side's CA, or put the operator's in place, unless it is there.

    Returns {"changed", "certificate", "offline", "expires", "renewal_due"}; in check mode the certificate is
    null before the first run. A CA is never replaced: that is a rollover, and the operator's decision.
    Raises InvalidField, Refusal `certificate_invalid`.
    """
    directory = existing_directory(wanted.directory)
    path, key_path = directory / CERTIFICATE, directory / KEY
    if path.exists():
        certificate = _stored(path, wanted)
        if key_path.exists() and not key_matches(certificate, load_key(key_path.read_bytes())):
            raise invalid(f"{key_path} does not belong to {path}", "put the pair in place again")
        return _answer(certificate, path.read_text(), offline=not key_path.exists(), changed=False, now=now)
    if check:
        offline = wanted.certificate is not None and wanted.private_key is None
        return {
            "changed": True,
            "certificate": None,
            "offline": offline,
            "expires": None,
            "renewal_due": False,
        }
    # The certificate is written last: a run killed in between leaves a key by which nothing was signed yet,
    # and the next run goes on with it; the other way round would leave a CA that looks offline.
    left = key_path.read_bytes() if key_path.exists() and wanted.certificate is None else None
    key_pem, pem = _brought(wanted) or create_authority(
        wanted.common_name, wanted.side, wanted.days, now=now, key_pem=left
    )
    if key_pem:
        place_file(key_path, key_pem, KEY_MODE)
    place_file(path, pem.encode(), CERTIFICATE_MODE)
    return _answer(load_certificate(pem), pem, offline=not key_pem, changed=True, now=now)


def sign_requests(wanted: SignRequests, now: int) -> dict[str, Any]:
    """Sign leaf requests. Returns {"changed", "certificates": [{name, host, certificate}], "side_ca"}.

    Raises Refusal `authority_offline`, `request_invalid` (a CSR asks for other names than the request says),
    `certificate_expired` (the CA); then nothing is signed.
    """
    directory = existing_directory(wanted.directory)
    try:
        ca_pem = (directory / CERTIFICATE).read_text()
    except FileNotFoundError:
        raise InvalidField("directory", f"no CA in {directory}; run 'authority ensure' first") from None
    try:
        ca_key = load_key((directory / KEY).read_bytes())
    except FileNotFoundError:
        raise Refusal(
            "authority_offline",
            f"the CA in {directory} has no key on this machine",
            "sign the requests where the key is, and install the leaves with 'identity install'",
        ) from None
    ca_cert = load_certificate(ca_pem)
    side = _side_of(ca_cert)
    certificates = []
    for request in wanted.requests:
        if side is not None and request.side != side:
            raise InvalidField(
                f"requests[{request.name}].side", f"is {request.side}; this CA is of side {side}"
            )
        try:
            uri = role_uri(request.side, request.role, request.host)
            leaf = sign_request(
                request.csr, ca_key, ca_cert, uri, request.dns, request.ips, wanted.days, now=now
            )
        except Refusal as refusal:
            message = f"requests[{request.host} {request.name}]: {refusal.message}"
            raise Refusal(refusal.code, message, refusal.remedy, refusal.status) from None
        certificates.append({"name": request.name, "host": request.host, "certificate": leaf})
    return {"changed": bool(certificates), "certificates": certificates, "side_ca": ca_pem}


def _stored(path: Path, wanted: EnsureAuthority) -> x509.Certificate:
    """The CA that is in place, when it is the wanted one."""
    certificate = load_certificate(path.read_bytes())
    if wanted.certificate is not None and load_certificate(wanted.certificate) != certificate:
        raise invalid(
            f"{path} is another CA than the one given",
            "a CA is replaced by a rollover; remove the file for that",
        )
    if _side_of(certificate) not in (None, wanted.side):
        raise invalid(f"{path} is the CA of side {_side_of(certificate)}; expected {wanted.side}")
    return certificate


def _brought(wanted: EnsureAuthority) -> tuple[bytes, str] | None:
    """(key PEM or empty, certificate PEM) of the operator's CA, judged; None when none was given."""
    if wanted.certificate is None:
        if wanted.private_key is not None:
            raise InvalidField("certificate", "not given, but a private key is")
        return None
    certificate = load_certificate(wanted.certificate)
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    if not is_ca:
        raise InvalidField("certificate", "is not a CA certificate")
    if wanted.private_key is None:
        return b"", wanted.certificate
    if not key_matches(certificate, load_key(wanted.private_key)):
        raise InvalidField("private_key", "does not belong to the certificate")
    return wanted.private_key.encode(), wanted.certificate


def _side_of(certificate: x509.Certificate) -> str | None:
    """The side that a CA of ours names in its subject; None for an operator's."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return next((str(unit.value) for unit in units if unit.value in SIDES), None)


def _answer(
    certificate: x509.Certificate, pem: str, *, offline: bool, changed: bool, now: int
) -> dict[str, Any]:
    return {
        "changed": changed,
        "certificate": pem,
        "offline": offline,
        "expires": utc(certificate.not_valid_after_utc),
        "renewal_due": renewal_due(certificate, now),
    }

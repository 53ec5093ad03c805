# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging certificates of our own parts: chain, time, side, role. RFC 5280 section 6.

Pure, but for LeafVerifier, which reads the CA file.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from trusted_infrastructure.identity.names import ROLE_USAGES, LeafIdentity, leaf_identity
from trusted_infrastructure.identity.pem import (
    described,
    invalid,
    load_certificate,
    load_certificates,
    moment_of,
    utc,
)
from trusted_infrastructure.refusal import Refusal, Unavailable


def verify_leaf(
    certificate: x509.Certificate | str | bytes,
    ca_pem: str | bytes,
    side: str,
    role: str | Collection[str],
    now: int,
    intermediates: Sequence[x509.Certificate] = (),
) -> str:
    """The host of a leaf certificate, when it chains to `ca_pem`, is valid at `now`, and has side and role.

    ca_pem: one or more trust anchors (a rollover has two). role: one role, or the roles that will do.
    Raises Refusal `certificate_expired` (with subject and date) or `certificate_invalid`. RFC 5280 section 6.
    """
    leaf = certificate if isinstance(certificate, x509.Certificate) else load_certificate(certificate)
    moment = moment_of(now)
    check_times(leaf, moment)
    anchors = load_certificates(ca_pem)
    _check_chain(leaf, anchors, intermediates, moment)
    identity = leaf_identity(leaf)
    wanted = {role} if isinstance(role, str) else set(role)
    if identity.side != side:
        raise invalid(f"{described(leaf)} belongs to side {identity.side}; expected {side}")
    if identity.role not in wanted:
        raise invalid(f"{described(leaf)} has role {identity.role}; expected {' or '.join(sorted(wanted))}")
    _check_usage(leaf, identity.role)
    return identity.host


class LeafVerifier:
    """Judges client certificates against a CA file, which is read again when it was replaced."""

    def __init__(self, ca: Path, side: str, roles: Collection[str], clock: Callable[[], float]) -> None:
        self._ca, self._side, self._roles, self._clock = ca, side, frozenset(roles), clock

    def __call__(self, pem: bytes) -> LeafIdentity:
        """Who the certificate (PEM) speaks for. Raises as `verify_leaf`; Unavailable without a CA file."""
        leaf = load_certificate(pem)
        try:
            ca_pem = self._ca.read_bytes()
        except OSError as error:
            raise Unavailable(
                "configuration_unavailable", f"cannot read {self._ca}: {error.strerror}", "run site.yml"
            ) from None
        verify_leaf(leaf, ca_pem, self._side, self._roles, int(self._clock()))
        return leaf_identity(leaf)


def renewal_due(certificate: x509.Certificate, now: int) -> bool:
    """Whether two thirds of the certificate's life are over."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return moment_of(now) >= certificate.not_valid_before_utc + life * 2 / 3


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority`'s key signed the certificate and the names match."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def key_matches(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether the certificate is for this key."""
    return certificate.public_key() == key.public_key()


def check_times(certificate: x509.Certificate, moment: datetime.datetime) -> None:
    """Raises Refusal `certificate_expired`, `certificate_invalid` before the certificate begins."""
    if moment > certificate.not_valid_after_utc:
        raise Refusal(
            "certificate_expired",
            f"{described(certificate)} expired at {utc(certificate.not_valid_after_utc)}",
            "run site.yml, which renews it",
        )
    if moment < certificate.not_valid_before_utc:
        raise invalid(
            f"{described(certificate)} is not valid before {utc(certificate.not_valid_before_utc)}",
            "compare the clocks of the two machines",
        )


def _check_chain(
    leaf: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate],
    moment: datetime.datetime,
) -> None:
    """RFC 5280 path validation up to one of the anchors. What a leaf must be is checked by the caller."""
    issuer = [anchor for anchor in anchors if anchor.subject == leaf.issuer]
    for anchor in issuer:
        if len(issuer) == 1:
            check_times(anchor, moment)
    policy = (
        verification.PolicyBuilder()
        .store(verification.Store(list(anchors)))
        .time(moment)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=verification.ExtensionPolicy.permit_all(),
        )
        .build_client_verifier()
    )
    try:
        policy.verify(leaf, list(intermediates))
    except (verification.VerificationError, ValueError) as error:
        trusted = ", ".join(described(anchor) for anchor in anchors)
        raise invalid(
            f"{described(leaf)} does not chain to {trusted}: {error}",
            "use a certificate that this side's CA signed",
        ) from None


def _check_usage(leaf: x509.Certificate, role: str) -> None:
    """The extensions that a leaf of ours always has: not a CA, may sign, and its role's extended usages."""
    try:
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise invalid(f"{described(leaf)} lacks an extension: {error}") from None
    if constraints.ca:
        raise invalid(f"{described(leaf)} is a CA; expected a leaf")
    if not usage.digital_signature:
        raise invalid(f"{described(leaf)} is not for digital signatures")
    missing = [oid.dotted_string for oid in ROLE_USAGES[role] if oid not in extended]
    if missing:
        raise invalid(f"{described(leaf)} lacks the extended key usage {', '.join(missing)} of role {role}")

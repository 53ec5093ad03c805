# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate revocation lists that an administrator puts into a CA entry.

Sources: RFC 5280, 5 (CRL profile) and 6.3 (CRL validation; complete, direct CRLs only).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.certificates import CODE, Certificate

MAXIMUM_SIZE = 4 << 20


@dataclass(frozen=True)
class RevocationList:
    """A CRL. issuer: its issuer's name. revoked: serial numbers."""

    crl: x509.CertificateRevocationList
    issuer: x509.Name
    next_update: datetime
    revoked: frozenset[int]

    def check(self, certificate: Certificate, issuer: Certificate, now: datetime) -> None:
        """Refuse `certificate` when this list is by `issuer` and names it, or can't be relied on.

        Raises Refusal (ek_certificate_invalid). Lists of other issuers say nothing here.
        """
        if self.issuer != issuer.x509.subject:
            return
        name = issuer.label
        # Without this, a list written by anybody would un-revoke (by taking the real one's place).
        if not self._signed_by(issuer):
            raise Refusal(CODE, f"EK certificate: the CRL of {name} is not signed by it")
        # An old list does not have what was revoked since.
        if now > self.next_update:
            raise Refusal(
                CODE,
                f"EK certificate: the CRL of {name} is out of date since {self.next_update:%Y-%m-%d}",
                "import the vendor's current CRL into the CA entry",
            )
        if certificate.serial in self.revoked:
            raise Refusal(CODE, f"EK certificate: {certificate.label} was revoked by {name}")

    def _signed_by(self, issuer: Certificate) -> bool:
        try:
            return self.crl.is_signature_valid(issuer.public_key)
        except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
            return False


def parse_revocation_list(pem: str) -> RevocationList:
    """One CRL in PEM. Raises Refusal (ek_certificate_invalid, 'malformed CRL: ...')."""
    if len(pem) > MAXIMUM_SIZE:
        raise _malformed(f"is {len(pem)} characters long: expected at most {MAXIMUM_SIZE}")
    # As for certificates: hostile bytes meet a foreign parser here, and only here.
    try:
        crl = x509.load_pem_x509_crl(pem.encode("ascii"))
        critical = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
        next_update = crl.next_update_utc
        revoked = frozenset(entry.serial_number for entry in crl)
        issuer = crl.issuer
    except Exception as error:
        raise _malformed(str(error) or type(error).__name__) from None
    # Delta, indirect and partitioned CRLs carry a critical extension: read as complete ones they would miss
    # what was revoked.
    if critical:
        raise _malformed(f"has critical extensions that are not handled: {', '.join(critical)}")
    if next_update is None:
        raise _malformed("has no nextUpdate")
    return RevocationList(crl, issuer, next_update, revoked)


def _malformed(reason: str) -> Refusal:
    return Refusal(CODE, f"malformed CRL: {reason}", "import the CRL in PEM", status=400)

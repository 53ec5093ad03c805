# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate revocation lists (CRLs) that an administrator puts into a CA entry.

Rules:
- a list is signed by a CA certificate of its entry, which may sign lists (cRLSign); at most one by each;
- it is complete and direct: a delta, indirect or partitioned list is refused;
- it counts for every issuer of its name on every path, also for one with another key: a vendor that has
  renewed its CA lists there what the older key has issued as well;
- what it names is refused, whatever the reason (also on hold);
- after nextUpdate, and before thisUpdate, nothing that its CA has issued is accepted: an old list does not
  have what was revoked since. CAs without a list are not asked for one;
- nothing is fetched: a list is as new as the administrator keeps it.

Sources: RFC 5280, 5 (CRL profile) and 6.3 (CRL validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.certificates import CODE, Certificate
from trusted_infrastructure.tpm.x509_names import Name, read_name

MAXIMUM_SIZE = 1 << 20  # as PEM: room for 20,000 serial numbers
MAXIMUM_LISTS = 16
_REMEDY = "import the vendor's current CRL into the CA entry"
_STRONG_HASHES = frozenset({"sha256", "sha384", "sha512"})


@dataclass(frozen=True)
class RevocationList:
    """A CRL. issuer: its issuer's name. revoked: serial numbers. this_update, next_update: aware times."""

    crl: x509.CertificateRevocationList
    issuer: Name
    this_update: datetime
    next_update: datetime
    revoked: frozenset[int]

    def check(self, certificate: Certificate, now: datetime) -> None:
        """Refuse `certificate` when this list is by its issuer and names it, or can't be relied on.

        Raises Refusal (ek_certificate_invalid). Lists of other issuers say nothing here.
        """
        if self.issuer != certificate.issuer_name:
            return
        name = f"'{self.issuer.text}'"
        # An old list does not have what was revoked since.
        if now > self.next_update:
            raise Refusal(
                CODE,
                f"EK certificate: the CRL of {name} is out of date since {self.next_update:%Y-%m-%d}",
                _REMEDY,
            )
        if now < self.this_update:
            raise Refusal(
                CODE, f"EK certificate: the CRL of {name} is of the future: {self.this_update:%Y-%m-%d}"
            )
        if certificate.serial in self.revoked:
            raise Refusal(
                CODE,
                f"EK certificate: {certificate.label} was revoked by {name}",
                "replace the TPM, or ask its vendor why",
            )

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Whether this list has the issuer's name, is signed with its key, and not with a weak hash."""
        if self.issuer != issuer.subject_name:
            return False
        try:
            hash_ = self.crl.signature_hash_algorithm
            if hash_ is None or hash_.name not in _STRONG_HASHES:
                return False
            return self.crl.is_signature_valid(issuer.public_key)
        except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
            return False


def load_revocation_lists(pems: Sequence[str], authorities: Sequence[Certificate]) -> list[RevocationList]:
    """The CRLs of a CA entry. pems: one CRL in PEM each. authorities: the CA certificates of the entry.

    Raises InvalidField (malformed_request) that names the field; for administrators' input.
    """
    if len(pems) > MAXIMUM_LISTS:
        raise InvalidField("crls", f"has {len(pems)} CRLs: expected at most {MAXIMUM_LISTS}")
    lists: list[RevocationList] = []
    signers: set[bytes] = set()
    for position, pem in enumerate(pems):
        field = f"crls[{position}]"
        try:
            crl = parse_revocation_list(pem)
        except Refusal as refusal:
            raise InvalidField(field, refusal.message) from None
        signer = _signer(crl, authorities, field)
        # Of two, the older one would lack what the newer one has, or be out of date.
        if signer.der in signers:
            raise InvalidField(field, f"is a second CRL of {signer.label}: one for each CA")
        signers.add(signer.der)
        lists.append(crl)
    return lists


def _signer(crl: RevocationList, authorities: Sequence[Certificate], field: str) -> Certificate:
    named = [authority for authority in authorities if authority.subject_name == crl.issuer]
    # Without this, anybody's list could be imported, and a CA's true one be kept out.
    if not named:
        raise InvalidField(field, f"is by '{crl.issuer.text}', which is no CA of this entry's cert_chain")
    for authority in named:
        if crl.is_signed_by(authority):
            if authority.key_usage is not None and "cRLSign" not in authority.key_usage:
                raise InvalidField(field, f"{authority.label} may not sign CRLs (cRLSign)")
            return authority
    raise InvalidField(field, f"is not signed by '{crl.issuer.text}' with SHA-2, whose name it has")


def parse_revocation_list(pem: str) -> RevocationList:
    """One CRL in PEM. Raises Refusal (ek_certificate_invalid, 'malformed CRL: ...')."""
    if len(pem) > MAXIMUM_SIZE:
        raise _malformed(f"is {len(pem)} characters long: expected at most {MAXIMUM_SIZE}")
    # As for certificates: hostile bytes meet a foreign parser here, and only here.
    try:
        crl = x509.load_pem_x509_crl(pem.encode("ascii"))
        critical = {extension.oid.dotted_string for extension in crl.extensions if extension.critical}
        this_update, next_update = crl.last_update_utc, crl.next_update_utc
        revoked = set()
        for entry in crl:
            revoked.add(entry.serial_number)
            critical |= {extension.oid.dotted_string for extension in entry.extensions if extension.critical}
        issuer = read_name(crl.issuer.public_bytes())
    except Exception as error:
        raise _malformed(str(error) or type(error).__name__) from None
    # Delta, indirect and partitioned CRLs carry a critical extension: read as complete ones they would miss
    # what was revoked.
    if critical:
        raise _malformed(f"has critical extensions that are not handled: {', '.join(sorted(critical))}")
    if next_update is None:
        raise _malformed("has no nextUpdate")
    return RevocationList(crl, issuer, this_update, next_update, frozenset(revoked))


def _malformed(reason: str) -> Refusal:
    return Refusal(CODE, f"malformed CRL: {reason}", "import the CRL in PEM", status=400)

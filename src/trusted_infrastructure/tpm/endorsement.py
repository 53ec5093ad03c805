# SPDX-License-Identifier: GPL-3.0-or-later
"""Endorsement: does a pinned vendor CA say that this key is the endorsement key of a TPM?

Rules:
- a path leads from the EK certificate over intermediates to the pinned certificate of a CA entry; what comes
  from the host is at most an intermediate, never a root;
- every certificate on the path, the pinned one included, is valid at `now`, has a strong key, no critical
  extension that is not handled, and (but for the pinned one, which is trusted as such) a strong signature;
- every issuer is a CA with keyCertSign, its path length is kept, and an extended key usage, where it has one,
  allows EK certificates;
- the EK certificate is no CA, is for key encipherment or agreement, and has the extended key usage of EK
  certificates, unless the CA entry says that this vendor's have none;
- its public key is that of the endorsement key which the host presented;
- an EK certificate without a subject names the manufacturer of its TPM in the subject alternative name, as
  does every one whose subject alternative name is critical;
- no certificate on the path is named by a CRL of its issuer, nor is such a CRL out of date (`revocation`);
- no network: neither AIA nor CRL distribution points are followed. CRLs come with the CA entry;
- names choose whom to try, key identifiers do not: vendors get them wrong. Signatures decide, a bounded
  number of them.

Sources: RFC 5280, 6.1 (path validation); TCG EK Credential Profile for TPM 2.0, 3.2 (EK certificate); TCG OID
registry (tcg-kp-EKCertificate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import serialization

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.certificates import (
    CODE,
    Certificate,
    parse_certificate,
    parse_pem_certificate,
)
from trusted_infrastructure.tpm.public_area import PublicArea
from trusted_infrastructure.tpm.revocation import RevocationList, load_revocation_lists

EK_CERTIFICATE_USAGE = "2.23.133.8.1"  # tcg-kp-EKCertificate
_ANY_USAGE = "2.5.29.37.0"
_EK_KEY_USAGES = frozenset({"keyEncipherment", "keyAgreement"})

MAXIMUM_HOST_CERTIFICATES = 8  # the leaf and the chain of a vendor; three is the longest known
MAXIMUM_PATH = 6
MAXIMUM_SIGNATURE_CHECKS = 32  # bounds the work that look-alike intermediates can cause


@dataclass(frozen=True)
class CertificateAuthority:
    """A CA entry. name: document id. anchor: the pinned certificate. intermediates: further ones of the
    entry. eku_exception: this vendor's EK certificates have no extended key usage. revocation_lists: CRLs by
    the anchor or an intermediate."""

    name: str
    anchor: Certificate
    intermediates: tuple[Certificate, ...] = ()
    eku_exception: bool = False
    revocation_lists: tuple[RevocationList, ...] = ()


@dataclass(frozen=True)
class Endorsement:
    """A verified path. leaf: the EK certificate. issuers: from its issuer to the anchor. authority: name of
    the CA entry that the path ends in."""

    leaf: Certificate
    issuers: tuple[Certificate, ...]
    authority: str

    @property
    def boundaries(self) -> tuple[datetime, ...]:
        """When one of its certificates begins or ends: the times at which it may hold no longer."""
        path = (self.leaf, *self.issuers)
        return tuple(moment for one in path for moment in (one.not_before, one.not_after))


def load_certificate_authority(
    name: str,
    cert_chain: Sequence[str],
    eku_exception: bool = False,
    crls: Sequence[str] = (),
) -> CertificateAuthority:
    """A CA entry from PEM texts. cert_chain: the first is pinned (root first), the others are intermediates.
    crls: see `revocation`.

    Raises InvalidField (malformed_request) that names the field; for administrators' input.
    """
    if not cert_chain:
        raise InvalidField("cert_chain", "must have at least one certificate")
    chain = []
    for position, pem in enumerate(cert_chain):
        try:
            certificate = parse_pem_certificate(pem)
        except Refusal as refusal:
            raise InvalidField(f"cert_chain[{position}]", refusal.message) from None
        if not certificate.is_ca:
            raise InvalidField(f"cert_chain[{position}]", f"{certificate.label} is not a CA certificate")
        chain.append(certificate)
    lists = load_revocation_lists(crls, chain)
    return CertificateAuthority(name, chain[0], tuple(chain[1:]), eku_exception, tuple(lists))


def verify_endorsement(
    ek: PublicArea,
    certificates: Sequence[bytes],
    authorities: Sequence[CertificateAuthority],
    now: datetime,
) -> Endorsement:
    """Verify that a pinned CA certifies `ek` as an endorsement key.

    ek: the host's endorsement key. certificates: DER as the host sent them, the EK certificate first, then
    intermediates; padding after each is allowed. authorities: all CA entries. now: aware time.
    Raises Refusal (ek_certificate_missing, ek_certificate_invalid, ek_mismatch) or InvalidField.
    """
    if not certificates:
        raise Refusal(
            "ek_certificate_missing",
            "endorsement key: the host sent no EK certificate, and the policy wants one",
            "read the certificate from the TPM's NV storage or the vendor, or enroll the key and switch "
            "certificate validation off",
        )
    if len(certificates) > MAXIMUM_HOST_CERTIFICATES:
        raise InvalidField(
            "ek_certificates",
            f"{len(certificates)} certificates: expected at most {MAXIMUM_HOST_CERTIFICATES}",
        )
    leaf, *extra = (parse_certificate(data) for data in certificates)
    # Without this, a genuine certificate of another TPM would endorse a key made in software.
    if leaf.public_key_der() != _public_key_der(ek):
        raise Refusal(
            "ek_mismatch",
            f"endorsement key: the EK certificate {leaf.label} is for another key than the host presented",
            "send the certificate that belongs to this endorsement key",
        )
    return verify_path(leaf, extra, authorities, now)


def verify_path(
    leaf: Certificate,
    from_host: Sequence[Certificate],
    authorities: Sequence[CertificateAuthority],
    now: datetime,
) -> Endorsement:
    """Find and check a path from the EK certificate `leaf` to a CA entry. See `verify_endorsement`; this part
    alone serves for enrolling a certificate. Raises Refusal (ek_certificate_invalid)."""
    _check_leaf(leaf, now)
    return _PathBuilder(from_host, authorities, now).build(leaf)


def _public_key_der(ek: PublicArea) -> bytes:
    return ek.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _invalid(message: str, remedy: str = "") -> Refusal:
    return Refusal(CODE, f"EK certificate: {message}", remedy)


def _check_any(certificate: Certificate, now: datetime) -> None:
    """What holds for every certificate of a path."""
    label = certificate.label
    # An expired or not yet valid statement is not a statement of today: its key may be lost since.
    if not certificate.not_before <= now <= certificate.not_after:
        period = f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
        raise _invalid(f"{label} is valid from {period}, not on {now:%Y-%m-%d}")
    # A critical extension restricts what the certificate says; not to know it means not to understand it.
    if certificate.critical_unknown:
        found = ", ".join(certificate.critical_unknown)
        raise _invalid(f"{label} has critical extensions that are not handled: {found}")
    # A key that can be broken signs for whoever broke it.
    if weakness := certificate.weakness():
        raise _invalid(f"{label}: {weakness}")


def _check_leaf(leaf: Certificate, now: datetime) -> None:
    _check_any(leaf, now)
    if weak := leaf.weak_signature():
        raise _invalid(f"{leaf.label}: {weak}")
    # A vendor's CA is not a TPM.
    if leaf.is_ca:
        raise _invalid(f"{leaf.label} is a CA certificate, not an EK certificate")
    # Without this, a certificate for another use of the same CA (an attestation or TLS key) would do.
    if leaf.key_usage is not None and not leaf.key_usage & _EK_KEY_USAGES:
        found = ", ".join(sorted(leaf.key_usage)) or "none"
        raise _invalid(f"{leaf.label}: key usage must be keyEncipherment or keyAgreement: found {found}")
    # A critical name restricts the certificate to whom it names. Without this, one for a person or a server
    # whose key lies in a TPM would do.
    names_tpm = leaf.tpm is not None and "manufacturer" in leaf.tpm
    if leaf.names_critical and not names_tpm:
        raise _invalid(f"{leaf.label}: its critical subject alternative name is not that of a TPM")
    if not leaf.subject and not names_tpm:
        raise _invalid(f"{leaf.label}: has neither a subject nor the name of a TPM")


def _check_leaf_usage(leaf: Certificate, authority: CertificateAuthority) -> None:
    # Same reason as for the key usage; some vendors leave it out, which the CA entry must say.
    usage = leaf.extended_key_usage
    if usage is None and authority.eku_exception:
        # The same CA certifies attestation keys, which may sign. Without one of the two usages, they pass.
        if leaf.key_usage is None:
            raise _invalid(f"{leaf.label}: has neither a key usage nor an extended key usage")
        return
    if usage is None or EK_CERTIFICATE_USAGE not in usage:
        found = ", ".join(sorted(usage or ())) or "none"
        raise _invalid(
            f"{leaf.label}: extended key usage must contain {EK_CERTIFICATE_USAGE}: found {found}",
            "if this vendor's EK certificates have none, say so in the CA entry (eku_exception)",
        )


def _check_issuer(issuer: Certificate, below: int, now: datetime) -> None:
    """below: number of intermediates between `issuer` and the leaf that are not self-issued."""
    _check_any(issuer, now)
    # Without these, the owner of any certificate of the vendor could issue EK certificates.
    if not issuer.is_ca:
        raise _invalid(f"issuer {issuer.label} is not a CA")
    if issuer.key_usage is None or "keyCertSign" not in issuer.key_usage:
        raise _invalid(f"issuer {issuer.label} may not sign certificates (keyCertSign)")
    if issuer.path_length is not None and below > issuer.path_length:
        raise _invalid(f"issuer {issuer.label} allows {issuer.path_length} CAs below it: found {below}")
    usage = issuer.extended_key_usage
    if usage is not None and not usage & {EK_CERTIFICATE_USAGE, _ANY_USAGE}:
        found = ", ".join(sorted(usage))
        raise _invalid(f"issuer {issuer.label} may not issue EK certificates: extended key usage is {found}")


class _PathBuilder:
    """Depth-first search with a budget; keeps the refusal of the longest path for when none is found."""

    def __init__(
        self, from_host: Sequence[Certificate], authorities: Sequence[CertificateAuthority], now: datetime
    ) -> None:
        self._authorities = authorities
        # Those of the entries first: what the host sends cannot use up the budget before them.
        self._intermediates = [*(c for entry in authorities for c in entry.intermediates), *from_host]
        self._lists = [crl for entry in authorities for crl in entry.revocation_lists]
        self._now = now
        self._checks_left = MAXIMUM_SIGNATURE_CHECKS
        self._refusal: Refusal | None = None
        self._refused_at = 0

    def build(self, leaf: Certificate) -> Endorsement:
        found = self._extend((leaf,))
        if found is not None:
            return found
        raise self._refusal or _invalid(
            f"{leaf.label}: no CA entry leads to its issuer '{leaf.issuer}'",
            "import the vendor's CA certificate, and its intermediates where the TPM has none",
        )

    def _extend(self, path: tuple[Certificate, ...]) -> Endorsement | None:
        """A verified path that begins with `path` (leaf first), None where there is none."""
        for authority in self._authorities:
            # The leaf itself is never the anchor: what is pinned is a CA.
            if self._issued(path, authority.anchor) and self._accepts(path, authority.anchor, authority):
                return Endorsement(path[0], (*path[1:], authority.anchor), authority.name)
        if len(path) >= MAXIMUM_PATH:
            return None
        for candidate in self._intermediates:
            # The same key twice under one name is a loop, also in another certificate (RFC 4158, 2.4.2).
            if any(_same_entity(candidate, used) for used in path) or not self._issued(path, candidate):
                continue
            if self._accepts(path, candidate, None):
                found = self._extend((*path, candidate))
                if found is not None:
                    return found
        return None

    def _issued(self, path: tuple[Certificate, ...], issuer: Certificate) -> bool:
        certificate = path[-1]
        if certificate.issuer_name != issuer.subject_name:
            return False
        # Before the signature is checked: a check with a huge key takes long.
        if weakness := issuer.weakness():
            self._refuse(path, _invalid(f"{issuer.label}: {weakness}"))
            return False
        # Without a budget, n look-alikes on each level would cost n to the power of the depth.
        if self._checks_left == 0:
            raise _invalid(f"no path within {MAXIMUM_SIGNATURE_CHECKS} signature checks")
        self._checks_left -= 1
        return certificate.is_signed_by(issuer)

    def _accepts(
        self, path: tuple[Certificate, ...], issuer: Certificate, authority: CertificateAuthority | None
    ) -> bool:
        """Whether `issuer` may stand above `path`. authority: set when `issuer` is its anchor."""
        below = sum(not certificate.self_issued for certificate in path[1:])
        try:
            _check_issuer(issuer, below, self._now)
            if authority is None:
                if weak := issuer.weak_signature():
                    raise _invalid(f"{issuer.label}: {weak}")
            else:
                _check_leaf_usage(path[0], authority)
            for crl in self._lists:
                crl.check(path[-1], self._now)
        except Refusal as refusal:
            self._refuse(path, refusal)
            return False
        return True

    def _refuse(self, path: tuple[Certificate, ...], refusal: Refusal) -> None:
        if len(path) > self._refused_at:
            self._refusal, self._refused_at = refusal, len(path)


def _same_entity(one: Certificate, other: Certificate) -> bool:
    return one.subject_name == other.subject_name and one.public_key_der() == other.public_key_der()

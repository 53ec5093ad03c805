# SPDX-License-Identifier: GPL-3.0-or-later
"""Is this endorsement key trusted? The policy of `tpm2_settings`, over one state of the configuration. Pure.

| require_certificate_validation | require_endorsement_keys | what a key needs                         |
| ------------------------------ | ------------------------ | ---------------------------------------- |
| yes                            | yes (default)            | path to a CA entry, and enrolment        |
| yes                            | no                       | path to a CA entry                       |
| no                             | yes                      | enrolment                                |
| no                             | no                       | nothing would do: `ek_policy_none`       |

A certificate says that a vendor made this TPM; enrolment says that the administrator has seen it. A stolen
machine of the same vendor passes the first, and not the second.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from trusted_infrastructure.attestation.verified import Verified, key_of
from trusted_infrastructure.config.documents import CaCertificate, EndorsementKey, Tpm2Settings
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.endorsement import (
    CertificateAuthority,
    load_certificate_authority,
    verify_endorsement,
)
from trusted_infrastructure.tpm.keys import check_endorsement_key
from trusted_infrastructure.tpm.public_area import PublicArea

CRL_NOTICE = timedelta(days=7)
# What does not end by itself is judged again once a day.
ENROLMENT_REUSE = 86_400

_PEM_BEGIN, _PEM_END = "-----BEGIN PUBLIC KEY-----\n", "-----END PUBLIC KEY-----"
# Length of a SubjectPublicKeyInfo -> what it begins and ends with (RFC 5480, 2; RFC 3279, 2.3.1).
_USUAL_FORMS = {
    91: (bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), b""),  # P-256
    120: (bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), b""),  # P-384
    294: (  # RSA-2048, exponent 65537
        bytes.fromhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100"),
        bytes.fromhex("0203010001"),
    ),
    422: (  # RSA-3072, exponent 65537
        bytes.fromhex("308201a2300d06092a864886f70d01010105000382018f003082018a0282018100"),
        bytes.fromhex("0203010001"),
    ),
}


class EndorsementPolicy:
    """The policy, with its documents parsed once. Never changes: make a new one for a new snapshot.

    problems: documents that cannot be used, in words for the status; they endorse nobody.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._settings = snapshot.get("tpm2_settings", "settings", Tpm2Settings) or Tpm2Settings()
        self._authorities: list[CertificateAuthority] = []
        self._enrolled: set[bytes] = set()
        self.problems: list[str] = []
        self._endorsed: Verified[bool] = Verified()
        for name, entry in snapshot.documents("ca_certificate", CaCertificate).items():
            try:
                authority = load_certificate_authority(
                    name, entry.cert_chain, entry.eku_exception, entry.crls
                )
                self._authorities.append(authority)
            except Refusal as refusal:
                self.problems.append(f"CA entry {name}: {refusal.message}")
        for name, key in snapshot.documents("endorsement_key", EndorsementKey).items():
            try:
                self._enrolled.add(_usual_der(key.public_key) or _der(_loaded(key.public_key)))
            except (ValueError, UnsupportedAlgorithm):
                self.problems.append(f"endorsement key {name}: public_key is not a public key in PEM")

        lists = [crl for authority in self._authorities for crl in authority.revocation_lists]
        self._list_boundaries = [at for crl in lists for at in (crl.this_update, crl.next_update)]

    def warnings(self, now: int) -> list[str]:
        """CRLs that are out of date, or soon will be, in words for the status. now: Unix seconds."""
        moment = datetime.fromtimestamp(now, UTC)
        found = []
        for authority in self._authorities:
            for crl in authority.revocation_lists:
                if crl.next_update - moment < CRL_NOTICE:
                    found.append(
                        f"CA entry {authority.name}: the CRL of '{crl.issuer.text}' ends on "
                        f"{crl.next_update:%Y-%m-%d}; then no TPM is accepted that this CA has certified"
                    )
        return found

    def check(self, ek: PublicArea, expected_digest: str, certificates: Sequence[bytes], now: int) -> None:
        """Refuse an endorsement key that the policy does not trust.

        ek: as the host sent it. expected_digest: from the host assertion (SHA-256 of TPMT_PUBLIC, hex).
        certificates: DER, the EK certificate first. now: Unix seconds.
        Raises Refusal `ek_mismatch`, `ek_policy_none`, `ek_attributes`, `ek_weak`, `ek_not_enrolled`,
        `ek_certificate_missing`, `ek_certificate_invalid`.
        """
        # Without this, any machine with a genuine TPM could speak as any host that an assertion names.
        if ek.digest != expected_digest:
            raise Refusal(
                "ek_mismatch",
                f"the assertion is for endorsement key {expected_digest}, the host has {ek.digest}",
                "If the TPM was replaced on purpose, enroll the new one and renew the host's assertion.",
            )
        if not (self._settings.require_endorsement_keys or self._settings.require_certificate_validation):
            raise Refusal(
                "ek_policy_none",
                "the TPM settings require neither certificate validation nor enrolled endorsement keys",
                "Require at least one of the two in the TPM 2.0 settings.",
            )
        known = key_of(ek.marshalled, *certificates)
        if self._endorsed.get(known, now):
            return
        check_endorsement_key(ek)
        if self._settings.require_endorsement_keys and _der(ek.public_key()) not in self._enrolled:
            raise Refusal(
                "ek_not_enrolled",
                f"endorsement key {ek.digest} is not enrolled",
                "Enroll the host's endorsement key, if this is the TPM that you expect in this host.",
            )
        boundaries = [float(now + ENROLMENT_REUSE)]
        if self._settings.require_certificate_validation:
            moment = datetime.fromtimestamp(now, UTC)
            endorsement = verify_endorsement(ek, certificates, self._authorities, moment)
            # The last second of a certificate or list still counts: what was accepted in it ends with it.
            boundaries += [at.timestamp() + 1 for at in (*endorsement.boundaries, *self._list_boundaries)]
        self._endorsed.put(known, True, now, boundaries)


def _usual_der(pem: str) -> bytes | None:
    """SubjectPublicKeyInfo of a key that is written as nearly all are, without making a key of it; else None.

    Each of these forms fixes every byte but the key's own, so who has the same key has the same bytes. (Ten
    thousand keys are loaded in this way in the time of some hundred.)
    """
    if not (pem.startswith(_PEM_BEGIN) and pem.rstrip().endswith(_PEM_END)):
        return None
    try:
        der = base64.b64decode(pem.strip()[len(_PEM_BEGIN) : -len(_PEM_END)].replace("\n", ""), validate=True)
    except ValueError:
        return None
    start, end = _USUAL_FORMS.get(len(der), (b"", b""))
    return der if start and der.startswith(start) and der.endswith(end) else None


def _loaded(pem: str) -> object:
    return serialization.load_pem_public_key(pem.encode())


def _der(key: object) -> bytes:
    """SubjectPublicKeyInfo: equal for equal keys."""
    public_bytes = getattr(key, "public_bytes", None)
    if public_bytes is None:
        raise ValueError("not a public key")
    der: bytes = public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return der

# SPDX-License-Identifier: GPL-3.0-or-later
"""PCR policies as a workload manager signs them, for tests."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.messages import pcr_policy_reference
from trusted_infrastructure.tpm.policy import SignedPcrPolicy, pcr_policy_digest, to_be_signed

# Two clusters of one manager.
OURS, OTHERS = pcr_policy_reference("11" * 16), pcr_policy_reference("22" * 16)


class PolicyKey:
    """A key that signs PCR policies. public: PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def sign(self, approved: bytes, reference: bytes = OURS) -> bytes:
        """r and s."""
        der = self._key.sign(to_be_signed(approved, reference), ec.ECDSA(hashes.SHA256()))
        return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der))

    def policy(
        self, pcrs: Mapping[int, bytes], bank: str = "sha256", reference: bytes = OURS
    ) -> SignedPcrPolicy:
        signature = self.sign(pcr_policy_digest(bank, pcrs), reference)
        return SignedPcrPolicy(bank, pcrs, self.public, signature, reference)

    def document(self, pcrs: Mapping[int, bytes], reference: bytes = OURS) -> PcrPolicy:
        """The same as the manager replicates it."""
        policy = self.policy(pcrs, reference=reference)
        values = {str(number): value.hex() for number, value in pcrs.items()}
        return PcrPolicy(bank="sha256", pcrs=values, public_key=self.public, signature=policy.signature)

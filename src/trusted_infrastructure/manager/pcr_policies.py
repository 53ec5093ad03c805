# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed PCR policies: under which PCR values the TPMs of a cluster's hosts open what is sealed to them.

A host seals a native provider's keys to this manager's policy key, not to PCR values (TPM2_PolicyAuthorize).
Which values count is said by policies that the key signs, one for each base image: so the policy of the next
image is signed before the upgrade, and nothing has to be sealed again after it. A signature is for one
cluster (`messages.pcr_policy_reference`): the TPM of another cluster's host opens nothing for it.

What a policy covers: the PCRs of PCRS that the image foresees (`base_images.prediction`), and one of CODE at
least, with a value that something was extended into: otherwise it would say nothing of what the host runs.

A policy that was signed once can be kept and shown to the TPM for ever, whoever keeps it. Deleting one takes
it off the hosts; to make it worthless, take the policy key's file away: a new key is made, and providers are
pushed and sealed anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trusted_infrastructure.base_images import foreseen_values, varying
from trusted_infrastructure.config.documents import BaseImage, PcrPolicy
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.settings import ManagerSettings
from trusted_infrastructure.messages import pcr_policy_reference
from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.state_files import read_state, state_lock, write_state
from trusted_infrastructure.tpm.event_log import initial_value
from trusted_infrastructure.tpm.policy import is_signed, pcr_policy_digest, to_be_signed

KIND = "pcr_policy"
KEY_FILE = "pcr-policy.key"
PCRS = (4, 7, 8, 9, 11, 12, 13, 14)
CODE = (4, 8, 9, 11)  # boot loader, its configuration, kernel and initrd, unified kernel image
_COORDINATE = 32

Bank = Literal["sha256", "sha384", "sha512"]


class Insufficient(ValueError):
    """An image that foresees too little; the text says which events vary."""


class PolicyKey:
    """The key that signs policies: P-256, in a file of the manager's state directory (0600), made where it is
    not there. Raises Unavailable `state_unusable`."""

    def __init__(self, path: Path) -> None:
        with state_lock(path):
            stored = read_state(path)
            if stored is None:
                stored = _pkcs8(ec.generate_private_key(ec.SECP256R1()))
                write_state(path, stored)
        self._key = _loaded(path, stored)

    @property
    def public_key(self) -> str:
        """PEM (SubjectPublicKeyInfo)."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return public.decode()

    def sign(self, cluster: Cluster, bank: Bank, pcrs: dict[int, bytes]) -> PcrPolicy:
        """The policy document for these values, for hosts of the cluster."""
        approved = to_be_signed(pcr_policy_digest(bank, pcrs), reference_of(cluster))
        r, s = decode_dss_signature(self._key.sign(approved, ec.ECDSA(hashes.SHA256())))
        return PcrPolicy(
            bank=bank,
            pcrs={str(number): value.hex() for number, value in sorted(pcrs.items())},
            public_key=self.public_key,
            signature=r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big"),
        )

    def has_signed(self, cluster: Cluster, policy: PcrPolicy) -> bool:
        """Whether a policy of this manager is this key's, for this cluster."""
        values = {int(number): bytes.fromhex(value) for number, value in policy.pcrs.items()}
        digest = pcr_policy_digest(policy.bank, values)
        return is_signed(self.public_key, digest, reference_of(cluster), policy.signature)


def reference_of(cluster: Cluster) -> bytes:
    """The policy reference of a cluster: by its opaque id, which a cluster that is made anew does not get."""
    return pcr_policy_reference(cluster.group)


def policy_key(settings: ManagerSettings) -> PolicyKey:
    """The policy key of a manager. Raises Unavailable `state_unusable`."""
    return PolicyKey(settings.state_directory / KEY_FILE)


def values_of(image: BaseImage) -> dict[int, bytes]:
    """The PCR values that a policy for this image covers. Raises Insufficient."""
    foreseen = foreseen_values(image)
    values = {pcr: foreseen[pcr] for pcr in PCRS if pcr in foreseen}
    if not any(pcr in values and values[pcr] != initial_value(pcr, image.bank) for pcr in CODE):
        reasons = "; ".join(
            f"PCR {pcr}: nothing is measured into it" if pcr in values else varying(image, pcr)
            for pcr in CODE
        )
        raise Insufficient(f"foresees no PCR that says what the host runs. {reasons}")
    return values


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _loaded(path: Path, stored: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(stored, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unavailable(
            "state_unusable",
            f"{path} holds no P-256 key",
            "Put the file back, or remove it: a new key is made, and native providers are sealed anew.",
        )
    return key

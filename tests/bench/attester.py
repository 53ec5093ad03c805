# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts in software: endorsement and attestation keys as plain keys, real wire structures, and what can be
made beforehand made beforehand. What is left for each attestation is what a TPM and an agent do between
challenge and evidence: open the credential, hash, sign, encode.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.boot import MeasuredBoot
from cryptography.hazmat.primitives.asymmetric import ec
from services.attestation.vendor import Vendor
from services.tpm import software_keys

from trusted_infrastructure import tokens
from trusted_infrastructure.messages import (
    Challenge,
    ChallengeRequest,
    Evidence,
    ProofKey,
    encode,
    qualifying_data,
)
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tpm.public_area import PublicArea
from trusted_infrastructure.tpm.quote import pcr_selection

Vouch = Callable[[str, str], str]
"""The workload manager: from host id and digest of its EK to the host's assertion."""


@dataclass(frozen=True)
class SessionKeys:
    """Keys of one session. They serve a whole run: fresh ones cost the services the same."""

    proof_key: ProofKey
    hpke_suite: str
    hpke_public_key: bytes
    private_proof_key: tokens.PrivateKey = field(repr=False)
    sealing_key: SealingKey = field(repr=False)

    @classmethod
    def generate(cls) -> SessionKeys:
        key, sealing_key = ec.generate_private_key(ec.SECP256R1()), SealingKey.generate()
        jwk = tokens.jwk(key.public_key())
        public = ProofKey(x=jwk["x"], y=jwk["y"])
        return cls(public, sealing_key.suite, sealing_key.public_bytes(), key, sealing_key)


@dataclass(frozen=True)
class Attester:
    """A host. ek_kind, ak_kind: see `software_keys.private_key`. request: its challenge request."""

    name: str
    ek_kind: str
    ek: PublicArea
    ak_kind: str
    ak: PublicArea
    boot: MeasuredBoot
    session: SessionKeys
    request: bytes

    def evidence(self, challenge: Challenge) -> bytes:
        """The body that answers `challenge`."""
        ek_key, ak_key = (software_keys.private_key(kind) for kind in (self.ek_kind, self.ak_kind))
        secret = software_keys.activate(
            ek_key, self.ek, self.ak.name, challenge.credential_blob, challenge.encrypted_secret
        )
        if secret is None:
            raise ValueError("the credential is not for this host")
        extra = qualifying_data(
            purpose="token",
            service_id=challenge.service_id,
            nonce=challenge.nonce,
            challenge_request=self.request,
            secret_proof=hmac.digest(secret, challenge.challenge_id, "sha256"),
            pcr_selection=pcr_selection(challenge.bank, challenge.pcrs),
            proof_key_thumbprint=self.session.proof_key.thumbprint(),
            hpke_suite=self.session.hpke_suite,
            hpke_public_key=self.session.hpke_public_key,
            event_log=self.boot.event_log,
            claims=b"{}",
        )
        attest = software_keys.genuine_attest(
            self.ek, self.ak, extra, self.boot.pcrs, challenge.pcrs
        ).marshal()
        return encode(
            Evidence(
                challenge=challenge.challenge,
                quote=attest,
                signature=software_keys.sign(ak_key, self.ak, attest),
                event_log=self.boot.event_log,
                proof_key=self.session.proof_key,
                hpke_suite=self.session.hpke_suite,
                hpke_public_key=self.session.hpke_public_key,
            )
        )


def make_attester(
    name: str, boot: MeasuredBoot, session: SessionKeys, vendor: Vendor, vouch: Vouch, kind: str = "p256"
) -> Attester:
    """A host with keys of its own. kind: of its endorsement key; the attestation key is P-256."""
    ek_kind, ak_kind = f"{kind}:{name}/ek", f"p256:{name}/ak"
    ek, ak = software_keys.endorsement_key(ek_kind), software_keys.attestation_key(ak_kind)
    request = ChallengeRequest(
        assertion=vouch(name, ek.digest),
        ek_public=ek.tpm2b(),
        ek_certificates=[vendor.certify(ek)],
        ak_public=ak.tpm2b(),
    )
    return Attester(name, ek_kind, ek, ak_kind, ak, boot, session, encode(request))

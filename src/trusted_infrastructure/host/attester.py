# SPDX-License-Identifier: GPL-3.0-or-later
"""One attestation with one Attestation Service: challenge, credential, session keys, evidence, token.
docs/protocol.md 3.

The service is told what this host booted; it decides. What is checked here protects this host: that the
answer is a token of the service's published key, for the keys that were made for it, and of the expected
group.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.host.attestation_key import Identity
from trusted_infrastructure.host.key_sets import KeySets
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.host.state import Session
from trusted_infrastructure.host.tpm_values import AttestationKey, SignedQuote
from trusted_infrastructure.host.tpm_worker import Tpm, TpmWorker
from trusted_infrastructure.messages import (
    PURPOSE_TOKEN,
    AttestationResult,
    Challenge,
    ChallengeRequest,
    Evidence,
    ProofKey,
    encode,
    qualifying_data,
)
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.sealing import DEFAULT_SUITE, SealingKey
from trusted_infrastructure.tokens import TokenClaims, jwk, unverified_kid, verify_token
from trusted_infrastructure.tpm.quote import pcr_selection

NONCE_SIZE = 32
CHALLENGE_ID_SIZE = 16
CLAIM_ATTEMPTS = 3


@dataclass(frozen=True)
class Attester:
    """Runs attestations. event_log: gives the firmware's log, unchanged. suite: name from `sealing.SUITES`.
    clock: Unix seconds."""

    client: ServiceClient
    key_sets: KeySets
    tpm: TpmWorker
    event_log: Callable[[], bytes]
    clock: Callable[[], float]
    suite: str = DEFAULT_SUITE

    async def attest(self, service: Service, identity: Identity, assertion: str) -> Session:
        """A token of `service` for this host, with the session keys that it is bound to.

        assertion: the workload manager's JWT for this host.
        Raises the service's Refusal, Refusal `challenge_invalid` or `token_*`, Unavailable.
        """
        request = encode(
            ChallengeRequest(
                assertion=assertion,
                ek_public=identity.endorsement_key.public,
                ek_certificates=list(identity.endorsement_key.certificates),
                ak_public=identity.attestation_key.public,
            )
        )
        challenge = await self.client.post(service, "/attestation/v1/challenge", request, Challenge)
        selection = _checked_selection(challenge, service)
        proof_key = ec.generate_private_key(ec.SECP256R1())
        sealing_key = SealingKey.generate(self.suite)
        coordinates = jwk(proof_key.public_key())
        public = ProofKey(x=coordinates["x"], y=coordinates["y"])
        evidence = await self._evidence(challenge, selection, request, identity, public, sealing_key)
        result = await self.client.post(
            service, "/attestation/v1/evidence", encode(evidence), AttestationResult
        )
        claims = await self._claims(service, result.token)
        _check_binding(claims, public, sealing_key)
        return Session(
            service.id, claims, result.token, proof_key, sealing_key, result.image_state, self.clock()
        )

    async def _evidence(
        self,
        challenge: Challenge,
        selection: bytes,
        request: bytes,
        identity: Identity,
        proof_key: ProofKey,
        sealing_key: SealingKey,
    ) -> Evidence:
        event_log = self.event_log()

        def qualify(claims: bytes, secret: bytes) -> bytes:
            return qualifying_data(
                purpose=PURPOSE_TOKEN,
                service_id=challenge.service_id,
                nonce=challenge.nonce,
                challenge_request=request,
                secret_proof=hmac.digest(secret, challenge.challenge_id, "sha256"),
                pcr_selection=selection,
                proof_key_thumbprint=proof_key.thumbprint(),
                hpke_suite=sealing_key.suite,
                hpke_public_key=sealing_key.public_bytes(),
                event_log=event_log,
                claims=claims,
            )

        def prove(tpm: Tpm) -> tuple[SignedQuote, bytes]:
            return _proved(tpm, identity.attestation_key, challenge, qualify)

        quote, claims = await self.tpm.run(prove)
        return Evidence(
            challenge=challenge.challenge,
            quote=quote.attest,
            signature=quote.signature,
            event_log=event_log,
            proof_key=proof_key,
            hpke_suite=sealing_key.suite,
            hpke_public_key=sealing_key.public_bytes(),
            claims=claims,
        )

    async def _claims(self, service: Service, token: str) -> TokenClaims:
        key_id = unverified_kid(token)
        key, key_set = await self.key_sets.key(service, "attestation-service", key_id)
        return verify_token(
            token, {key_id: key}, service.group, int(self.clock()), {key_id: key_set.service_id}
        )


def _proved(
    tpm: Tpm,
    attestation_key: AttestationKey,
    challenge: Challenge,
    qualify: Callable[[bytes, bytes], bytes],
) -> tuple[SignedQuote, bytes]:
    """The quote, and the claims that it signs. qualify: qualifying data of claims and the secret.

    Raises Unavailable `tpm_pcrs_unstable`, and what the TPM raises."""
    # The claims are in what is signed, so the PCRs are read before; they may move in between.
    for _attempt in range(CLAIM_ATTEMPTS):
        values = tpm.read_pcrs(challenge.bank, challenge.pcrs)
        claims = pcr_claims(values)
        quote = tpm.prove(
            attestation_key,
            challenge.credential_blob,
            challenge.encrypted_secret,
            partial(qualify, claims),
            challenge.bank,
            challenge.pcrs,
        )
        if quote.pcrs == values:
            return quote, claims
    raise Unavailable(
        "tpm_pcrs_unstable",
        f"the PCRs of bank {challenge.bank} changed between reading and quoting, {CLAIM_ATTEMPTS} times",
        "find what extends these PCRs all the time, or leave them out of the base image",
    )


def pcr_claims(values: Mapping[int, bytes]) -> bytes:
    """The claims of an agent: the values of all PCRs that it quotes. docs/protocol.md 3.3.

    With them the service compares each PCR with the event log, and can name the one that differs.
    """
    claimed = {str(pcr): value.hex() for pcr, value in sorted(values.items())}
    return json.dumps({"pcr_values": claimed}).encode()


def _checked_selection(challenge: Challenge, service: Service) -> bytes:
    """TPML_PCR_SELECTION of the challenge. Raises Unavailable for a challenge that would weaken the quote."""
    # The nonce and the id are this host's protection, too: a quote over constant ones could be kept and used.
    if len(challenge.nonce) != NONCE_SIZE or len(challenge.challenge_id) != CHALLENGE_ID_SIZE:
        raise _invalid_challenge(service, "nonce or challenge_id has the wrong length")
    if not challenge.pcrs or sorted(set(challenge.pcrs)) != challenge.pcrs:
        raise _invalid_challenge(service, "pcrs must be ascending PCR numbers, at least one")
    try:
        return pcr_selection(challenge.bank, challenge.pcrs)
    except InvalidField as error:
        raise _invalid_challenge(service, error.message) from None


def _check_binding(claims: TokenClaims, proof_key: ProofKey, sealing_key: SealingKey) -> None:
    """Refuse a token that this host could not use: keys would be sealed to somebody else."""
    digest = hashlib.sha256(sealing_key.public_bytes()).hexdigest()
    if claims.cnf.jkt != proof_key.thumbprint() or (claims.hpke.suite, claims.hpke.digest) != (
        sealing_key.suite,
        digest,
    ):
        raise Refusal("token_invalid", "the token is not bound to the keys of this attestation", status=401)


def _invalid_challenge(service: Service, reason: str) -> Unavailable:
    return Unavailable(
        "peer_answer_invalid", f"{service.name} gave a challenge that cannot be used: {reason}"
    )

# SPDX-License-Identifier: GPL-3.0-or-later
"""The Verifier: may this host have a challenge, and is its evidence good? Pure: no I/O, no time of its own.

Every rule of attestation is called from here, in the order in which it is applied; the numbers are those of
the protocol (docs/protocol.md, "Attestation").

`admit` (3.1), the cheapest and most restrictive first:
  3.1.1 size and form of the request
  3.1.2 the assertion: signed by an imported principal, for this Trust Authority Cluster, not ended
  3.1.3 its scope exists and belongs to that principal
  3.1.4 neither host nor endorsement key is denied
  3.1.5 the endorsement key is the assertion's, and the policy of `tpm2_settings` trusts it
  3.1.6 the attestation key is a restricted signing key of a TPM
  3.1.7 the scope has base images: they say what to quote

`verify` (3.4), for evidence whose challenge was opened, and used up, before:
  3.4.0 the challenge's request is identified and admitted again, by the configuration of now: by the caller
  3.4.1 magic, type, exact length
  3.4.2 signature by the attestation key's own scheme
  3.4.3 qualifying data: this challenge, request, secret, event log, claims and session keys
  3.4.4 qualified name: a key of this TPM's endorsement hierarchy
  3.4.5 the signed PCR selection is the one that was asked for
  3.4.6 PCR digest: the values that are judged are those that the TPM signed
  3.4.7 clock: `clock_history.check_clock`, by the caller in the transaction that also keeps it
  3.4.8 replay of the event log, appraisal against the scope's base images
  3.4.9 identity: `identity_bindings.bind`, by the caller in the transaction of 3.4.7

Nothing that the agent says of its PCRs is believed before 3.4.6. Whoever calls must do 3.4.7 and 3.4.9 before
it signs, use the challenge only once, and write the audit record.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from trusted_infrastructure import base_images, sealing
from trusted_infrastructure.attestation.challenges import ChallengeState
from trusted_infrastructure.attestation.endorsement_policy import EndorsementPolicy
from trusted_infrastructure.attestation.verified import BoundedMemory, Verified, key_of
from trusted_infrastructure.config.documents import (
    BaseImage,
    ConsumerPrincipal,
    DeniedHost,
    Scope,
    TrustAuthorityCluster,
)
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.messages import (
    ChallengeRequest,
    Evidence,
    decode,
    qualifying_data,
)
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tokens import (
    AssertionClaims,
    Principal,
    certificate_boundaries,
    public_key_from_jwk,
    verify_assertion,
)
from trusted_infrastructure.tpm import keys, quote
from trusted_infrastructure.tpm.algorithms import HASHES_BY_NAME
from trusted_infrastructure.tpm.event_log import EventLog, parse_event_log
from trusted_infrastructure.tpm.public_area import PublicArea, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import ClockInfo

MAX_REQUEST = 65536  # an assertion, two public areas and a few certificates take about 8 kB
MAX_CLAIMS = 4096


@dataclass(frozen=True)
class DeniedHosts:
    """Who was removed: host id -> why, and digest of the endorsement key -> why."""

    hosts: Mapping[str, str]
    ek_digests: Mapping[str, str]

    @classmethod
    def of(cls, snapshot: Snapshot) -> DeniedHosts:
        denied = snapshot.documents("denied_host", DeniedHost).values()
        return cls({one.host: one.reason for one in denied}, {one.ek_digest: one.reason for one in denied})


@dataclass(frozen=True)
class AllowedImages:
    """The base images that a scope may use, and what to quote for them."""

    images: Sequence[BaseImage]
    exact: base_images.ExactPcrs
    bank: str
    pcrs: tuple[int, ...]


@dataclass(frozen=True)
class Configuration:
    """One state of the configuration, prepared for judging. Make one for each snapshot."""

    snapshot: Snapshot
    cluster: TrustAuthorityCluster
    principals: Sequence[Principal]
    endorsement_policy: EndorsementPolicy
    denied: DeniedHosts
    assertions: Verified[AssertionClaims] = field(default_factory=Verified)
    _areas: BoundedMemory[tuple[str, bytes], PublicArea] = field(default_factory=BoundedMemory)
    _images: dict[str, AllowedImages] = field(default_factory=dict)

    def public_area(self, data: bytes, structure: str) -> PublicArea:
        """A public area, read once: which key it is, and no judgement of it. Raises InvalidField."""
        area = self._areas.get((structure, data))
        if area is None:
            area = self._areas.put((structure, data), parse_tpm2b_public(data, structure))
        return area

    def images(self, name: str, scope: Scope) -> AllowedImages:
        """The base images of a scope, chosen once. Raises Refusal `no_base_image`."""
        allowed = self._images.get(name)
        if allowed is None:
            images = base_images.images_for(
                self.snapshot.documents("base_image", BaseImage), scope.base_images
            )
            bank, pcrs = base_images.quote_selection(images)
            exact = base_images.ExactPcrs(images)
            allowed = self._images[name] = AllowedImages(images, exact, bank, pcrs)
        return allowed


@dataclass(frozen=True)
class AdmittedHost:
    """A host that may be challenged. allowed: what its quote must have, and may show."""

    assertion: AssertionClaims
    ek: PublicArea
    ak: PublicArea
    allowed: AllowedImages


@dataclass(frozen=True)
class Appraisal:
    """Evidence that was verified, and the base image that it matches. Not yet compared: `clock` (3.4.7)."""

    host: AdmittedHost
    image: BaseImage
    clock: ClockInfo


class EvidenceClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agent's own claims, hashed into the quote. All optional.

    pcr_values: PCR (decimal text) -> value (hex). An agent gives all PCRs that it quotes, so that a refusal
    names the PCR that the event log does not explain, and a PCR that is extended without being logged can
    match an image's `value`. Believed only because 3.4.6 finds the values in what the TPM signed.
    """

    pcr_values: dict[
        Annotated[str, msgspec.Meta(pattern=r"^(1?[0-9]|2[0-3])$(?!\n)")],
        Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}){20,64}$(?!\n)")],
    ] = {}


def configuration_of(snapshot: Snapshot) -> Configuration:
    """Prepare a snapshot. Raises Unavailable `service_disabled` when the cluster is not enabled here."""
    cluster = snapshot.get("trust_authority_cluster", "cluster", TrustAuthorityCluster)
    if cluster is None or cluster.state != "ENABLE":
        raise Unavailable(
            "service_disabled",
            "the Trust Authority Cluster is not enabled on this host",
            "Enable the Trust Authority Cluster with its manager.",
        )
    principals = [
        Principal(principal.issuer, principal.certificates)
        for principal in snapshot.documents("consumer_principal", ConsumerPrincipal).values()
    ]
    return Configuration(snapshot, cluster, principals, EndorsementPolicy(snapshot), DeniedHosts.of(snapshot))


def identify(body: bytes, configuration: Configuration, now: int) -> tuple[ChallengeRequest, AssertionClaims]:
    """Steps 3.1.1 and 3.1.2: who calls, as far as a principal vouches for it.

    Raises InvalidField `malformed_request`, Refusal `assertion_*`, `principal_unknown`,
    `certificate_expired`.
    """
    # 3.1.1
    if len(body) > MAX_REQUEST:
        raise InvalidField("body", f"is {len(body)} bytes long: expected at most {MAX_REQUEST}")
    request = decode(body, ChallengeRequest)
    # 3.1.2 Without this, every machine in the world could have its endorsement key judged here.
    known = key_of(request.assertion.encode())
    claims = configuration.assertions.get(known, now)
    if claims is None:
        principals = configuration.principals
        claims = verify_assertion(request.assertion, principals, configuration.cluster.group, now)
        ends = (claims.exp, *certificate_boundaries(principals))
        configuration.assertions.put(known, claims, now, ends)
    return request, claims


def admit(
    request: ChallengeRequest, assertion: AssertionClaims, configuration: Configuration, now: int
) -> AdmittedHost:
    """Steps 3.1.3 to 3.1.7, for a request that was identified.

    Raises Refusal `scope_unknown`, `host_denied`, `ek_*`, `ak_*`, `no_base_image`, InvalidField.
    """
    snapshot = configuration.snapshot
    # 3.1.3 Without the principal, one workload manager could put its hosts into another's scope.
    scope = snapshot.get("scope", assertion.scope, Scope)
    if scope is None or scope.principal != assertion.iss:
        raise Refusal(
            "scope_unknown",
            f"principal {assertion.iss!r} has no scope {assertion.scope!r} here",
            "Create the scope for this principal on the Trust Authority side (trust_authority role).",
        )
    # 3.1.4
    check_denied(configuration.denied, assertion)
    # 3.1.5
    ek = configuration.public_area(request.ek_public, "ek_public")
    configuration.endorsement_policy.check(ek, assertion.ek_digest, request.ek_certificates, now)
    # 3.1.6 Without this, a key that signs anything could sign a quote that no TPM made.
    ak = configuration.public_area(request.ak_public, "ak_public")
    keys.check_attestation_key(ak)
    # 3.1.7
    allowed = configuration.images(assertion.scope, scope)
    return AdmittedHost(assertion, ek, ak, allowed)


def check_denied(denied: DeniedHosts, assertion: AssertionClaims) -> None:
    """Step 3.1.4. Raises Refusal `host_denied`."""
    # An assertion outlives the removal of its host by weeks; this is what ends it.
    reason = denied.hosts.get(assertion.sub, denied.ek_digests.get(assertion.ek_digest))
    if reason is not None:
        raise Refusal(
            "host_denied",
            f"host {assertion.sub!r} or its TPM is denied" + (f": {reason}" if reason else ""),
            "Add the host to its trusted cluster again, which withdraws the denial.",
        )


def verify(state: ChallengeState, evidence: Evidence, host: AdmittedHost, minimum_suite: str) -> Appraisal:
    """Steps 3.4.1 to 3.4.8 but for 3.4.7.

    state: of the challenge, already used up. host: of the challenge's request, admitted again (3.4.0).
    minimum_suite: name from `sealing.SUITES`.
    Raises Refusal `quote_*`, `event_log_*`, `base_image_mismatch`, `base_image_retired`, InvalidField.
    """
    check_session_keys(evidence, minimum_suite)
    attested = quote.verify_signed(  # 3.4.1 to 3.4.5
        ak=host.ak,
        attest=evidence.quote,
        signature=evidence.signature,
        qualifying_data=expected_qualifying_data(state, evidence),
        qualified_names=keys.endorsement_hierarchy_names(host.ek, host.ak),
        bank=state.bank,
        pcrs=state.pcrs,
    )
    log = parse_event_log(evidence.event_log)
    claimed = _claims(evidence).pcr_values
    values = _values(claimed, log, state.bank, state.pcrs)
    _check_pcr_digest(attested, host.ak, state.pcrs, values, bool(claimed))  # 3.4.6
    images = host.allowed
    image = base_images.appraise(images.images, state.bank, values, log, images.exact)  # 3.4.8
    return Appraisal(host, image, attested.clock)


def check_session_keys(evidence: Evidence, minimum_suite: str) -> None:
    """The session keys are keys, and the suite is one that the cluster allows.

    Raises InvalidField, Refusal `malformed_request`.
    """
    public_key_from_jwk(evidence.proof_key.x, evidence.proof_key.y)
    sealing.check_public_key(evidence.hpke_suite, evidence.hpke_public_key)
    # Without this, an agent of an older release would keep the cluster on a suite that is too weak.
    if not sealing.meets_minimum(evidence.hpke_suite, minimum_suite):
        raise InvalidField("hpke_suite", f"{evidence.hpke_suite} is below the configured {minimum_suite}")


def expected_qualifying_data(state: ChallengeState, evidence: Evidence) -> bytes:
    """What the TPM must have signed, from what we sent and what we received."""
    return qualifying_data(
        purpose=state.purpose,
        service_id=state.service_id,
        nonce=state.nonce,
        challenge_request=state.request,
        secret_proof=hmac.digest(state.secret, state.identifier, "sha256"),
        pcr_selection=quote.pcr_selection(state.bank, state.pcrs),
        proof_key_thumbprint=evidence.proof_key.thumbprint(),
        hpke_suite=evidence.hpke_suite,
        hpke_public_key=evidence.hpke_public_key,
        event_log=evidence.event_log,
        claims=evidence.claims,
    )


def _claims(evidence: Evidence) -> EvidenceClaims:
    if len(evidence.claims) > MAX_CLAIMS:
        raise InvalidField("claims", f"is {len(evidence.claims)} bytes long: expected at most {MAX_CLAIMS}")
    return decode_json(evidence.claims, EvidenceClaims, whole="claims")


def _values(claimed: Mapping[str, str], log: EventLog, bank: str, pcrs: Sequence[int]) -> dict[int, bytes]:
    """PCR values to judge: what the agent claims for a PCR, else what the log leads to."""
    size = HASHES_BY_NAME[bank].size
    values = {}
    for pcr in pcrs:
        if str(pcr) in claimed:
            values[pcr] = bytes.fromhex(claimed[str(pcr)])
        else:
            values[pcr] = log.value_of(pcr, bank)
        if len(values[pcr]) != size:
            raise InvalidField(f"claims.pcr_values.{pcr}", f"expected {size} bytes of bank {bank}")
    return values


def _check_pcr_digest(
    attested: quote.Quote, ak: PublicArea, pcrs: Sequence[int], values: Mapping[int, bytes], claimed: bool
) -> None:
    """Step 3.4.6. A log that alone gives the values is what is wrong when they are not the signed ones."""
    try:
        quote.check_pcr_digest(attested, ak, pcrs, values)
    except Refusal:
        if claimed:
            raise
        raise Refusal(
            "event_log_replay",
            f"the event log does not lead to the PCR values that the TPM signed (PCR {list(pcrs)})",
            "Attest again. If it stays: the log was changed, or something extended a PCR that is not in it.",
        ) from None

# SPDX-License-Identifier: GPL-3.0-or-later
"""May this host have this key? The whole decision, without I/O. docs/protocol.md 7.1.

Steps, in this order; the code carries their numbers. (0), the size of the request, is the transport's.

 1. The Trust Authority Cluster is enabled.
 2. The token: signed by an attestation service of this cluster (its own key, in its own name), for this
    cluster's group, and valid now.
 3. The token was judged under the security generation of this host, or the grace period since it rose runs.
 4. Neither the host nor its endorsement key is denied.
 5. The token's scope exists, belongs to the token's principal, and the principal is still imported.
 6. The provider exists, and the scope may use it.
 7. The token states the user space coverage that the provider requires.
 8. The proof: made with the key that the token is bound to, for this method, address, body and token, now.
 9. The key to seal to is the one that was attested, of a suite that is strong enough.
10. For unwrapping and rewrapping: the wrapped key is of this provider, of the token's scope, and of the
    provider's primary key or one that it was rotated from. What a compromised one wrapped is opened, so that
    its data can be moved, and not wrapped again as it is. What an earlier one wrapped is not opened to be
    kept: that key may be given up at any time, and is counted before, not while it is.

A usage report passes steps 1 to 8. Left to the caller: the rate limit, the audit record, and whether the
primary key is at hand.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from trusted_infrastructure import messages, sealing, tokens, wrapping
from trusted_infrastructure.config.documents import (
    ConsumerPrincipal,
    DeniedHost,
    KeyProvider,
    PreviousPrimaryKey,
    Scope,
    TrustAuthorityCluster,
)
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.messages import (
    CreateKeyRequest,
    KeyUsageReport,
    RewrapKeyRequest,
    UnwrapKeyRequest,
)
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tokens import PublicKey, TokenClaims

CLUSTER_ID = "cluster"
ALL = "*"
# A host keeps keys under the primary key of now, and under a few earlier ones.
MAX_REPORTED = 64
MAX_COUNT = 2**31
_ATTEST_AGAIN = "Attest again."

VerifyToken = Callable[[str, Mapping[str, PublicKey], str, int, Mapping[str, Collection[str]]], TokenClaims]
Action = Literal["create", "unwrap", "rewrap", "usage"]
_MESSAGES: dict[Action, type[CreateKeyRequest | UnwrapKeyRequest | RewrapKeyRequest]] = {
    "create": CreateKeyRequest,
    "unwrap": UnwrapKeyRequest,
    "rewrap": RewrapKeyRequest,
}


@dataclass(frozen=True)
class KeyRequest:
    """One request as it came. url: of the configured public name. body: exact bytes."""

    provider: str
    method: str
    url: str
    body: bytes
    token: str
    proof: str
    action: Action


@dataclass(frozen=True)
class Knowledge:
    """What this host knows when it decides.

    keys, issuers: kid -> key, and kid -> service ids, of the attestation services. superseded: when the
    security generation rose above the given one (Unix seconds); None if it did not. outdated: kid -> service
    id, of keys that were not confirmed for too long.
    """

    snapshot: Snapshot
    keys: Mapping[str, PublicKey]
    issuers: Mapping[str, Collection[str]]
    superseded: Callable[[int], int | None]
    outdated: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Authorization:
    """A request for a key that passed every step.

    wrapped: set for unwrapping and rewrapping. wraps: a key is to be wrapped, under the provider's primary
    key. keeps: the host keeps from now on what it did not keep before. max_age: seconds for which a primary
    key serves that no server confirms.
    """

    claims: TokenClaims
    proof_jti: str
    provider: KeyProvider
    object_label: str
    hpke_public_key: bytes
    wrapped: wrapping.WrappedKey | None
    wraps: bool
    keeps: bool
    max_age: int

    @property
    def opened_with(self) -> str | None:
        """Id of the primary key that the wrapped key is under; None where nothing is to be opened."""
        return None if self.wrapped is None else self.wrapped.header.primary_key_id


@dataclass(frozen=True)
class ReportAuthorization:
    """A usage report that passed steps 1 to 8. keys: primary key id -> how many wrapped keys the host
    keeps. known: see `KeyUsageReport`."""

    claims: TokenClaims
    provider: KeyProvider
    keys: Mapping[str, int]
    known: int


def enabled_cluster(snapshot: Snapshot) -> TrustAuthorityCluster:
    """Step 1. Raises Unavailable `configuration_unavailable`."""
    cluster = snapshot.get("trust_authority_cluster", CLUSTER_ID, TrustAuthorityCluster)
    if cluster is None or cluster.state != "ENABLE":
        raise Unavailable(
            "configuration_unavailable",
            "this host belongs to no enabled Trust Authority Cluster",
            "Enable the Trust Authority Cluster.",
        )
    return cluster


def authenticate(
    request: KeyRequest, knowledge: Knowledge, now: int, verify: VerifyToken = tokens.verify_token
) -> TokenClaims:
    """Steps 1 and 2: who asks. verify: `tokens.verify_token`, or one that remembers. Raises Refusal."""
    # 1
    cluster = enabled_cluster(knowledge.snapshot)
    # 2
    kid = tokens.unverified_kid(request.token) if knowledge.outdated else ""
    if kid not in knowledge.keys and kid in knowledge.outdated:
        raise Unavailable(
            "token_keys_outdated",
            f"the keys of {knowledge.outdated[kid]} were not confirmed for too long",
            "Start that attestation service, or let the host attest at another one.",
        )
    return verify(request.token, knowledge.keys, cluster.group, now, knowledge.issuers)


def authorize(request: KeyRequest, claims: TokenClaims, knowledge: Knowledge, now: int) -> Authorization:
    """Steps 3 to 10: whether they may. claims: from `authenticate` of the same request. Raises Refusal."""
    # 3 to 8
    cluster, provider, proof_jti = _admit(request, claims, knowledge, now)
    # The body is parsed only now: its digest is in the proof, so an attested host wrote it.
    message = messages.decode(request.body, _MESSAGES[request.action])
    # 9
    _check_target(claims, message.hpke_public_key, cluster.hpke_suite)
    # 10
    keeps = isinstance(message, UnwrapKeyRequest) and message.keep is True
    if isinstance(message, CreateKeyRequest):
        label, wrapped, wraps = message.object_label, None, True
    else:
        wrapped = _wrapped(message.wrapped_key, request, provider, claims)
        label = wrapped.header.object_label
        earlier = wrapped.header.primary_key_id != provider.master_key_id
        if keeps and earlier:
            raise Refusal(
                "primary_key_previous",
                f"the wrapped key is under {wrapped.header.primary_key_id!r}, which may be given up at any"
                f" time: provider {request.provider!r} wraps with {provider.master_key_id!r} now",
                "Have it wrapped again (action=rewrap), and keep that.",
                status=409,
            )
        wraps = request.action == "rewrap" and earlier
    return Authorization(
        claims,
        proof_jti,
        provider,
        label,
        message.hpke_public_key,
        wrapped,
        wraps,
        wraps or keeps,
        cluster.key_cache_max_age,
    )


def authorize_report(
    request: KeyRequest, claims: TokenClaims, knowledge: Knowledge, now: int
) -> ReportAuthorization:
    """Steps 3 to 8, for a usage report. claims: from `authenticate` of the same request. Raises Refusal."""
    _cluster, provider, _proof_jti = _admit(request, claims, knowledge, now)
    message = messages.decode(request.body, KeyUsageReport)
    if len(message.keys) > MAX_REPORTED:
        raise InvalidField("keys", f"has {len(message.keys)} primary keys; at most {MAX_REPORTED} are taken")
    for key_id, count in message.keys.items():
        if not 1 <= len(key_id) <= 255 or not key_id.isprintable():
            raise InvalidField("keys", f"{key_id[:64]!r} is no id of a primary key")
        if not 0 <= count < MAX_COUNT:
            raise InvalidField(f"keys.{key_id}", f"is {count}; expected 0 to {MAX_COUNT - 1}")
    return ReportAuthorization(claims, provider, message.keys, messages.number(message.known))


def _admit(
    request: KeyRequest, claims: TokenClaims, knowledge: Knowledge, now: int
) -> tuple[TrustAuthorityCluster, KeyProvider, str]:
    """Steps 3 to 8: the cluster, the provider, and the proof's `jti`."""
    snapshot = knowledge.snapshot
    cluster = enabled_cluster(snapshot)
    # 3
    _check_generation(claims, knowledge, cluster.grace_period, now)
    # 4
    _check_denied(claims, snapshot)
    # 5
    scope = _scope(claims, snapshot)
    # 6
    provider = _provider(request.provider, claims, scope, snapshot)
    # 7
    if provider.required_userspace not in ("none", claims.userspace):
        raise Refusal(
            "userspace_required",
            f"provider {request.provider!r} requires user space coverage {provider.required_userspace!r};"
            f" base image {claims.base_image!r} states {claims.userspace!r}",
            "Boot a base image with that coverage, or change what the provider requires.",
        )
    # 8
    proof_jti = tokens.verify_proof(
        request.proof, request.method, request.url, request.body, request.token, claims.cnf.jkt, now
    )
    return cluster, provider, proof_jti


def _check_generation(claims: TokenClaims, knowledge: Knowledge, grace: int, now: int) -> None:
    risen = knowledge.superseded(claims.security_generation)
    if risen is not None and now - risen > grace:
        raise Refusal(
            "token_security_generation",
            f"the token was judged under security generation {claims.security_generation}; trust was"
            f" withdrawn since, and now it is {knowledge.snapshot.security_generation}",
            _ATTEST_AGAIN,
            status=401,
        )


def _check_denied(claims: TokenClaims, snapshot: Snapshot) -> None:
    for denied in snapshot.documents("denied_host", DeniedHost).values():
        if denied.host == claims.sub or denied.ek_digest == claims.ek_digest:
            raise Refusal(
                "host_denied",
                f"host {claims.sub!r} was removed from the trusted cluster",
                "Add the host again if it is to be trusted.",
            )


def _scope(claims: TokenClaims, snapshot: Snapshot) -> Scope:
    scope = snapshot.get("scope", claims.scope, Scope)
    imported = snapshot.documents("consumer_principal", ConsumerPrincipal).values()
    if scope is None or scope.principal != claims.principal:
        raise Refusal(
            "scope_unknown",
            f"principal {claims.principal!r} has no scope {claims.scope!r}",
            "Set up the scope on the Trust Authority side.",
        )
    if all(principal.issuer != claims.principal for principal in imported):
        raise Refusal(
            "principal_unknown",
            f"principal {claims.principal!r} is not imported",
            "Import the workload manager's principal on the Trust Authority side.",
        )
    return scope


def _provider(name: str, claims: TokenClaims, scope: Scope, snapshot: Snapshot) -> KeyProvider:
    provider = snapshot.get("key_provider", name, KeyProvider)
    if provider is None:
        raise Refusal(
            "provider_unknown",
            f"there is no trusted key provider {name[:255]!r}",
            "Use the name of a provider of this Trust Authority Cluster.",
            status=404,
        )
    if ALL not in scope.providers and name not in scope.providers:
        raise Refusal(
            "provider_denied",
            f"scope {claims.scope!r} may not use provider {name!r}",
            "Allow the provider for the scope on the Trust Authority side.",
        )
    return provider


def _check_target(claims: TokenClaims, public_key: bytes, minimum: str) -> None:
    known = {claims.hpke.suite, minimum} <= sealing.SUITES.keys()
    if not known or not sealing.meets_minimum(claims.hpke.suite, minimum):
        raise Refusal(
            "token_invalid",
            f"keys are sealed with {minimum} or stronger; the token has {claims.hpke.suite!r}",
            f"Attest again with suite {minimum}.",
            status=401,
        )
    found = hashlib.sha256(public_key).hexdigest()
    if not hmac.compare_digest(found, claims.hpke.digest):
        raise Refusal(
            "proof_mismatch",
            "the key to seal to (hpke_public_key) is not the one that was attested",
            _ATTEST_AGAIN,
            status=401,
        )


def _wrapped(
    wrapped_key: bytes, request: KeyRequest, provider: KeyProvider, claims: TokenClaims
) -> wrapping.WrappedKey:
    wrapped = wrapping.parse(wrapped_key)
    header = wrapped.header
    if header.provider != request.provider:
        raise Refusal(
            "wrapped_key_invalid",
            f"the wrapped key is of provider {header.provider!r}, not {request.provider!r}",
            "Ask the provider that made it.",
        )
    if header.scope != claims.scope:
        raise Refusal(
            "scope_mismatch",
            f"the wrapped key is of scope {header.scope!r}; the host is of scope {claims.scope!r}",
            "Hosts open keys of their own trusted cluster only.",
        )
    if header.primary_key_id == provider.master_key_id:
        return wrapped
    previous = previous_key(provider, header.primary_key_id)
    if previous is None:
        # Not final: another host of this cluster may have a newer configuration, and know the key.
        raise Unavailable(
            "primary_key_unavailable",
            f"the wrapped key needs primary key {header.primary_key_id!r}; provider {request.provider!r} has"
            f" {provider.master_key_id!r}, and none before it that is still in use",
            "Remediate the Trust Authority Cluster, or set the provider's primary key back.",
        )
    if previous.compromised and request.action == "rewrap":
        raise Refusal(
            "primary_key_compromised",
            f"primary key {previous.master_key_id!r} is compromised: whoever has it knows the keys that it"
            " wrapped, so they are not wrapped again",
            "Make a new key for the object, and encrypt its data anew (deep recrypt).",
            status=409,
        )
    return wrapped


def previous_key(provider: KeyProvider, key_id: str) -> PreviousPrimaryKey | None:
    """One of the primary keys that a provider was rotated from, while it is in use."""
    return next((key for key in provider.previous_keys if key.master_key_id == key_id), None)

# SPDX-License-Identifier: GPL-3.0-or-later
"""May this host have this key? The whole decision, without I/O. SYSTEM K3, K9; PROTOCOL 4, 5.

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
10. For unwrapping: the wrapped key is of this provider, of its primary key, and of the token's scope.

Left to the caller: the rate limit, the audit record, and whether the primary key is at hand.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from trusted_infrastructure import messages, tokens, wrapping
from trusted_infrastructure.config.documents import (
    ConsumerPrincipal,
    DeniedHost,
    KeyProvider,
    Scope,
    TrustAuthorityCluster,
)
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.messages import CreateKeyRequest, UnwrapKeyRequest
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tokens import PublicKey, TokenClaims

# Which suite may stand in for a configured minimum: what a quantum computer opens never stands in for what it
# does not.
SUITE_STRENGTH = {"X25519": 1, "P256": 1, "MLKEM768_X25519": 2, "MLKEM1024_P384": 3}
CLUSTER_ID = "cluster"
ALL = "*"
_ATTEST_AGAIN = "Attest again."


@dataclass(frozen=True)
class KeyRequest:
    """One request as it came. url: of the configured public name. body: exact bytes."""

    provider: str
    method: str
    url: str
    body: bytes
    token: str
    proof: str
    create: bool


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
    """A request that passed every step.

    wrapped: set for unwrapping. max_age: seconds for which a primary key serves that no server confirms.
    """

    claims: TokenClaims
    proof_jti: str
    provider: KeyProvider
    object_label: str
    hpke_public_key: bytes
    wrapped: wrapping.WrappedKey | None
    max_age: int


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


def authenticate(request: KeyRequest, knowledge: Knowledge, now: int) -> TokenClaims:
    """Steps 1 and 2: who asks. Raises Refusal."""
    # 1
    cluster = enabled_cluster(knowledge.snapshot)
    # 2
    kid = tokens.unverified_kid(request.token)
    if kid not in knowledge.keys and kid in knowledge.outdated:
        raise Unavailable(
            "token_keys_outdated",
            f"the keys of {knowledge.outdated[kid]} were not confirmed for too long",
            "Start that attestation service, or let the host attest at another one.",
        )
    return tokens.verify_token(request.token, knowledge.keys, cluster.group, now, knowledge.issuers)


def authorize(request: KeyRequest, claims: TokenClaims, knowledge: Knowledge, now: int) -> Authorization:
    """Steps 3 to 10: whether they may. claims: from `authenticate` of the same request. Raises Refusal."""
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
    # The body is parsed only now: its digest is in the proof, so an attested host wrote it.
    message: CreateKeyRequest | UnwrapKeyRequest
    if request.create:
        message = messages.decode(request.body, CreateKeyRequest)
    else:
        message = messages.decode(request.body, UnwrapKeyRequest)
    # 9
    _check_target(claims, message.hpke_public_key, cluster.hpke_suite)
    # 10
    if isinstance(message, CreateKeyRequest):
        label, wrapped = message.object_label, None
    else:
        wrapped = _wrapped(message.wrapped_key, request.provider, provider, claims)
        label = wrapped.header.object_label
    return Authorization(
        claims,
        proof_jti,
        provider,
        label,
        message.hpke_public_key,
        wrapped,
        cluster.key_cache_max_age,
    )


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
    strength = SUITE_STRENGTH.get(claims.hpke.suite, 0)
    if strength == 0 or strength < SUITE_STRENGTH.get(minimum, max(SUITE_STRENGTH.values()) + 1):
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
    wrapped_key: bytes, name: str, provider: KeyProvider, claims: TokenClaims
) -> wrapping.WrappedKey:
    wrapped = wrapping.parse(wrapped_key)
    header = wrapped.header
    if header.provider != name:
        raise Refusal(
            "wrapped_key_invalid",
            f"the wrapped key is of provider {header.provider!r}, not {name!r}",
            "Ask the provider that made it.",
        )
    if header.scope != claims.scope:
        raise Refusal(
            "scope_mismatch",
            f"the wrapped key is of scope {header.scope!r}; the host is of scope {claims.scope!r}",
            "Hosts open keys of their own trusted cluster only.",
        )
    if header.primary_key_id != provider.master_key_id:
        raise Refusal(
            "primary_key_unavailable",
            f"the wrapped key needs primary key {header.primary_key_id!r}; provider {name!r} has"
            f" {provider.master_key_id!r}",
            "Rewrap the key, or set the provider's primary key back.",
        )
    return wrapped

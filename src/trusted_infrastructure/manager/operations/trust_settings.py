# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a Trust Authority Cluster that vSphere has not, and accepting that a TPM was cleared."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from trusted_infrastructure import sealing
from trusted_infrastructure.manager import trust_authority
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.health import document_health
from trusted_infrastructure.manager.nodes import NodeError, ask
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH, ClusterInput, HealthInfo
from trusted_infrastructure.manager.operations.trust_cluster_hosts import check_enrolment
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ResourceInaccessible,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Structure

PATH = f"{TRUST_PATH}/clusters/{{cluster}}"

# The ranges of the document (config.documents.TrustAuthorityCluster).
LONGEST_TOKEN = 86400
TokenLifetime = Annotated[int, msgspec.Meta(ge=60, le=LONGEST_TOKEN)]
GracePeriod = Annotated[int, msgspec.Meta(ge=0, le=3600)]
CacheAge = Annotated[int, msgspec.Meta(ge=0, le=604800)]


# A key provider looks for a new configuration this often, or with the next request (key_provider.host_state).
SEEN_WITHIN = 2
# An agent looks at its tokens each second, and asks for withdrawals at least this often (host.withdrawals).
WIPED_WITHIN = 1
LEARNT_WITHIN = 30


class Bounds(Structure, frozen=True):
    """For how long an earlier decision can still count, in seconds.

    token_lifetime_maximum: the most that token_lifetime can be set to. withdrawn_trust: until a key provider
    host that took a withdrawal refuses tokens that were judged before it; one that it does not reach refuses
    them when they end. denied_host: the same, for hosts, principals and scopes that are gone or denied.
    agent_learns: until an attested host asks whether trust was withdrawn, and then attests again within half
    the grace period. agent_wipes: until it has forgotten its tokens and session keys after a token's end, and
    after a refusal.
    """

    token_lifetime_maximum: int
    withdrawn_trust: int
    denied_host: int
    agent_learns: int
    agent_wipes: int


class Info(HealthInfo, frozen=True):
    """Settings of a Trust Authority Cluster; times in seconds. hpke_suite: the least that hosts must use."""

    token_lifetime: int
    grace_period: int
    key_cache_max_age: int
    hpke_suite: str
    bounds: Bounds


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    token_lifetime: TokenLifetime | None = None
    grace_period: GracePeriod | None = None
    key_cache_max_age: CacheAge | None = None
    hpke_suite: str | None = None

    def __post_init__(self) -> None:
        if self.hpke_suite is not None and self.hpke_suite not in sealing.SUITES:
            known = ", ".join(sorted(sealing.SUITES))
            raise FieldError("hpke_suite", f"is not known; there are {known}")


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    cluster: Identifier
    spec: UpdateSpec


class AcceptInput(Structure, frozen=True):
    """Input of accept."""

    cluster: Identifier
    ek_digest: str

    def __post_init__(self) -> None:
        check_enrolment(self.ek_digest, None)


class Accepted(msgspec.Struct, frozen=True):
    """A host's answer."""

    changed: bool


async def get(context: Context, _given: ClusterInput) -> Info:
    with context.manager.database.transaction() as connection:
        content = trust_authority.document_or_new(connection, context.cluster)
    comparison = await context.manager.replication.compare(context.cluster)
    health, details = document_health(comparison, trust_authority.KIND, trust_authority.ID)
    return Info(
        health=health,
        details=details,
        token_lifetime=content.token_lifetime,
        grace_period=content.grace_period,
        key_cache_max_age=content.key_cache_max_age,
        hpke_suite=content.hpke_suite,
        bounds=Bounds(
            token_lifetime_maximum=LONGEST_TOKEN,
            withdrawn_trust=content.grace_period + SEEN_WITHIN,
            denied_host=SEEN_WITHIN,
            agent_learns=LEARNT_WITHIN,
            agent_wipes=WIPED_WITHIN,
        ),
    )


async def update(context: Context, given: UpdateInput) -> None:
    """Also before the cluster is enabled: it then starts with these."""
    async with context.manager.replication.lock(context.cluster):
        with context.manager.database.transaction() as connection:
            before = trust_authority.document_or_new(connection, context.cluster)
        wanted = {
            name: value for name, value in msgspec.structs.asdict(given.spec).items() if value is not None
        }
        content = msgspec.structs.replace(before, **wanted)
        change = Change(trust_authority.KIND, trust_authority.ID, content)
        await context.manager.replication.change(context.cluster, [change])


async def accept_clock(context: Context, given: AcceptInput) -> bool:
    """Each host has its own history of a TPM; all of them must accept. Tells whether any did change."""

    async def one(host: str) -> bool | NodeError:
        path = f"/attestation/manage/v1/endorsement-keys/{given.ek_digest}/accept-clock"
        try:
            return (await ask(context.manager.nodes, host, "POST", path, Accepted)).changed
        except NodeError as error:
            return error

    answers = await asyncio.gather(*(one(host) for host in host_names(context)))
    failures = [answer for answer in answers if isinstance(answer, NodeError)]
    if failures:
        raise ResourceInaccessible(
            f"Not accepted by: {', '.join(failure.host for failure in failures)}.",
            details=[failure.message() for failure in failures],
        )
    return any(answer is True for answer in answers)


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.settings",
        operation="get",
        method="GET",
        path=f"{PATH}/settings",
        summary="Settings of a Trust Authority Cluster",
        input=ClusterInput,
        output=Info,
        handler=get,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(NotFound,),
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=f"{TRUST}.settings",
        operation="update",
        method="PATCH",
        path=f"{PATH}/settings",
        summary="Change settings of a Trust Authority Cluster",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=privileges("TrustedAdmin.ManageTrustedHosts", "TrustedAdmin.ManageTrustedHosts@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        task=True,
        side="trust_authority",
    ),
    Operation(
        service=f"{TRUST}.tpm_clocks",
        operation="accept",
        method="POST",
        path=f"{PATH}/tpm-clocks/{{ek_digest}}",
        action="accept",
        summary="Accept that a TPM was cleared on purpose",
        input=AcceptInput,
        output=bool,
        handler=accept_clock,
        privileges=privileges("TrustedAdmin.ConfigureHostCertificates", "System.View@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        task=True,
        side="trust_authority",
    ),
)

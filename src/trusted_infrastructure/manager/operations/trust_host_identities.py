# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/clusters/{cluster}/host-identities: which endorsement key a trusted host attests with, and releasing
a host whose TPM was replaced.

Each Attestation Service keeps its own; so each of them is asked, and told.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlencode

import msgspec

from trusted_infrastructure.config.documents import ConsumerPrincipal
from trusted_infrastructure.manager import authority_documents
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.nodes import Answer, NodeError, ask
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotFound, ResourceInaccessible
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure, check_dns_name

SERVICE = f"{TRUST}.host_identities"
PATH = f"{TRUST_PATH}/clusters/{{cluster}}/host-identities"
IDENTITIES = "/attestation/manage/v1/identities"


class FilterSpec(Structure, frozen=True):
    """Identities of hosts of one name, where given."""

    host: str | None = None

    def __post_init__(self) -> None:
        if self.host is not None:
            check_dns_name("host", self.host)


class ListInput(Structure, frozen=True):
    """Input of list."""

    cluster: Identifier
    filter: FilterSpec = FilterSpec()


class Identity(Structure, frozen=True):
    """What one Attestation Service has seen: a host (its id in assertions), who vouches for it, and its
    endorsement key. ek_digest: SHA-256 (hex) of the key's public area; key_digest: of its
    SubjectPublicKeyInfo. since: Unix seconds of the first attestation with it."""

    service: str
    host: str
    principal: str
    ek_digest: str
    key_digest: str
    since: int


class ReleaseSpec(Structure, frozen=True):
    """principal: issuer that vouches for the host; unset where the cluster has only one."""

    principal: Identifier | None = None


class ReleaseInput(Structure, frozen=True):
    """Input of release. identity: the host's id in assertions (its inventory name)."""

    cluster: Identifier
    identity: str
    spec: ReleaseSpec = ReleaseSpec()

    def __post_init__(self) -> None:
        check_dns_name("identity", self.identity)


class SeenIdentity(msgspec.Struct, frozen=True):
    """A service's answer about one host."""

    principal: str
    host: str
    ek_digest: str
    key_digest: str
    since: int


class SeenIdentities(msgspec.Struct, frozen=True):
    """A service's answer about hosts."""

    service: str
    identities: list[SeenIdentity]


class Released(msgspec.Struct, frozen=True):
    """A service's answer to a release."""

    changed: bool


async def list_identities(context: Context, given: ListInput) -> list[Identity]:
    host = given.filter.host
    path = IDENTITIES if host is None else f"{IDENTITIES}?{urlencode({'host': host})}"
    answers = await of_all(context, "GET", path, SeenIdentities, "Identities are not known of")
    return [
        Identity(service=answer.service, **msgspec.structs.asdict(seen))
        for answer in answers
        for seen in answer.identities
    ]


async def release(context: Context, given: ReleaseInput) -> bool:
    """Tells whether any service did know the host. Safe to repeat, as after a host that did not answer."""
    query = urlencode({"principal": principal_of(context, given.spec.principal)})
    path = f"/attestation/manage/v1/hosts/{quote(given.identity, safe='')}/release?{query}"
    answers = await of_all(context, "POST", path, Released, "Not released by")
    return any(answer.changed for answer in answers)


def principal_of(context: Context, given: str | None) -> str:
    """The issuer that is meant. Raises InvalidArgument."""
    if given is not None:
        return given
    principals = authority_documents.find_all(context, "consumer_principal", ConsumerPrincipal)
    issuers = sorted({principal.issuer for principal in principals.values()})
    if len(issuers) != 1:
        known = ", ".join(issuers) or "none"
        raise InvalidArgument(
            "spec.principal", f"is required: the cluster does not have one principal ({known})"
        )
    return issuers[0]


async def of_all(context: Context, method: str, path: str, wanted: type[Answer], failed: str) -> list[Answer]:
    """The answers of all hosts of the cluster. Raises ResourceInaccessible that names those without one."""

    async def one(host: str) -> Answer | NodeError:
        try:
            return await ask(context.manager.nodes, host, method, path, wanted)
        except NodeError as error:
            return error

    answers = await asyncio.gather(*(one(host) for host in host_names(context)))
    failures = [answer for answer in answers if isinstance(answer, NodeError)]
    if failures:
        raise ResourceInaccessible(
            f"{failed}: {', '.join(failure.host for failure in failures)}.",
            details=[failure.message() for failure in failures],
        )
    return [answer for answer in answers if not isinstance(answer, NodeError)]


OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Endorsement keys that trusted hosts attest with",
        input=ListInput,
        output=list[Identity],
        handler=list_identities,
        privileges=privileges("TrustedAdmin.ReadTrustedHosts", "System.View@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        query="filter",
        side="trust_authority",
        task=True,
    ),
    Operation(
        service=SERVICE,
        operation="release",
        method="POST",
        path=f"{PATH}/{{identity}}",
        action="release",
        summary="Let a trusted host attest with another endorsement key from now on",
        input=ReleaseInput,
        output=bool,
        handler=release,
        privileges=privileges("TrustedAdmin.ConfigureHostCertificates", "System.View@cluster"),
        errors=(InvalidArgument, NotFound, ResourceInaccessible),
        body="spec",
        side="trust_authority",
        task=True,
    ),
)

# SPDX-License-Identifier: GPL-3.0-or-later
"""crypto_manager.hosts.kms.providers: how native and trusted key providers are on one host."""

from __future__ import annotations

from typing import Literal

from trusted_infrastructure.config.documents import TrustedKeyProvider
from trusted_infrastructure.manager import desired, native_health, native_providers, provider_health
from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.health import Verdict
from trusted_infrastructure.manager.operations.crypto_manager_structures import NativeInfo
from trusted_infrastructure.manager.operations.trust_hosts import look
from trusted_infrastructure.manager.trusted_clusters import PROVIDER_KIND
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotFound,
    message,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = "com.vmware.vcenter.crypto_manager.hosts.kms.providers"
PATH = "/vcenter/crypto-manager/hosts/{host}/kms/providers"
Type = Literal["NATIVE", "TRUST_AUTHORITY"]
# States of a host's attestation, as health of the trusted key providers that need it.
OF_ATTESTATION: dict[str, Health] = {"ATTESTED": "OK", "EXPIRED": "WARNING"}


class FilterSpec(Structure, frozen=True):
    """Providers of these names, health and types; unset or empty: all."""

    providers: list[Identifier] | None = None
    health: list[Health] | None = None
    types: list[Type] | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    host: Identifier
    filter: FilterSpec = FilterSpec()


class ProviderInput(Structure, frozen=True):
    """Input of get."""

    host: Identifier
    provider: Identifier


class Summary(Structure, frozen=True):
    """A provider on a host."""

    provider: str
    type: Type
    health: Health


class Info(Structure, frozen=True):
    """A provider on a host. details: why it is not OK there."""

    health: Health
    details: list[LocalizableMessage]
    type: Type
    native_info: NativeInfo | None = None


async def list_providers(context: Context, given: ListInput) -> list[Summary]:
    wanted = given.filter
    return [
        Summary(provider=name, type=kind, health=health)
        for name, (kind, (health, _details)) in (await found_on(context)).items()
        if (not wanted.providers or name in wanted.providers)
        and (not wanted.health or health in wanted.health)
        and (not wanted.types or kind in wanted.types)
    ]


async def get(context: Context, given: ProviderInput) -> Info:
    known = (await found_on(context)).get(given.provider)
    if known is None:
        raise NotFound(
            f"{context.host.name!r} has no native or trusted key provider {given.provider!r}.",
            given.provider,
            reason="no_provider",
        )
    kind, (health, details) = known
    native = None
    if kind == "NATIVE":
        with context.manager.database.transaction() as connection:
            native = NativeInfo(key_id=native_providers.find(connection, given.provider).key_id)
    return Info(health=health, details=details, type=kind, native_info=native)


async def found_on(context: Context) -> dict[str, tuple[Type, Verdict]]:
    """The providers of the host, by name, with kind and health."""
    manager, host = context.manager, context.host
    with manager.database.transaction() as connection:
        trusted = list(desired.contents(connection, context.cluster, PROVIDER_KIND, TrustedKeyProvider))
    found: dict[str, tuple[Type, Verdict]] = {
        name: ("NATIVE", verdict)
        for name, verdict in (await native_health.verdicts_on(manager, host)).items()
    }
    if trusted:
        attested, details = await of_attestation(context)
        known = provider_health.known_of_trusted(manager)
        for name in trusted:
            health, reasons = known.get(name, ("NONE", []))
            found[name] = ("TRUST_AUTHORITY", (worst([attested, health]), [*details, *reasons]))
    return dict(sorted(found.items()))


async def of_attestation(context: Context) -> Verdict:
    """How the host is for trusted key providers, whichever: they serve it while it is attested."""
    seen = await look(context.manager, context.host, context.manager.settings.node_timeout)
    health = OF_ATTESTATION.get(seen.state, "ERROR")
    if health == "OK":
        return "OK", []
    text = f"{context.host.name} is {seen.state}: {seen.message or seen.reason}"
    return health, [message(text, seen.reason or "not_attested", context.host.name)]


READ = privileges("Cryptographer.ReadKeyServersInfo@host")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Native and trusted key providers on a host",
        input=ListInput,
        output=list[Summary],
        handler=list_providers,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        query="filter",
        side="workload",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{provider}}",
        summary="One native or trusted key provider on a host",
        input=ProviderInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(InvalidArgument, NotFound),
        side="workload",
    ),
)

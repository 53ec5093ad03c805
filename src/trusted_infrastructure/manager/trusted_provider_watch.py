# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Trust Authority side tells of its trusted providers by itself: health that changed, as the Key
Provider Services report it, and certificates that end."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trusted_infrastructure.config.documents import KeyProvider
from trusted_infrastructure.kmip.client_certificates import certificate_end
from trusted_infrastructure.manager import authority_documents, events, service_reports
from trusted_infrastructure.manager.certificate_reminders import Ending, remind
from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.events import Event, Wanted
from trusted_infrastructure.manager.inventory import Cluster
from trusted_infrastructure.manager.provider_secrets import KIND
from trusted_infrastructure.manager.service_reports import KmsReport, ProviderReport
from trusted_infrastructure.refusal import Refusal

# Characters of what the hosts say, in an event.
SAID = 1000


class _Told(msgspec.Struct, frozen=True):
    """Of the details of an event of health."""

    health: Health = "OK"


async def look(manager: Manager, cluster: Cluster) -> None:
    """One round for a Trust Authority Cluster."""
    context = Context(manager=manager, address="", cluster_named=cluster)
    providers = authority_documents.find_all(context, KIND, KeyProvider)
    if not providers:
        return
    reports = await service_reports.kms(context)
    for name, content in providers.items():
        known = {
            host: report.providers[name]
            for host, report in reports.items()
            if isinstance(report, KmsReport) and name in report.providers
        }
        remind(manager, name, ending(content, known), cluster)
        # A host that has not asked its key servers yet says nothing of them.
        asked = {host: report for host, report in known.items() if report.health != "NONE"}
        tell_of_health(manager, cluster, name, asked, complete=len(asked) == len(reports))


def ending(content: KeyProvider, known: Mapping[str, ProviderReport]) -> list[Ending]:
    """The certificates: the client's, and of each key server the one that ends first of those that hosts
    see."""
    found = []
    if content.client_certificate is not None:
        try:
            end = certificate_end(content.client_certificate)
            found.append(Ending(events.TRUSTED_CLIENT_CERTIFICATE_EXPIRES, end))
        except Refusal:
            pass  # the provider's health says so
    for server in content.servers:
        ends = [
            seen.certificate_end
            for report in known.values()
            for seen in report.servers
            if seen.name == server.name and seen.certificate_end is not None
        ]
        if ends:
            found.append(Ending(events.TRUSTED_SERVER_CERTIFICATE_EXPIRES, min(ends), server.name))
    return found


def tell_of_health(
    manager: Manager, cluster: Cluster, provider: str, known: Mapping[str, ProviderReport], complete: bool
) -> None:
    """An event where the health is another than the last event said, or not OK at first. That it is better is
    known when every host says so (complete)."""
    if not known:
        return
    health = worst(report.health for report in known.values())
    wanted = Wanted(operations=["health"], objects=[provider], clusters=[cluster.number], limit=1)
    with manager.database.transaction() as connection:
        last = next(iter(events.find(connection, wanted)), None)
    before = "OK" if last is None else msgspec.json.decode(last.details, type=_Told).health
    if health == before or (not complete and worst([health, before]) == before):
        return
    if health == "OK":
        kind, said = events.TRUST_AUTHORITY_UNHEALTHY if last is None else last.type, "is well again"
    else:
        host, report = next((host, report) for host, report in known.items() if report.health == health)
        at_servers = any(server.health != "OK" for server in report.servers)
        kind = events.TRUST_AUTHORITY_KMS_UNHEALTHY if at_servers else events.TRUST_AUTHORITY_UNHEALTHY
        said = f"is {health}: {host}: {'; '.join(report.details)}"[:SAID]
    event = Event(
        type=kind,
        time=int(manager.clock()),
        message=f"The key provider {provider} of {cluster.name} {said}.",
        cluster=cluster.number,
        object=provider,
        operation="health",
        details={"provider": provider, "health": health},
    )
    with manager.database.transaction() as connection:
        events.record(connection, event)

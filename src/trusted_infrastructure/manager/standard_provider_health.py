# SPDX-License-Identifier: GPL-3.0-or-later
"""How standard providers do, and what the manager does for them by itself: it looks at their key servers,
warns of certificates that end, and learns the states of keys and whose key servers they are."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import msgspec

from trusted_infrastructure.kmip.client_certificates import certificate_end
from trusted_infrastructure.kmip.servers import KeyServerGroup, ServerStatus
from trusted_infrastructure.manager import events, known_keys, standard_providers
from trusted_infrastructure.manager.certificate_reminders import WARN_BEFORE, Ending, remind
from trusted_infrastructure.manager.comparison import Health, worst
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.events import Event, Wanted
from trusted_infrastructure.manager.health import Verdict
from trusted_infrastructure.manager.standard_key_servers import Looked
from trusted_infrastructure.manager.standard_keys import STATE_OF_REFUSAL
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, message
from trusted_infrastructure.refusal import Refusal

# Seconds between looks at the key servers of a provider.
LOOK_EVERY = 300
# Keys of a provider whose state is asked for in one round, those that were asked longest ago first.
STATES_AT_ONCE = 100


@dataclass(frozen=True)
class ServerReport:
    """A key server: who trusts whom, and what is wrong."""

    name: str
    health: Health
    details: list[LocalizableMessage]
    client_trust_server: bool
    server_trust_client: bool


@dataclass(frozen=True)
class Report:
    """A provider: its own details, and those of its servers."""

    health: Health
    details: list[LocalizableMessage]
    servers: list[ServerReport] = field(default_factory=list)


def report(name: str, provider: StandardProvider, looked: Looked, now: float) -> Report:
    """What was found, in the API's words. It works while one server does: others are warnings then."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    if looked.problem is not None:
        text = f"{looked.problem.message} {looked.problem.remedy}".strip()
        servers = [ServerReport(server.name, "NONE", [], False, False) for server in provider.servers]
        return Report("ERROR", [message(text, looked.problem.code, name)], servers)
    found = [server_report(status, moment) for status in looked.servers]
    healths = [server.health for server in found]
    details: list[LocalizableMessage] = []
    if healths and all(health == "ERROR" for health in healths):
        overall: Health = "ERROR"
        details.append(message("No key server can be used.", "key_server_unreachable", name))
    else:
        overall = "OK" if worst(healths) == "OK" else "WARNING"
    for text, code in provider_warnings(provider, moment):
        overall = worst([overall, "WARNING"])
        details.append(message(text, code, name))
    return Report(overall, details, found)


def server_report(status: ServerStatus, moment: datetime.datetime) -> ServerReport:
    """One server."""
    details: list[LocalizableMessage] = []
    health: Health = "OK"
    if status.problem:
        health = "ERROR"
        details.append(message(status.problem, "key_server_unreachable", status.name))
    elif status.certificate_end is not None and status.certificate_end - moment < WARN_BEFORE:
        health = "WARNING"
        text = f"The certificate of this key server ends at {status.certificate_end:%Y-%m-%dT%H:%M:%SZ}."
        details.append(message(text, "certificate_expired", status.name))
    return ServerReport(
        status.name,
        health,
        details,
        bool(status.client_trust_server),
        bool(status.server_trust_client),
    )


def provider_warnings(provider: StandardProvider, moment: datetime.datetime) -> list[tuple[str, str]]:
    """What is wrong, or will be, with a provider by itself: text and reason code."""
    found = []
    if provider.password is not None and not standard_providers.has_credential(provider):
        text = "The password was set for other key servers, proxy or certificates than the provider has now."
        found.append((f"{text} Set it again.", "credential_not_bound"))
    if provider.client_certificate is not None:
        end = certificate_end(provider.client_certificate)
        if end - moment < WARN_BEFORE:
            found.append((f"The client certificate ends at {end:%Y-%m-%dT%H:%M:%SZ}.", "certificate_expired"))
    return found


async def look(manager: Manager, name: str, provider: StandardProvider) -> Report:
    """Ask the key servers now."""
    found = await look_now(manager, name, provider)
    return report(name, provider, found, manager.clock())


async def look_now(manager: Manager, name: str, provider: StandardProvider) -> Looked:
    """What is found of the key servers now."""
    with manager.database.transaction() as connection:
        kept = known_keys.ids(connection)
    found = await manager.key_servers.look(name, provider, kept)
    tell_of_vendors(manager, name, found)
    return found


def verdicts(manager: Manager) -> dict[str, Verdict]:
    """Health and messages by provider, as of the last look; those that were not looked at are left out."""
    with manager.database.transaction() as connection:
        known = standard_providers.providers(connection)
    found = {}
    for name, provider in known.items():
        looked = manager.key_servers.looked.get(name)
        if looked is not None:
            told = report(name, provider, looked, manager.clock())
            found[name] = (
                told.health,
                [*told.details, *(text for one in told.servers for text in one.details)],
            )
    return found


# ---- what the manager does by itself


async def upkeep(manager: Manager) -> None:
    """One round for all standard providers."""
    with manager.database.transaction() as connection:
        known = standard_providers.providers(connection)
    for name, provider in known.items():
        before = manager.key_servers.looked.get(name)
        if before is not None and manager.clock() - before.time < LOOK_EVERY:
            continue
        found = await look_now(manager, name, provider)
        tell_of_certificates(manager, name, provider, found)
        if any(not status.problem for status in found.servers):
            await refresh_states(manager, name, provider)


def tell_of_vendors(manager: Manager, name: str, looked: Looked) -> None:
    """Events of what key servers say of who made them: once for each, and again where it is another one, but
    one a day for each server: whoever looks makes them. They are for people: the key servers of a provider
    are to be of one vendor."""
    now = manager.clock()
    day = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
    told = {status.name: status.vendor for status in looked.servers if status.vendor}
    with manager.database.transaction() as connection:
        before: dict[str, str] = {}
        for row in events.find(connection, Wanted(types=[events.KMS_VENDOR], objects=[name])):
            details = msgspec.json.decode(row.details, type=dict[str, str])
            before[details["server"]] = details["vendor"]
        for server, vendor in told.items():
            if before.get(server) == vendor:
                continue
            event = Event(
                type=events.KMS_VENDOR,
                time=int(now),
                message=f"Key server {server} of provider {name} says that it is: {vendor}.",
                object=name,
                details={"provider": name, "server": server, "vendor": vendor},
                origin=f"kms-vendor/{day}/{name}/{server}"[:512],
            )
            events.record(connection, event)


def tell_of_certificates(manager: Manager, name: str, provider: StandardProvider, looked: Looked) -> None:
    """Events of certificates that end soon."""
    ending = [
        Ending(events.KMS_SERVER_CERTIFICATE_EXPIRES, status.certificate_end, status.name)
        for status in looked.servers
        if status.certificate_end is not None
    ]
    if provider.client_certificate is not None:
        end = certificate_end(provider.client_certificate)
        ending.append(Ending(events.KMS_CLIENT_CERTIFICATE_EXPIRES, end))
    remind(manager, name, ending)


async def refresh_states(manager: Manager, name: str, provider: StandardProvider) -> None:
    """Ask for the states of some keys, so that a list shows what became of them."""
    with manager.database.transaction() as connection:
        oldest = known_keys.checked_longest_ago(connection, name, STATES_AT_ONCE)
    for key_id in oldest:
        state = await state_now(manager, name, provider, key_id)
        if state is None:
            return
        known_keys.note_state(manager, name, key_id, state)


async def state_now(manager: Manager, name: str, provider: StandardProvider, key_id: str) -> str | None:
    """A key's state; None where no key server can tell."""

    def asked(group: KeyServerGroup) -> str | None:
        return group.attributes(key_id).state

    try:
        return await manager.key_servers.ask(name, provider, asked)
    except Refusal as refusal:
        return STATE_OF_REFUSAL.get(refusal.code)

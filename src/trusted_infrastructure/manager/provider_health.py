# SPDX-License-Identifier: GPL-3.0-or-later
"""How key providers of all kinds are, as far as this manager knows it.

A trusted provider is asked through a host, as the manager has no access to it: the host makes a key and opens
it again (key check). What is found is kept, and an event when it changes. What is wrong with that host says
nothing of the provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import (
    crypto_events,
    events,
    native_health,
    standard_provider_health,
    trusted_clusters,
)
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import attestation_states, key_provider_health
from trusted_infrastructure.manager.health import Verdict
from trusted_infrastructure.manager.inventory import Host, all_clusters, hosts_of
from trusted_infrastructure.manager.nodes import AGENT, TEXT_LIMIT, NodeError, ask
from trusted_infrastructure.manager.vapi.errors import message

CHECK_EVERY = 300
CHECK_TIMEOUT = 20.0
# Hosts that are asked about one provider in one round, when those before could not tell.
HOSTS_ASKED = 3

# No Key Provider Service answered, or none that can be trusted.
UNAVAILABLE = frozenset(
    {"answer_invalid", "key_set_invalid", "peer_answer_invalid", "peer_unreachable", "service_unavailable"}
)
# A Key Provider Service answered: this provider's key servers, or its primary key on them, are not fit.
KMS_UNHEALTHY = frozenset(
    {
        "key_compromised",
        "key_deactivated",
        "key_destroyed",
        "key_missing",
        "key_server_unreachable",
        "primary_key_mismatch",
        "primary_key_state",
        "primary_key_unavailable",
    }
)
# A Key Provider Service answered: this provider does not work, whatever its key servers do.
UNHEALTHY = frozenset(
    {
        "credential_not_bound",
        "primary_key_compromised",
        "provider_denied",
        "provider_unknown",
        "sealed_value_invalid",
    }
)
EVENT_OF: Mapping[str, str] = {
    **dict.fromkeys(UNAVAILABLE, events.TRUST_AUTHORITY_UNAVAILABLE),
    **dict.fromkeys(KMS_UNHEALTHY, events.TRUST_AUTHORITY_KMS_UNHEALTHY),
    **dict.fromkeys(UNHEALTHY, events.TRUST_AUTHORITY_UNHEALTHY),
}
table = key_provider_health


@dataclass(frozen=True)
class Finding:
    """What was found of a provider. code: "" where it is well, else a reason code. host: who found it."""

    health: Literal["OK", "ERROR"]
    code: str = ""
    text: str = ""
    host: str = ""


class KeyCheck(msgspec.Struct, frozen=True):
    """An agent's answer, as far as it is needed here: "OK" or a reason code."""

    result: str
    message: str = ""


async def known(manager: Manager, hosts: Sequence[Host]) -> dict[str, Verdict]:
    """Health and messages by provider; those of which nothing is known are left out. hosts: those that the
    caller may see."""
    standard = standard_provider_health.verdicts(manager)
    return {**known_of_trusted(manager), **standard, **await native_health.verdicts(manager, hosts)}


def known_of_trusted(manager: Manager) -> dict[str, Verdict]:
    """The same, of trusted providers alone: what a host found last."""
    with manager.database.transaction() as connection:
        rows = connection.execute(sql.select(table)).all()
    return {row.provider: (row.health, [message(row.message, row.code)] if row.code else []) for row in rows}


async def check_trusted(manager: Manager) -> None:
    """Asks hosts about each trusted provider that was not asked for a while."""
    now = int(manager.clock())
    with manager.database.transaction() as connection:
        groups = trusted_clusters.provider_groups(connection)
        connection.execute(table.delete().where(table.c.provider.not_in(list(groups))))
        recent = sql.select(table.c.provider).where(table.c.checked > now - CHECK_EVERY)
        done = set(connection.execute(recent).scalars())
        due = {name: hosts_to_ask(connection, group) for name, group in groups.items() if name not in done}
    for name, hosts in due.items():
        finding = await ask_hosts(manager, name, hosts)
        if finding is not None:
            note(manager, name, finding)


def hosts_to_ask(connection: sql.Connection, group: str) -> list[str]:
    """Names of attested hosts of the clusters that use Key Provider Services of this group."""
    query = sql.select(attestation_states.c.host).where(
        attestation_states.c.until.is_(None), attestation_states.c.state == "ATTESTED"
    )
    attested = set(connection.execute(query).scalars())
    return [
        host.name
        for cluster in all_clusters(connection)
        if any(
            service.group == group
            for service in trusted_clusters.services(connection, cluster, "kms_service").values()
        )
        for host in hosts_of(connection, cluster)
        if host.name in attested
    ]


async def ask_hosts(manager: Manager, provider: str, hosts: Sequence[str]) -> Finding | None:
    """What the first host says that can tell; None where none can."""
    for host in hosts[:HOSTS_ASKED]:
        path, body = f"{AGENT}/key-check", {"provider": provider}
        try:
            found = await ask(manager.nodes, host, "POST", path, KeyCheck, body, CHECK_TIMEOUT)
        except NodeError:
            continue
        if found.result == "OK":
            return Finding("OK")
        if found.result in EVENT_OF:
            return Finding("ERROR", found.result, found.message[:TEXT_LIMIT], host)
    return None


def note(manager: Manager, provider: str, finding: Finding) -> None:
    """Keeps a finding; another one than before is an event, unless it is the first and all is well."""
    with manager.database.transaction() as connection:
        row = connection.execute(sql.select(table).where(table.c.provider == provider)).one_or_none()
        connection.execute(table.delete().where(table.c.provider == provider))
        connection.execute(
            table.insert().values(
                provider=provider,
                health=finding.health,
                code=finding.code,
                message=finding.text,
                checked=int(manager.clock()),
            )
        )
        before = "" if row is None else row.code
        if before == finding.code:
            return
        said = (
            f"The key provider {provider} works again."
            if not finding.code
            else f"The key provider {provider} does not work: {finding.host}: {finding.code}: {finding.text}"
        )
        crypto_events.record(
            manager,
            EVENT_OF[finding.code or before],
            said,
            operation="health",
            provider=provider,
            object_id=provider,
            code=finding.code,
            connection=connection,
        )

# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers on their way to hosts: whoever differs is given what it should have.

Rules
1. Usable providers go to every host of every cluster of this manager; each key is sealed to the host's
   delivery key, which lives as long as the host's agent.
2. A host is given a provider when what it says that it holds differs, when it is locked, and when what it was
   given last differs: at once after a change, and in every round of maintenance.
3. A key that a host has and this manager does not is left alone, too, unless it was removed here.
4. A provider is taken off a host where this manager put it there and has it no more. One that this manager
   never pushed is left alone: a manager that lost its database must not take the keys of running machines.
5. What goes wrong is an event when it begins, not every minute.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import quote

import msgspec
import sqlalchemy as sql
import structlog

from trusted_infrastructure import sealing
from trusted_infrastructure.key_delivery import (
    MAX_KEYS,
    DeliveryTarget,
    NativeKey,
    NativeProviderPush,
    NativeProviderState,
    NativeProviderStates,
)
from trusted_infrastructure.manager import (
    crypto_events,
    events,
    native_downloads,
    native_providers,
    native_reminders,
)
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import native_host_states
from trusted_infrastructure.manager.inventory import Host, all_hosts, find_cluster, host_named, is_member
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.nodes import AGENT, NodeError, ask, ask_all
from trusted_infrastructure.manager.pcr_policies import policy_key, reference_of
from trusted_infrastructure.messages import delivery_info
from trusted_infrastructure.refusal import Refusal

PROVIDERS = f"{AGENT}/native-providers"
AT_ONCE = 16  # hosts
AVAILABLE, LOCKED = "AVAILABLE", "LOCKED"
log = structlog.get_logger("trusted_infrastructure.manager")


@dataclass(frozen=True)
class Wanted:
    """A provider as a host should have it. keys: key id -> check value. removed: ids of keys that it should
    not have. policy_key: PEM. reference: of PCR policies for its cluster."""

    provider: Provider
    keys: Mapping[str, str]
    removed: frozenset[str]
    policy_key: str
    reference: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that a push says but keys and removals: another one is another push."""
        provider = self.provider
        parts = [provider.key_id, provider.tpm_required, dict(self.keys), self.policy_key, self.reference]
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    def fits(self, state: NativeProviderState | None) -> bool:
        """Whether a host has this, and can use it."""
        return (
            state is not None
            and state.state == AVAILABLE
            and has(state, self.provider, self.keys, self.removed)
        )


@dataclass(frozen=True)
class Row:
    """What was made of a provider on a host. sent: it left for this host once, which may have it since,
    whatever became of the answer. pushed: fingerprint that the host took last. locked, failed: reason codes
    of what was last said of it, "" when that is over."""

    sent: bool = False
    pushed: str = ""
    locked: str = ""
    failed: str = ""


States = Mapping[str, NativeProviderState]


def has(
    state: NativeProviderState, provider: Provider, keys: Mapping[str, str], removed: frozenset[str]
) -> bool:
    """Whether a host has a provider as it should, perhaps with further keys of which this manager
    does not know."""
    return (
        (state.key_id, state.tpm_required) == (provider.key_id, provider.tpm_required)
        and keys.items() <= state.keys.items()
        and removed.isdisjoint(state.keys)
    )


async def push_all(manager: Manager, hosts: Sequence[Host] | None = None) -> None:
    """Brings hosts (all without a choice) to what they should have. Failures are kept and are events."""
    with manager.database.transaction() as connection:
        chosen = all_hosts(connection) if hosts is None else hosts
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(host: Host) -> None:
        async with gate:
            try:
                await push(manager, host)
            except Refusal as refusal:  # the policy key's file cannot be used
                log.error("native_push_failed", host=host.name, code=refusal.code, text=refusal.message)

    await asyncio.gather(*(one(host) for host in chosen))


async def upkeep(manager: Manager) -> None:
    """One round: what is said again, what has ended, and hosts that differ."""
    native_reminders.remind(manager)
    native_downloads.forget_expired(manager)
    await push_all(manager)


async def push(manager: Manager, host: Host) -> None:
    """Brings one host to what it should have."""
    async with manager.push_locks[host.name]:
        with manager.database.transaction() as connection:
            member = host_named(connection, host.name)
            wanted = wanted_by(connection, manager, member) if member else {}
            rows = rows_of(connection, host.name)
        if member is None or not (wanted or rows):
            return
        host = member
        try:
            found = await states_of(manager, host.name)
        except NodeError as error:
            for item in wanted.values():
                if rows.get(item.provider.name, Row()).pushed != item.fingerprint:
                    failed(manager, host, item, error)
            return
        for name, state in found.items():
            if name in wanted and state.state == LOCKED:
                locked(manager, host, wanted[name], state)
        due = [
            item
            for name, item in wanted.items()
            if not item.fits(found.get(name)) or rows.get(name, Row()).pushed != item.fingerprint
        ]
        await deliver(manager, host, due, found)
        for name in rows.keys() - wanted.keys():
            await withdraw(manager, host.name, name)


async def deliver(manager: Manager, host: Host, due: Sequence[Wanted], found: States) -> None:
    """Pushes providers to a host, one after the other, as far as it takes them. found: what it has."""
    target: DeliveryTarget | None = None
    for item in due:
        for last_attempt in (False, True):
            try:
                if target is None:
                    target = await ask(
                        manager.nodes, host.name, "GET", f"{AGENT}/key-delivery", DeliveryTarget
                    )
                await send(manager, host, item, target, found.get(item.provider.name))
            except NodeError as error:
                if error.code == "delivery_stale" and not last_attempt:  # the agent was started in between
                    target = None
                    continue
                failed(manager, host, item, error)
                if error.unreachable:
                    return
            except Refusal as refusal:  # a key in the database that does not open, a target that is none
                failed(manager, host, item, NodeError(host.name, refusal.code, refusal.message, 200))
            break


async def send(
    manager: Manager, host: Host, item: Wanted, target: DeliveryTarget, before: NativeProviderState | None
) -> None:
    """One push. Raises NodeError, Refusal."""
    provider = item.provider
    with manager.database.transaction() as connection:
        if not is_member(connection, host):
            return  # it left while it was asked: the keys are others by now, and not for it
        keys = native_providers.keys_of(connection, manager.secrets, provider)
        row = rows_of(connection, host.name).get(provider.name, Row())
        store(connection, host.name, provider.name, replace(row, sent=True))
    body = NativeProviderPush(
        instance=target.instance,
        provider=provider.name,
        key_id=provider.key_id,
        tpm_required=provider.tpm_required,
        policy_public_key=item.policy_key,
        policy_reference=item.reference,
        removed=sorted(item.removed.intersection(before.keys if before else ()))[:MAX_KEYS],
        keys=[sealed(host.name, provider.name, key, target) for key in keys],
    )
    state = await ask(manager.nodes, host.name, "POST", PROVIDERS, NativeProviderState, body)
    if not item.fits(state):
        raise NodeError(
            host.name,
            state.code or "native_differs",
            state.message or "took other keys than it was given",
            200,
        )
    with manager.database.transaction() as connection:
        store(connection, host.name, provider.name, Row(sent=True, pushed=item.fingerprint))
    crypto_events.record(
        manager,
        events.CRYPTO_OPERATION,
        f"The native key provider {provider.name} was pushed to {host.name}"
        + (", which keeps it sealed to its TPM." if state.sealed else "; it has no copy sealed to a TPM."),
        operation="push",
        key_id=provider.key_id,
        provider=provider.name,
        object_id=provider.name,
        cluster=host.cluster,
        host=host.name,
    )


def sealed(host: str, provider: str, key: native_providers.Key, target: DeliveryTarget) -> NativeKey:
    """A key for a host. Raises InvalidField for a target that is no key."""
    info = delivery_info(
        kind="native", host=host, instance=target.instance, provider=provider, key_id=key.key_id
    )
    ciphertext = sealing.seal(target.suite, target.public_key, key.secret, info)
    return NativeKey(key_id=key.key_id, sealed_key=ciphertext, check_value=key.check_value)


async def withdraw(manager: Manager, host: str, provider: str) -> None:
    """Takes a provider off a host; one that does not answer is asked again in the next round."""
    if await asked_to_forget(manager, host, provider):
        with manager.database.transaction() as connection:
            forget(connection, host, provider)


async def asked_to_forget(manager: Manager, host: str, provider: str) -> bool:
    """Whether a host has forgotten a provider."""
    try:
        await manager.nodes.call(host, "DELETE", f"{PROVIDERS}/{quote(provider, safe='')}")
    except NodeError as error:
        log.warning("native_provider_not_withdrawn", host=host, provider=provider, code=error.code)
        return error.code == "provider_unknown"
    return True


async def states_of(manager: Manager, host: str) -> States:
    """What a host says that it has, by provider. Raises NodeError."""
    answer = await ask(manager.nodes, host, "GET", PROVIDERS, NativeProviderStates)
    return {state.provider: state for state in answer.providers}


async def states_of_all(manager: Manager, hosts: Sequence[Host]) -> dict[str, States | NodeError]:
    """The same of several hosts, by name of host."""
    names = [host.name for host in hosts]
    answers = await ask_all(manager.nodes, names, "GET", PROVIDERS, NativeProviderStates)
    return {
        name: answer if isinstance(answer, NodeError) else {item.provider: item for item in answer.providers}
        for name, answer in answers.items()
    }


# ---- what is kept of hosts


def wanted_by(connection: sql.Connection, manager: Manager, host: Host) -> dict[str, Wanted]:
    """The usable providers as a host should have them, by name. Raises Unavailable `state_unusable`."""
    usable = [provider for provider in native_providers.all_of(connection) if provider.usable]
    if not usable:
        return {}
    public_key = policy_key(manager.settings).public_key
    reference = reference_of(find_cluster(connection, host.cluster_id))
    return {
        provider.name: Wanted(
            provider,
            native_providers.check_values(connection, provider),
            native_providers.removed_keys(connection, provider.name),
            public_key,
            reference,
        )
        for provider in usable
    }


def rows_of(connection: sql.Connection, host: str) -> dict[str, Row]:
    """What was made of providers on a host, by provider."""
    table = native_host_states
    found = connection.execute(sql.select(table).where(table.c.host == host))
    return {row.provider: Row(row.sent, row.pushed, row.locked, row.failed) for row in found}


def store(connection: sql.Connection, host: str, provider: str, row: Row) -> None:
    """Keeps what was made of a provider on a host."""
    forget(connection, host, provider)
    connection.execute(native_host_states.insert().values(host=host, provider=provider, **row.__dict__))


def forget(connection: sql.Connection, host: str, provider: str) -> None:
    """The host does not have the provider any more."""
    table = native_host_states
    connection.execute(table.delete().where((table.c.host == host) & (table.c.provider == provider)))


def failed(manager: Manager, host: Host, item: Wanted, error: NodeError) -> None:
    """A push that failed: kept, and an event when it is another failure than before."""
    begun(
        manager,
        host,
        item,
        "failed",
        error.code[:64],
        events.SEND_KEY_HOST_ERROR,
        f"The native key provider {item.provider.name} could not be given to {host.name}: {error.text}",
    )


def locked(manager: Manager, host: Host, item: Wanted, state: NativeProviderState) -> None:
    """A host whose TPM does not open what is sealed to it: an event when it begins. A push repairs it."""
    begun(
        manager,
        host,
        item,
        "locked",
        state.code or "native_provider_locked",
        events.HOST_TPM_CONFIG_ENCRYPTION,
        f"{host.name} cannot open the native key provider {item.provider.name}, which is sealed to its TPM: "
        f"{state.message or state.code}. It is pushed again.",
    )


def begun(
    manager: Manager,
    host: Host,
    item: Wanted,
    what: Literal["locked", "failed"],
    code: str,
    event_type: str,
    text: str,
) -> None:
    """Keeps that a host is `locked` or that a push `failed`; the event is recorded where the code is another
    than before."""
    name = item.provider.name
    with manager.database.transaction() as connection:
        before = rows_of(connection, host.name).get(name, Row())
        row = replace(before, locked=code) if what == "locked" else replace(before, failed=code)
        if row == before:
            return
        store(connection, host.name, name, row)
        crypto_events.record(
            manager,
            event_type,
            text,
            operation="push",
            key_id=item.provider.key_id,
            provider=name,
            object_id=name,
            cluster=host.cluster,
            host=host.name,
            code=code,
            connection=connection,
        )

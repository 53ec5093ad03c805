# SPDX-License-Identifier: GPL-3.0-or-later
"""How native key providers are, on each host and as a whole: what hosts say against what they should have.

| health | of a provider on a host |
| --- | --- |
| OK | the keys are there, sealed to the TPM, and open after a boot |
| WARNING | not backed up; or no copy that is sealed to a TPM, or one that would not open after a boot |
| WARNING | also: keys that this manager does not have (was it restored from an old backup?) |
| ERROR | locked, missing, other keys than it should have; or the host does not answer |

A provider as a whole is as on the host where it is worst; NONE where there is no host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trusted_infrastructure.key_delivery import NativeProviderState
from trusted_infrastructure.manager import native_providers, native_push
from trusted_infrastructure.manager.comparison import Health
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.health import Verdict
from trusted_infrastructure.manager.inventory import Host, all_hosts
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.native_push import LOCKED, Row, States
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.vapi.errors import LocalizableMessage, message

ORDER: Sequence[Health] = ("NONE", "OK", "WARNING", "ERROR")
NAMED = 8  # ids in a text


@dataclass(frozen=True)
class Known:
    """A provider, the check values of its keys, ids of those that were removed, and what was made of it on
    hosts (by name)."""

    provider: Provider
    keys: Mapping[str, str]
    removed: frozenset[str]
    rows: Mapping[str, Row]


async def verdicts(manager: Manager, hosts: Sequence[Host] | None = None) -> dict[str, Verdict]:
    """Health of each provider as a whole, by name. hosts: those that count; None: all."""
    with manager.database.transaction() as connection:
        chosen = all_hosts(connection) if hosts is None else list(hosts)
    known = known_of(manager, chosen)
    # Before its first backup, a provider is on no host.
    found = await native_push.states_of_all(manager, chosen) if any_usable(known) else {}
    return {
        name: overall([on_host(item, host.name, found) for host in chosen], item)
        for name, item in known.items()
    }


async def verdicts_on(manager: Manager, host: Host) -> dict[str, Verdict]:
    """Health of each provider on one host, by name."""
    known = known_of(manager, [host])
    found = await native_push.states_of_all(manager, [host]) if any_usable(known) else {}
    return {name: on_host(item, host.name, found) for name, item in known.items()}


def any_usable(known: Mapping[str, Known]) -> bool:
    """Whether hosts have to be asked."""
    return any(item.provider.usable for item in known.values())


def known_of(manager: Manager, hosts: Sequence[Host]) -> dict[str, Known]:
    """What this manager knows of its providers."""
    with manager.database.transaction() as connection:
        rows = {host.name: native_push.rows_of(connection, host.name) for host in hosts}
        return {
            provider.name: Known(
                provider,
                native_providers.check_values(connection, provider),
                native_providers.removed_keys(connection, provider.name),
                {host: found[provider.name] for host, found in rows.items() if provider.name in found},
            )
            for provider in native_providers.all_of(connection)
        }


def overall(found: Sequence[Verdict], item: Known) -> Verdict:
    """The worst, with the messages of all hosts; each message once."""
    backup = of_backup(item.provider)
    if not found:
        return backup or (
            "NONE",
            [message("There are no hosts; the provider waits for the first.", "no_hosts")],
        )
    if backup is not None:
        found = [backup, *found]
    details: dict[str, LocalizableMessage] = {}
    for _health, messages in found:
        details.update({one.default_message: one for one in messages})
    return max((health for health, _messages in found), key=ORDER.index), list(details.values())


def on_host(item: Known, host: str, found: Mapping[str, States | NodeError]) -> Verdict:
    """How a provider is on a host. found: what hosts said, by name."""
    provider = item.provider
    backup = of_backup(provider)
    if not provider.usable and backup is not None:
        return backup
    states = found[host]
    if isinstance(states, NodeError):
        return "ERROR", [states.message()]
    health, details = of_state(item, host, states.get(provider.name))
    if backup is not None and health != "ERROR":
        return "WARNING", [*details, *backup[1]]
    return health, details


def of_state(item: Known, host: str, state: NativeProviderState | None) -> Verdict:
    """What a host says of its keys."""
    name, row = item.provider.name, item.rows.get(host, Row())
    if state is None:
        code = row.failed or "native_not_pushed"
        return "ERROR", [message(f"{host} does not have {name} yet.", code, host)]
    if state.state == LOCKED:
        text = f"{host} cannot open {name}, which is sealed to its TPM: {state.message or state.code}"
        return "ERROR", [message(text, state.code or "native_provider_locked", host)]
    if not native_push.has(state, item.provider, item.keys, item.removed):
        return "ERROR", [message(f"{host} has other keys of {name} than it should.", "native_differs", host)]
    health, details = of_copy(name, host, state)
    kept = sorted(state.keys.keys() - item.keys.keys())
    if kept:
        ids = ", ".join(kept[:NAMED]) + (f" and {len(kept) - NAMED} more" if len(kept) > NAMED else "")
        text = f"{host} keeps keys of {name} that this manager does not have: {ids}."
        details = [*details, message(text, "native_keys_kept", host)]
        health = max(health, "WARNING", key=ORDER.index)
    return health, details


def of_copy(name: str, host: str, state: NativeProviderState) -> Verdict:
    """What a host says of the copy of the right keys that is sealed to its TPM."""
    if not state.sealed:
        text = f"{host} has no copy of {name} sealed to a TPM, and asks for it after a start. {state.message}"
        health: Health = "ERROR" if state.tpm_required else "WARNING"
        return health, [message(text.strip(), state.code or "native_not_sealed", host)]
    if state.code:
        text = f"{host} would not open {name} after a start: {state.message}"
        return "WARNING", [message(text, state.code, host)]
    return "OK", []


def of_backup(provider: Provider) -> Verdict | None:
    """What is to be said of the backup; None where there is one of the current key."""
    if not provider.usable:
        text = (
            f"{provider.name} is not backed up. It can be used, and reaches hosts, when it was exported once."
        )
        return "WARNING", [message(text, "native_not_backed_up", provider.name)]
    if not provider.backed_up:
        text = f"{provider.name} has a new key that is not backed up: export it."
        return "WARNING", [message(text, "native_not_backed_up_after_update", provider.name)]
    return None

# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of a trusted key provider's primary key, in steps that each leave every key readable. SYSTEM K5,
X5.

1. `rotate`: the new key wraps from now on; the old one is kept as a previous key, which opens. One change of
   the provider's document, so that a Trust Authority host has either the one or the other.
2. The hosts wrap their keys again, by themselves or told by the workload manager, and report what they keep.
3. `complete`: the previous keys are given up, when nothing is left under them or by force.

`compromise` is another path: whoever has the key knows what it wrapped, so nothing of that is wrapped again.
Each function's caller holds the cluster's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from trusted_infrastructure.config.documents import KeyProvider, PreviousPrimaryKey
from trusted_infrastructure.manager import key_providers
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.nodes import NodeError, ask
from trusted_infrastructure.manager.primary_key_usage import HostKeys, UsageAnswer, holders
from trusted_infrastructure.manager.provider_secrets import provider_path
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    LocalizableMessage,
    NotAllowedInCurrentState,
    ResourceInaccessible,
    message,
)

# What a host answers when the key servers can be asked and the key is not fit: another host would say the
# same.
UNFIT = {
    "key_compromised",
    "key_deactivated",
    "key_destroyed",
    "key_missing",
    "primary_key_mismatch",
    "primary_key_same",
    "primary_key_state",
}


class CandidateValue(msgspec.Struct, frozen=True):
    """Check value of a key that is to wrap from now on."""

    master_key_id: str
    check_value: str


@dataclass(frozen=True)
class Use:
    """Use of previous keys. of: by their ids, the hosts that keep keys; unknown: Trust Authority hosts that
    could not be asked, so that it may be more."""

    of: Mapping[str, list[HostKeys]]
    unknown: list[NodeError]

    def names(self) -> str:
        """The hosts that keep something, for people."""
        found = {f"{host.host} ({host.scope})" for hosts in self.of.values() for host in hosts}
        return ", ".join(sorted(found))

    def total(self) -> int:
        """Keys that are known to be left."""
        return sum(host.keys for hosts in self.of.values() for host in hosts)


@dataclass(frozen=True)
class Completed:
    """removed: ids of the previous keys that were given up; use: what was left under them, lost with them."""

    removed: list[str]
    use: Use


async def rotate(context: Context, provider: str, key_id: str) -> None:
    """Another primary key wraps from now on. The one of now again is no change.

    Raises NotFound, NotAllowedInCurrentState while a rotation is under way or when a key server does not have
    the key active, ResourceInaccessible."""
    if check_may_rotate(context, provider, key_id):
        await replace(context, provider, key_id, compromised=False)


def check_may_rotate(context: Context, provider: str, key_id: str) -> bool:
    """Whether this is another primary key than that of now. Raises NotFound, NotAllowedInCurrentState."""
    before = key_providers.find(context, provider)
    if key_id == before.master_key_id:
        return False
    if before.previous_keys:
        names = ", ".join(repr(key.master_key_id) for key in before.previous_keys)
        raise NotAllowedInCurrentState(
            f"The key provider {provider!r} is being rotated to {before.master_key_id!r} from {names}: "
            "complete that first (action=complete).",
            provider,
            reason="rotation_under_way",
        )
    return True


async def compromise(context: Context, provider: str, key_id: str) -> list[str]:
    """Another primary key wraps from now on, and all earlier ones are compromised; ids of those that became
    it. key_id: of the new key; that of now, where only the earlier ones are compromised.

    Raises as `rotate`, but for a rotation under way, and InvalidArgument."""
    before = key_providers.find(context, provider)
    earlier = [key.master_key_id for key in before.previous_keys]
    if key_id in earlier or (key_id == before.master_key_id and not earlier):
        raise InvalidArgument(
            "spec.master_key_id",
            f"{key_id!r} is a primary key of this provider; it takes another one to replace what is "
            "compromised",
        )
    if key_id != before.master_key_id:
        await replace(context, provider, key_id, compromised=True)
    elif not all(key.compromised for key in before.previous_keys):

        def mark(content: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(content, previous_keys=compromised_keys(content))

        await key_providers.change(context, provider, mark)
    known = {key.master_key_id for key in before.previous_keys if key.compromised}
    after = key_providers.find(context, provider).previous_keys
    return [key.master_key_id for key in after if key.compromised and key.master_key_id not in known]


async def replace(context: Context, provider: str, key_id: str, compromised: bool) -> None:
    """The one change of the document, after the key servers were asked for the new key."""
    before = key_providers.find(context, provider)
    if before.primary_key_check_value is None:
        # Nothing was ever wrapped: no host uses a key without a check value.
        def set_key(content: KeyProvider) -> KeyProvider:
            return msgspec.structs.replace(content, master_key_id=key_id)

        await key_providers.change(context, provider, set_key)
        return
    value = await verified(context, provider, key_id)
    since = int(context.manager.clock())
    replaced = PreviousPrimaryKey(before.master_key_id, before.primary_key_check_value, since)

    def change(content: KeyProvider) -> KeyProvider:
        changed = msgspec.structs.replace(
            content,
            master_key_id=key_id,
            primary_key_check_value=value,
            previous_keys=[*content.previous_keys, replaced],
        )
        keys = compromised_keys(changed) if compromised else changed.previous_keys
        return msgspec.structs.replace(changed, previous_keys=keys)

    await key_providers.change(context, provider, change)


def compromised_keys(content: KeyProvider) -> list[PreviousPrimaryKey]:
    """The previous keys, all compromised."""
    return [msgspec.structs.replace(key, compromised=True) for key in content.previous_keys]


async def verified(context: Context, provider: str, key_id: str) -> str:
    """The check value of a key that every key server has, active; a host asks them.

    Raises NotAllowedInCurrentState saying what is wrong with the key, ResourceInaccessible when no host could
    ask all key servers."""
    timeout = key_providers.find(context, provider).connection_timeout + key_providers.MARGIN
    path, body = provider_path(provider, "check-value"), {"master_key_id": key_id}
    failures: list[NodeError] = []
    for host in key_providers.hosts(context):
        try:
            found = await ask(context.manager.nodes, host.name, "POST", path, CandidateValue, body, timeout)
            if found.master_key_id == key_id:
                return found.check_value
            failures.append(NodeError(host.name, "unexpected_answer", "answered for another key", 200))
        except NodeError as error:
            if error.code in UNFIT:
                raise NotAllowedInCurrentState(
                    f"{key_id!r} cannot be primary key of {provider!r}, which keeps its own: {error.text}",
                    provider,
                    reason=error.code,
                    details=[error.message()],
                ) from None
            failures.append(error)
    raise key_providers.nobody(provider, "check-value", failures)


async def use_of(context: Context, provider: str, content: KeyProvider) -> Use:
    """What is left under the previous keys, as all Trust Authority hosts of the cluster know it."""
    path = provider_path(provider, "usage")

    async def one(host: str) -> UsageAnswer | NodeError:
        try:
            return await ask(context.manager.nodes, host, "GET", path, UsageAnswer)
        except NodeError as error:
            return error

    results = await asyncio.gather(*(one(host.name) for host in key_providers.hosts(context)))
    answers = [result for result in results if isinstance(result, UsageAnswer)]
    unknown = [result for result in results if isinstance(result, NodeError)]
    found = {key.master_key_id: holders(answers, key.master_key_id) for key in content.previous_keys}
    return Use(found, unknown)


async def complete(context: Context, provider: str, force: bool) -> Completed:
    """Gives up the previous keys. force: whatever is left under them, or is not known. Without previous keys
    nothing is done.

    Raises NotAllowedInCurrentState naming what is left, or who could not be asked."""
    content = key_providers.find(context, provider)
    if not content.previous_keys:
        return Completed([], Use({}, []))
    if not force:
        await bring_all(context)
    use = await use_of(context, provider, content)
    removed = [key.master_key_id for key in content.previous_keys]
    context.audit_detail.update(
        removed=", ".join(removed), force=str(force).lower(), keys_left=str(use.total()), hosts=use.names()
    )
    if not force:
        refuse_what_is_lost(provider, use)

    def give_up(before: KeyProvider) -> KeyProvider:
        return msgspec.structs.replace(before, previous_keys=[])

    await key_providers.change(context, provider, give_up)
    return Completed(removed, use)


async def bring_all(context: Context) -> None:
    """A Trust Authority host that has not heard of the rotation still wraps under the old key: all must have
    the configuration before it is counted."""
    try:
        await context.manager.replication.remediate(context.cluster)
    except ResourceInaccessible as error:
        raise NotAllowedInCurrentState(
            f"Whether keys are left is not known: {error.text} Repeat it when all hosts are back, or force "
            "it.",
            reason="keys_unknown",
            details=error.messages[1:],
        ) from None


def refuse_what_is_lost(provider: str, use: Use) -> None:
    """Raises NotAllowedInCurrentState."""
    if use.unknown:
        names = ", ".join(error.host for error in use.unknown)
        raise NotAllowedInCurrentState(
            f"Whether keys are left under earlier primary keys of {provider!r} is not known: {names} cannot "
            "be asked. Repeat it when all hosts are back, or force it.",
            names,
            reason="keys_unknown",
            details=[error.message() for error in use.unknown],
        )
    if use.total():
        raise NotAllowedInCurrentState(
            f"{use.total()} keys are left under earlier primary keys of {provider!r}, on {use.names()}. Let "
            "these hosts wrap them again, or force it: what is left then cannot be opened any more.",
            provider,
            reason="keys_left",
            details=left_messages(use),
        )


def left_messages(use: Use) -> list[LocalizableMessage]:
    """One for each previous key and host."""
    return [
        message(
            f"{host.host} (scope {host.scope}) keeps {host.keys} under {key_id!r}",
            "keys_left",
            host.host,
            key_id,
        )
        for key_id, hosts in use.of.items()
        for host in hosts
    ]

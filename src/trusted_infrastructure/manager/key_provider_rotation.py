# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of a trusted key provider's primary key, in steps that each leave every key readable.

1. `rotate`: the new key wraps from now on; the old one is kept as a previous key, which opens. One change of
   the provider's document, so that a Trust Authority host has either the one or the other.
2. The hosts wrap their keys again, by themselves or told by the workload manager, and report what they keep.
3. `complete`: the previous keys are given up, when nothing is left under them, but for what named hosts keep
   that are denied, or by force.

`compromise` is another path: whoever has the key knows what it wrapped, so nothing of that is wrapped again.
That goes for all of the provider's keys: what an earlier primary key wrapped is, wrapped again, under a later
one, and who has the earlier one and an old copy knows it all the same. So it always takes a new primary key,
and every other one becomes compromised.

Each function's caller holds the cluster's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import msgspec

from trusted_infrastructure.config.documents import DeniedHost, KeyProvider, PreviousPrimaryKey
from trusted_infrastructure.manager import authority_documents, key_providers
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.nodes import NodeError, ask
from trusted_infrastructure.manager.primary_key_usage import HostKeys, UsageAnswer, holders
from trusted_infrastructure.manager.provider_secrets import KIND, provider_path
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
    could not be asked, so that it may be more. denied: names of hosts that get no key any more."""

    of: Mapping[str, list[HostKeys]]
    unknown: list[NodeError]
    denied: frozenset[str] = frozenset()

    def without(self, names: Collection[str]) -> Use:
        """But for what those of these hosts keep that are denied."""
        gone = self.denied.intersection(names)
        return replace(
            self, of={key: [one for one in hosts if one.host not in gone] for key, hosts in self.of.items()}
        )

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
        await take(context, provider, key_id, compromised=False)


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
    it. The same again, once that is so, tells the hosts that did not hear of it.

    Raises as `rotate`, but for a rotation under way, and InvalidArgument."""
    before = key_providers.find(context, provider)
    done = before.previous_keys and all(key.compromised for key in before.previous_keys)
    if key_id in (key.master_key_id for key in before.previous_keys) or (
        key_id == before.master_key_id and not done
    ):
        raise InvalidArgument(
            "spec.master_key_id",
            f"{key_id!r} is a primary key of this provider, and may have what a compromised one wrapped "
            "before: it takes a new one",
        )
    if key_id != before.master_key_id:
        await take(context, provider, key_id, compromised=True)
    else:
        await context.manager.replication.remediate(context.cluster)  # hosts that were away the first time
    known = {key.master_key_id for key in before.previous_keys if key.compromised}
    after = key_providers.find(context, provider).previous_keys
    return [key.master_key_id for key in after if key.compromised and key.master_key_id not in known]


async def take(context: Context, provider: str, key_id: str, compromised: bool) -> None:
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
        previous = [*content.previous_keys, replaced]
        if compromised:
            previous = [msgspec.structs.replace(key, compromised=True) for key in previous]
        return msgspec.structs.replace(
            content, master_key_id=key_id, primary_key_check_value=value, previous_keys=previous
        )

    await key_providers.change(context, provider, change)


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
    denied = authority_documents.find_all(context, "denied_host", DeniedHost).values()
    return Use(found, unknown, frozenset(one.host for one in denied))


async def behind(context: Context, provider: str) -> list[str]:
    """Names of Trust Authority hosts that answer, and have not heard of the provider's last change."""
    found = await context.manager.replication.compare(context.cluster)
    return sorted({one.host for one in found.deviations if (one.kind, one.id) == (KIND, provider)})


async def complete(
    context: Context, provider: str, force: bool, without_hosts: Collection[str] = ()
) -> Completed:
    """Gives up the previous keys. force: whatever is left under them, or is not known. without_hosts: also
    what those of these hosts keep that are denied. Without previous keys, hosts that have not heard of it do.

    Raises NotAllowedInCurrentState naming what is left, or who could not be asked; ResourceInaccessible
    naming hosts that did not hear of it."""
    content = key_providers.find(context, provider)
    if not content.previous_keys:
        await context.manager.replication.remediate(context.cluster)
        return Completed([], Use({}, []))
    if not force:
        await bring_all(context)
    use = await use_of(context, provider, content)
    removed = [key.master_key_id for key in content.previous_keys]
    context.audit_detail.update(
        removed=", ".join(removed), force=str(force).lower(), keys_left=str(use.total()), hosts=use.names()
    )
    if not force:
        refuse_what_is_lost(provider, use, without_hosts)

    def give_up(before: KeyProvider) -> KeyProvider:
        return msgspec.structs.replace(before, previous_keys=[])

    try:
        await key_providers.change(context, provider, give_up)
    except ResourceInaccessible as error:
        raise not_heard(provider, removed, use, error) from None
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


def not_heard(
    provider: str, removed: list[str], use: Use, error: ResourceInaccessible
) -> ResourceInaccessible:
    """The keys are given up, and not all hosts know."""
    return ResourceInaccessible(
        f"{', '.join(map(repr, removed))} of {provider!r} is given up (keys left under it: {use.total()}),"
        f" but {error.text} Until then these hosts use the primary keys that they know, and what they wrap"
        " under an earlier one is lost. Repeating this remediates the cluster, too.",
        *error.messages[0].args,
        reason="replication_failed",
        details=[*error.messages[1:], *left_messages(use)],
    )


def refuse_what_is_lost(provider: str, known: Use, without_hosts: Collection[str]) -> None:
    """Raises NotAllowedInCurrentState."""
    use = known.without(without_hosts)
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
            "these hosts wrap them again, give up what denied hosts keep (without_hosts), or force it: what "
            "is left then cannot be opened any more.",
            provider,
            reason="keys_left",
            details=left_messages(use),
        )


def left_messages(use: Use) -> list[LocalizableMessage]:
    """One for each previous key and host."""
    return [
        message(
            f"{host.host} (scope {host.scope}) keeps {host.keys} under {key_id!r}"
            + (", and is denied" if host.host in use.denied else ""),
            "keys_left",
            host.host,
            key_id,
        )
        for key_id, hosts in use.of.items()
        for host in hosts
    ]

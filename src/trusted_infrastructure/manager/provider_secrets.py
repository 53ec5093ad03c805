# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of key providers: sealed to each Trust Authority host's configuration key (docs/protocol.md 11).

The manager sees a password or a given private key once, seals it, and forgets it. Client keys that a host
makes it never sees. A host that joins gets its parts from a host that can open its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from trusted_infrastructure import sealing
from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, Nodes, ask
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState, ResourceInaccessible

KIND = "key_provider"
FIELDS = ("client_private_key", "csr_private_key", "password")
SEALING_KEY_PATH = "/kms/manage/v1/sealing-key"


class SealingKey(msgspec.Struct, frozen=True):
    """A host's configuration key: what secrets for it are sealed to."""

    suite: str
    public_key: bytes


class Resealed(msgspec.Struct, frozen=True):
    """A host's answer: the parts of each secret field for further hosts."""

    client_private_key: Sealed | None = None
    csr_private_key: Sealed | None = None
    password: Sealed | None = None


def purpose(provider: str, field: str) -> str:
    """What a sealed value is for: it opens as nothing else. A request's key becomes the client key."""
    name = "password" if field == "password" else "client_private_key"
    return f"key_provider/{provider}/{name}"


def provider_path(provider: str, action: str) -> str:
    """Path of a provider's management on a host."""
    return f"/kms/manage/v1/providers/{quote(provider, safe='')}/{action}"


async def sealing_keys(nodes: Nodes, hosts: Sequence[Host]) -> dict[str, SealingKey]:
    """The configuration keys of all the hosts: a secret that one host cannot open is not a cluster's.

    Raises ResourceInaccessible naming the hosts that did not answer."""

    async def one(host: Host) -> SealingKey | NodeError:
        try:
            return await ask(nodes, host.name, "GET", SEALING_KEY_PATH, SealingKey)
        except NodeError as error:
            return error

    answers = await asyncio.gather(*(one(host) for host in hosts))
    failures = [answer for answer in answers if isinstance(answer, NodeError)]
    if failures:
        raise ResourceInaccessible(
            "A secret is sealed to every host of the cluster, so each must answer; "
            f"{', '.join(failure.host for failure in failures)} did not.",
            ", ".join(failure.host for failure in failures),
            reason="sealing_key_unavailable",
            details=[failure.message() for failure in failures],
        )
    return {
        host.name: answer
        for host, answer in zip(hosts, answers, strict=True)
        if isinstance(answer, SealingKey)
    }


def seal(secret: bytes, keys: Mapping[str, SealingKey], provider: str, field: str) -> Sealed:
    """A secret for every host. Raises NotAllowedInCurrentState when the hosts have different suites."""
    suites = {key.suite for key in keys.values()}
    if len(suites) != 1:
        raise NotAllowedInCurrentState(
            f"The hosts have configuration keys of different suites ({', '.join(sorted(suites)) or 'none'}); "
            "a secret is sealed with one.",
            reason="sealing_suites_differ",
        )
    hosts = {name: key.public_key for name, key in keys.items()}
    sealed = sealing.seal_secret(secret, suites.pop(), hosts, purpose(provider, field))
    return Sealed(sealed.suite, sealed.digest, sealed.sealed)


async def reseal_for_missing_hosts(manager: Manager, cluster: Cluster) -> list[Change]:
    """Documents of providers in which hosts of the cluster have no part of a secret, completed by a host
    that has one. Parts of hosts that left are dropped. The caller holds the cluster's lock.

    Raises ResourceInaccessible when no host can give what is missing."""
    with manager.database.transaction() as connection:
        hosts = hosts_of(connection, cluster)
        providers = desired.contents(connection, cluster, KIND, KeyProvider)
    changes = []
    for name, provider in providers.items():
        complete = await completed(manager.nodes, hosts, name, provider)
        if complete != provider:
            changes.append(Change(KIND, name, complete))
    return changes


async def completed(nodes: Nodes, hosts: Sequence[Host], name: str, provider: KeyProvider) -> KeyProvider:
    """The provider with its secrets sealed for exactly these hosts."""
    members = {host.name for host in hosts}
    trimmed = {field: without(getattr(provider, field), members) for field in FIELDS}
    present = {field: sealed for field, sealed in trimmed.items() if sealed is not None}
    missing = [host for host in hosts if any(host.name not in item.sealed for item in present.values())]
    if missing:
        donors = [host for host in hosts if all(host.name in item.sealed for item in present.values())]
        keys = await sealing_keys(nodes, missing)
        given = await first_resealed(nodes, donors, name, keys)
        trimmed = {field: merged(trimmed[field], getattr(given, field)) for field in FIELDS}
    return msgspec.structs.replace(provider, **trimmed)


async def first_resealed(
    nodes: Nodes, donors: Sequence[Host], name: str, keys: Mapping[str, SealingKey]
) -> Resealed:
    """The answer of the first donor that can. Raises ResourceInaccessible."""
    failures = []
    for donor in donors:
        try:
            path = provider_path(name, "reseal")
            return await ask(nodes, donor.name, "POST", path, Resealed, {"hosts": keys})
        except NodeError as error:
            failures.append(error)
    reasons = "; ".join(str(failure) for failure in failures) or "no host of the cluster has them"
    raise ResourceInaccessible(
        f"The secrets of the key provider {name!r} could not be sealed for {', '.join(keys)}: {reasons}. Set "
        "its client certificate and credential again if no host can.",
        name,
        reason="reseal_failed",
        details=[failure.message() for failure in failures],
    )


def without(sealed: Sealed | None, members: set[str]) -> Sealed | None:
    """A sealed value without the parts of hosts that are not members."""
    if sealed is None:
        return None
    kept = {host: part for host, part in sealed.sealed.items() if host in members}
    return msgspec.structs.replace(sealed, sealed=kept)


def merged(before: Sealed | None, more: Sealed | None) -> Sealed | None:
    """A sealed value with further parts."""
    if before is None or more is None:
        return before
    return msgspec.structs.replace(before, sealed={**before.sealed, **more.sealed})

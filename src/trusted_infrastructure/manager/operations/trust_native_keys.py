# SPDX-License-Identifier: GPL-3.0-or-later
"""Of native key providers, what vSphere's API has not: where backups are fetched, and previous keys."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trusted_infrastructure.manager import (
    crypto_events,
    events,
    host_keys,
    native_downloads,
    native_providers,
    native_push,
    native_reminders,
)
from trusted_infrastructure.manager.context import Context, Manager
from trusted_infrastructure.manager.inventory import Host, all_hosts
from trusted_infrastructure.manager.native_downloads import Backup
from trusted_infrastructure.manager.native_providers import Provider
from trusted_infrastructure.manager.nodes import NodeError
from trusted_infrastructure.manager.operations import crypto_manager, crypto_manager_backups
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.download import Download
from trusted_infrastructure.manager.vapi.errors import (
    NotAllowedInCurrentState,
    NotFound,
    Unauthenticated,
    Unsupported,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

MEDIA_TYPE = "application/x-pkcs12"
SERVICE = f"{TRUST}.native_key_providers"
PATH = f"{TRUST_PATH}/native-key-providers/{{provider}}/keys"
# Seconds for all that a host is asked: a slow one must not keep those who ask about all hosts.
ANSWER_TIMEOUT = 40.0
# Seconds in which a connection that broke under the file is noticed.
NOTICED = 0.01
ID_LENGTH = 32  # of a backup, in the audit log: what is longer is none


class DownloadInput(Structure, frozen=True):
    """Input of download. backup: id in the URL that an export gave."""

    backup: Identifier


class ProviderInput(Structure, frozen=True):
    """Input of list."""

    provider: Identifier


class DeleteInput(Structure, frozen=True):
    """Input of delete. force: also where hosts keep what only this key opens, or do not answer."""

    provider: Identifier
    key: Identifier
    force: bool = False


class HostUse(Structure, frozen=True):
    """A host and how many keys of objects it keeps under a provider's key."""

    host: str
    keys: int


class KeyInfo(Structure, frozen=True):
    """A key of a provider. state: KEPT is one that hosts have, and this manager has not. unknown: hosts that
    do not answer, cannot read all keys that they keep, or wrap under this key, which is not current, still.
    """

    key_id: str
    state: Literal["CURRENT", "KEPT", "PREVIOUS"]
    hosts: list[HostUse]
    unknown: list[str]


async def download(context: Context, given: DownloadInput) -> Download:
    """Two audit records: when the backup is given, and when it has left in full."""
    manager = context.manager
    try:
        backup = native_downloads.take(manager, given.backup, context.bearer)
    except Unauthenticated as error:
        if is_recorded(context):
            await audit(context, given.backup[:ID_LENGTH], error.reason)
        raise
    await audit(context, given.backup, "started", backup)
    return Download(
        content=leaving(context, given.backup, backup),
        media_type=MEDIA_TYPE,
        file_name=f"{backup.provider}.p12",
        length=len(backup.content),
        sha256=hashlib.sha256(backup.content).digest(),
    )


def is_recorded(context: Context) -> bool:
    """Whether a refusal goes into the audit log: as many as of logins. Anybody can ask, and the log must not
    be filled from outside. A token cannot be guessed, so who comes with the right one is let in all the same.
    """
    limiter = context.manager.limiter
    try:
        limiter.check(PATH, context.address)
    except Unauthenticated:
        return False
    limiter.failed(PATH, context.address)
    return True


async def leaving(context: Context, identifier: str, backup: Backup) -> AsyncIterator[bytes]:
    """The file; behind it, the provider is backed up. A connection that is gone ends this before that."""
    manager = context.manager
    yield backup.content
    await asyncio.sleep(NOTICED)
    with manager.database.transaction() as connection:
        current = native_providers.mark_backed_up(connection, backup.provider, backup.key_id)
        if current:
            provider = native_providers.find(connection, backup.provider)
            native_reminders.backed_up(manager, connection, provider, backup.user)
    # The client has its file, and may close the connection any moment: that must not end what follows.
    work = asyncio.create_task(finish(context, identifier, backup))
    await asyncio.shield(work)


async def finish(context: Context, identifier: str, backup: Backup) -> None:
    """What a backup that has left entails."""
    await audit(context, identifier, "ok", backup)
    await native_push.push_all(context.manager)


async def audit(context: Context, identifier: str, code: str, backup: Backup | None = None) -> None:
    """A record of the download; the user is the one who made the export."""
    detail = {"provider": backup.provider, "key_id": backup.key_id} if backup else {}
    await context.manager.auditor.record(
        DOWNLOAD,
        user=backup.user if backup else "",
        address=context.address,
        code=code,
        target=identifier,
        detail=detail,
    )


async def list_keys(context: Context, given: ProviderInput) -> list[KeyInfo]:
    return await keys_in_use(context.manager, given.provider, context.hosts())


async def delete(context: Context, given: DeleteInput) -> None:
    """Hosts forget it: what is still under it opens no more."""
    manager = context.manager
    with manager.database.transaction() as connection:
        native_providers.find(connection, given.provider)
        hosts = all_hosts(connection)
    used = {key.key_id: key for key in await keys_in_use(manager, given.provider, hosts)}.get(given.key)
    if used is None:
        raise NotFound(f"The native key provider {given.provider!r} has no key {given.key!r}.", given.key)
    if used.state == "CURRENT":  # when it was counted: hosts went on wrapping, also where it is not any more
        raise native_providers.is_current(given.provider, given.key)
    if not given.force:
        refuse_in_use(used)
    with manager.database.transaction() as connection:
        provider = native_providers.find(connection, given.provider)
        native_providers.remove_key(connection, provider, given.key)
        crypto_events.record(
            manager,
            events.CRYPTO_OPERATION,
            f"The key {given.key} was removed from the native key provider {provider.name}.",
            operation="remove_key",
            user=context.caller.user.name,
            key_id=given.key,
            provider=provider.name,
            object_id=provider.name,
            connection=connection,
        )
    left = sum(host.keys for host in used.hosts)
    context.audit_detail.update(
        force=str(given.force).lower(), keys_left=str(left), unknown=",".join(used.unknown)
    )
    await native_push.push_all(manager)


def refuse_in_use(used: KeyInfo) -> None:
    """Raises NotAllowedInCurrentState where something would be lost, or might be."""
    keeping = [f"{host.host}: {host.keys}" for host in used.hosts if host.keys]
    if keeping:
        raise NotAllowedInCurrentState(
            f"Keys of objects are still under {used.key_id} ({', '.join(keeping)}): wrap them again first.",
            used.key_id,
            reason="keys_left",
        )
    if used.unknown:
        raise NotAllowedInCurrentState(
            "Hosts that do not answer, cannot read all keys that they keep, or did not take a later key, may "
            f"keep some under {used.key_id}: {', '.join(used.unknown)}.",
            used.key_id,
            reason="keys_left",
        )


@dataclass(frozen=True)
class Said:
    """What a host says of a provider. wraps: id of the key under which it wraps, "" without the provider.
    held: ids of the keys that it has. use: what it keeps under them."""

    wraps: str
    held: frozenset[str]
    use: host_keys.Use


async def keys_in_use(manager: Manager, name: str, hosts: Sequence[Host]) -> list[KeyInfo]:
    """The keys of a provider, the current one first, and what hosts keep under them. Raises NotFound."""
    with manager.database.transaction() as connection:
        provider = native_providers.find(connection, name)
        ids = set(native_providers.check_values(connection, provider))
        removed = native_providers.removed_keys(connection, name)
    said = await said_by_all(manager, hosts, provider)
    kept = frozenset[str]().union(*(one.held for one in said.values())) - ids - removed
    unknown = {host.name for host in hosts if host.name not in said or not said[host.name].use.complete}
    behind = {host: one.wraps for host, one in said.items() if one.wraps not in ("", provider.key_id)}
    found = [
        KeyInfo(
            key_id=key_id,
            state="CURRENT" if key_id == provider.key_id else "KEPT" if key_id in kept else "PREVIOUS",
            hosts=[HostUse(host=host, keys=one.use.counts[key_id]) for host, one in sorted(said.items())],
            unknown=sorted(unknown.union(host for host, wraps in behind.items() if wraps == key_id)),
        )
        for key_id in sorted(ids | kept)
    ]
    return sorted(found, key=lambda key: key.state)


async def said_by_all(manager: Manager, hosts: Sequence[Host], provider: Provider) -> dict[str, Said]:
    """What hosts say, asked at once, by name of those that answer in time.

    Under which key a host wraps is asked first: what it wraps until it takes another one is counted then."""

    async def one(host: Host) -> Said | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                states = await native_push.states_of(manager, host.name) if provider.usable else {}
                use = await host_keys.use_of(manager, host, provider.name)
        except (NodeError, TimeoutError):
            return None
        if (state := states.get(provider.name)) is None:
            return Said("", frozenset(), use)
        return Said(state.key_id, frozenset(state.keys), use)

    answers = await asyncio.gather(*(one(host) for host in hosts))
    return {host.name: said for host, said in zip(hosts, answers, strict=True) if said is not None}


DOWNLOAD = Operation(
    service=f"{SERVICE}.backups",
    operation="download",
    method="GET",
    path=f"{crypto_manager_backups.DOWNLOADS}/{{backup}}",
    summary="Fetch a backup that was exported: once, with its token as `Authorization: Bearer`",
    input=DownloadInput,
    output=Download,
    handler=download,
    privileges=(),
    errors=(Unauthenticated,),
    public=True,
    media_types=(MEDIA_TYPE,),
    side="workload",
)

OPERATIONS: Table = (
    DOWNLOAD,
    Operation(
        service=f"{SERVICE}.keys",
        operation="list",
        method="GET",
        path=PATH,
        summary="Keys of a native key provider, and how many keys of objects hosts keep under each",
        input=ProviderInput,
        output=list[KeyInfo],
        handler=list_keys,
        privileges=crypto_manager.READ,
        errors=(NotFound,),
        side="workload",
    ),
    Operation(
        service=f"{SERVICE}.keys",
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{key}}",
        summary="Remove a previous key of a native key provider, or one that only hosts have",
        input=DeleteInput,
        output=None,
        handler=delete,
        privileges=crypto_manager.MANAGE,
        errors=(NotAllowedInCurrentState, NotFound, Unsupported),
        side="workload",
    ),
)

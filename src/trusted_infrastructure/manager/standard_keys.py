# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of standard providers: made and got at the key servers for hosts of a cluster. docs/protocol.md 7.5.

The manager keeps ids, what a key is used for, and a check value by which another key under the same id shows;
never a key. A key belongs to the cluster that it was made for: hosts of others do not get it.
"""

from __future__ import annotations

import hmac
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata

from trusted_infrastructure import wrapping
from trusted_infrastructure.kmip.pool import ACTIVE
from trusted_infrastructure.kmip.servers import ServedKey
from trusted_infrastructure.manager import crypto_events, events, known_keys, standard_providers
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.known_keys import Asker, KnownKey, Use
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.errors import AlreadyExists
from trusted_infrastructure.refusal import Refusal


def product_version() -> str:
    """Of this release; "0" where it runs from its sources."""
    try:
        return metadata.version("trusted-infrastructure")
    except metadata.PackageNotFoundError:
        return "0"


VENDOR = {
    "x-Vendor": "trusted.infrastructure",
    "x-Product": "trusted.infrastructure workload manager",
    "x-Product_Version": product_version(),
}
# The state of a key that no key server has.
MISSING = "MISSING"
STATE_OF_REFUSAL = {
    "key_missing": MISSING,
    "key_deactivated": "DEACTIVATED",
    "key_compromised": "COMPROMISED",
    "key_destroyed": "DESTROYED",
}


async def create(manager: Manager, asker: Asker, provider: str, use: Use) -> ServedKey:
    """A new key of the provider, put to use where `use` says for what.

    Raises Refusal; NotFound."""
    content = provider_of(manager, provider)
    try:
        with one_more(manager, asker):
            made = await manager.key_servers.ask(
                provider, content, lambda group: group.create(VENDOR, use.attributes)
            )
            check_new(manager, provider, made)
            with manager.database.transaction() as connection:
                known_keys.insert(connection, provider, made, asker, use, int(manager.clock()))
    except Refusal as refusal:
        unreachable = refusal.code == "key_server_unreachable"
        kind = events.KMS_UNREACHABLE if unreachable else events.KEY_GENERATE_FAIL
        failed(manager, kind, refusal, asker, provider, "create", "", use)
        raise
    done(manager, asker, provider, "create", made.key_id, use, made.attributes_problem)
    return made


def one_more(manager: Manager, asker: Asker) -> AbstractContextManager[None]:
    """While a key is made. What users of the manager ask for is not limited."""
    if not asker.host:
        return nullcontext()
    with manager.database.transaction() as connection:
        made = known_keys.made_by(connection, asker.host)
    return manager.key_quota.one_more(asker.host, made)


async def get(manager: Manager, asker: Asker, provider: str, key_id: str, use: Use) -> ServedKey:
    """A key that the manager knows. use: what it is put to use for; what it is used for already is not set
    again, and nothing leaves it as it is.

    Raises Refusal: `key_unknown` where it is not the cluster's, and those of `KeyServerGroup.get`; NotFound.
    """
    content = provider_of(manager, provider)
    row = known_keys.known(manager, provider, key_id)
    if row is None or row.cluster != asker.cluster:
        refusal = Refusal(
            "key_unknown",
            f"the provider {provider!r} has no key {key_id!r} for this cluster",
            "Ask for a key that was made for this cluster.",
            status=404,
        )
        # No key server was asked: this is who wanted what it may not have.
        failed(manager, events.CRYPTO_OPERATION, refusal, asker, provider, "get", key_id, use)
        raise refusal
    use = use.after(row.use)
    wanted = None if use == row.use else use.attributes or None
    try:
        found = await manager.key_servers.ask(provider, content, lambda group: group.get(key_id, wanted))
        check_same(row, found)
    except Refusal as refusal:
        missing = refusal.code in ("key_missing", "key_destroyed")
        kind = events.SEND_KEY_MISSING_ON_KMS if missing else events.SEND_KEY_KMS_CLUSTER_ERROR
        failed(manager, kind, refusal, asker, provider, "get", key_id, use)
        known_keys.note_state(manager, provider, key_id, STATE_OF_REFUSAL.get(refusal.code))
        raise
    known_keys.note_state(manager, provider, key_id, found.state)
    if wanted and found.state == ACTIVE:
        known_keys.note_use(manager, provider, key_id, use)
    done(manager, asker, provider, "get", key_id, use, found.attributes_problem)
    return found


async def take(manager: Manager, asker: Asker, provider: str, key_id: str, use: Use) -> ServedKey:
    """Begin to know a key that is on the key servers: after its row was forgotten, or lost with the database.

    Raises Refusal as `get` does; NotFound; AlreadyExists, also where another call was first."""
    refuse_known(manager, provider, key_id)
    content = provider_of(manager, provider)
    wanted = use.attributes or None
    found = await manager.key_servers.ask(provider, content, lambda group: group.get(key_id, wanted))
    refuse_known(manager, provider, key_id)
    with manager.database.transaction() as connection:
        known_keys.insert(connection, provider, found, asker, use, int(manager.clock()))
    done(manager, asker, provider, "add", key_id, use, found.attributes_problem)
    return found


def refuse_known(manager: Manager, provider: str, key_id: str) -> None:
    """A key that is known has its cluster. Raises AlreadyExists."""
    if known_keys.known(manager, provider, key_id) is not None:
        raise AlreadyExists(f"The key {key_id!r} of the provider {provider!r} is known.", key_id)


def provider_of(manager: Manager, name: str) -> StandardProvider:
    """Raises NotFound."""
    with manager.database.transaction() as connection:
        return standard_providers.find(connection, name)


def check_new(manager: Manager, provider: str, made: ServedKey) -> None:
    """The key servers made a key, and did not give one of before for it. Raises Refusal `key_mismatch`."""
    if known_keys.known(manager, provider, made.key_id) is None:
        return
    raise Refusal(
        "key_mismatch",
        f"key server {made.server!r} gave {made.key_id!r} for a new key, and that is another key's id",
        "Find out what the key server does. The key is passed to nobody.",
        status=503,
    )


def check_same(row: KnownKey, found: ServedKey) -> None:
    """The key servers gave the key that was made under this id. Raises Refusal `key_mismatch`."""
    if hmac.compare_digest(row.check_value, wrapping.check_value(found.material, found.key_id)):
        return
    raise Refusal(
        "key_mismatch",
        f"key server {found.server!r} has another key under id {found.key_id!r} than the one that was made",
        "Find out who replaced the key. It is passed to nobody.",
        status=503,
    )


def done(
    manager: Manager, asker: Asker, provider: str, operation: str, key_id: str, use: Use, problem: str = ""
) -> None:
    """The event of what succeeded. problem: what of its attributes did not."""
    made = {"create": "was made", "get": "was got", "add": "is known again", "send": "was passed"}[operation]
    where = f" for host {asker.host}" if asker.host else ""
    wrong = f" Its vendor attributes could not be set: {problem}" if problem else ""
    crypto_events.record(
        manager,
        events.CRYPTO_OPERATION,
        f"Key {key_id} of provider {provider} {made}{where}.{wrong}",
        operation=operation,
        user=asker.user,
        key_id=key_id,
        provider=provider,
        object_id=use.identifier or use.name,
        component=use.component,
        cluster=asker.cluster,
        host=asker.host,
    )


def failed(
    manager: Manager,
    event_type: str,
    refusal: Refusal,
    asker: Asker,
    provider: str,
    operation: str,
    key_id: str,
    use: Use,
) -> None:
    """The event of what failed: one for each failure, not for each time that it is tried again.

    A key that is missing is a failure of its own; what is wrong with a server or a host is one for all keys.
    """
    of_key = key_id if event_type == events.SEND_KEY_MISSING_ON_KMS else ""
    if not manager.key_servers.is_new(event_type, provider, asker.host, refusal.code, of_key):
        return
    crypto_events.record(
        manager,
        event_type,
        f"Provider {provider}: {refusal.message}",
        operation=operation,
        user=asker.user,
        key_id=key_id,
        provider=provider,
        object_id=use.identifier or use.name,
        component=use.component,
        cluster=asker.cluster,
        host=asker.host,
        code=refusal.code,
    )

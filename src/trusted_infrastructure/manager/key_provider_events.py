# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption events of changes of key providers: what became of a trusted or a standard one, and who did it.

They are made of what the provider was before and after, in one place: so no way of changing it is without
them. A change of a trusted one that not all hosts took is one, too: it is desired. Those of standard ones are
recorded by standard_provider_changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.manager import crypto_events, desired, events
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.provider_secrets import KIND
from trusted_infrastructure.manager.standard_providers import StandardProvider
from trusted_infrastructure.manager.vapi.errors import ResourceInaccessible

SETTINGS = ("servers", "proxy_server", "username", "connection_timeout", "description", "required_userspace")


@dataclass(frozen=True)
class Done:
    """operation: as in the event. said: what was done, as the end of a sentence. key_id: the primary key that
    it is about; a standard provider has none, ""."""

    operation: str
    said: str
    key_id: str


@contextmanager
def noted(context: Context, provider: str) -> Iterator[None]:
    """Around a change of a provider of `context.cluster`: afterwards there is an event for each thing that
    became different."""
    before = content_of(context, provider)
    try:
        yield
    except ResourceInaccessible:
        record(context, provider, before)
        raise
    record(context, provider, before)


def content_of(context: Context, provider: str) -> KeyProvider | None:
    """The desired content; None where there is none."""
    with context.manager.database.transaction() as connection:
        return desired.content(connection, context.cluster, KIND, provider, KeyProvider)


def record(context: Context, provider: str, before: KeyProvider | None) -> None:
    """The events of what is different now."""
    for done in differences(before, content_of(context, provider)):
        crypto_events.record(
            context.manager,
            events.CRYPTO_OPERATION,
            f"The key provider {provider} of {context.cluster.name} {done.said}.",
            operation=done.operation,
            user="" if context.session is None else context.session.user.name,
            key_id=done.key_id,
            provider=provider,
            object_id=provider,
            cluster=context.cluster.number,
        )


def differences(
    before: KeyProvider | StandardProvider | None, after: KeyProvider | StandardProvider | None
) -> list[Done]:
    """What was done to a provider. Pure."""
    if after is None:
        return [] if before is None else [Done("delete_provider", "was deleted", primary_key_of(before))]
    key_id = primary_key_of(after)
    if before is None:
        return [Done("create_provider", "was created", key_id)]
    found = []
    if isinstance(before, KeyProvider) and isinstance(after, KeyProvider):
        found = primary_key_steps(before, after)
    if after.client_certificate != before.client_certificate:
        found.append(Done("set_client_certificate", "has another client certificate", key_id))
    if after.csr != before.csr and after.csr is not None:
        found.append(Done("request_client_certificate", "has a new certificate request", key_id))
    if digest(after.password) != digest(before.password):
        found.append(Done("set_credential", "has another password for its key servers", key_id))
    if after.trusted_certificates != before.trusted_certificates:
        found.append(Done("trust_server_certificates", "trusts other certificates of key servers", key_id))
    different = [name for name in SETTINGS if getattr(before, name, None) != getattr(after, name, None)]
    if different:
        found.append(Done("update_provider", f"has other settings: {', '.join(different)}", key_id))
    return found


def primary_key_steps(before: KeyProvider, after: KeyProvider) -> list[Done]:
    """What happened to primary keys."""
    found = []
    old, new = before.master_key_id, after.master_key_id
    previous = {key.master_key_id: key for key in after.previous_keys}
    known = {key.master_key_id: key for key in before.previous_keys}
    if new != old:
        rotated = "was rotated from" if old in previous else "has another primary key than"
        operation = "rotate" if old in previous else "set_primary_key"
        found.append(Done(operation, f"{rotated} {old}: {new}", new))
    found += [
        Done("compromise", f"takes its previous primary key {key_id} for compromised", key_id)
        for key_id, key in previous.items()
        if key.compromised and not (key_id in known and known[key_id].compromised)
    ]
    found += [
        Done("disable", f"opens nothing under its previous primary key {key_id} any more", key_id)
        for key_id in known
        if key_id not in previous and key_id != new
    ]
    return found


def primary_key_of(provider: KeyProvider | StandardProvider) -> str:
    """Id of the primary key; "" for a standard provider."""
    return provider.master_key_id if isinstance(provider, KeyProvider) else ""


def digest(secret: Sealed | str | None) -> str | None:
    """What tells secrets apart; sealing one for further hosts keeps it, encrypting one again does not."""
    return secret.digest if isinstance(secret, Sealed) else secret

# SPDX-License-Identifier: GPL-3.0-or-later
"""Trusted key providers: their documents, what hosts make for them, and what hosts know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.manager import authority_documents, key_provider_events
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Host, hosts_of
from trusted_infrastructure.manager.nodes import NodeError, ask
from trusted_infrastructure.manager.provider_secrets import (
    KIND,
    SealingKey,
    provider_path,
    seal,
    sealing_keys,
)
from trusted_infrastructure.manager.trust_authority import require_enabled
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState, ResourceInaccessible

Answer = TypeVar("Answer")
# Seconds that a host's answer may take beyond what its key servers may take.
MARGIN = 10.0
log = structlog.get_logger("trusted_infrastructure.manager")


class MadeCertificate(msgspec.Struct, frozen=True):
    """A host's answer: a new client certificate, its key sealed."""

    certificate: str
    private_key: Sealed


class MadeRequest(msgspec.Struct, frozen=True):
    """A host's answer: a new certificate request, its key sealed."""

    csr: str
    private_key: Sealed


class PeerCertificate(msgspec.Struct, frozen=True):
    """What a key server presents, as a host sees it."""

    server_name: str
    certificate: str | None = None
    error: str | None = None


class CheckValue(msgspec.Struct, frozen=True):
    """The primary key's check value, when all key servers agree."""

    check_value: str


def find(context: Context, provider: str) -> KeyProvider:
    """A provider's desired content. Raises NotFound."""
    return authority_documents.find(context, KIND, provider, KeyProvider)


def hosts(context: Context) -> list[Host]:
    """The hosts of the cluster that the path names. Raises NotAllowedInCurrentState when it has none."""
    with context.manager.database.transaction() as connection:
        found = hosts_of(connection, context.cluster)
    if not found:
        raise NotAllowedInCurrentState(
            f"The cluster {context.cluster.name!r} has no hosts; its hosts do this.", reason="no_hosts"
        )
    return found


async def change(context: Context, provider: str, edit: Callable[[KeyProvider], KeyProvider]) -> None:
    """Changes a provider on all hosts; then tries to learn the primary key's check value.

    The caller holds the cluster's lock. Raises NotFound, ResourceInaccessible naming hosts."""
    require_enabled(context)
    content = edit(find(context, provider))
    with key_provider_events.noted(context, provider):
        await context.manager.replication.change(context.cluster, [Change(KIND, provider, content)])
    await learn_check_value(context, provider)


async def learn_check_value(context: Context, provider: str) -> None:
    """Records the primary key's check value once all key servers can be asked and agree.

    Until trust with the key servers is complete it cannot be learned: that is no error, the provider's health
    says what is missing, and the next change of the provider tries again."""
    content = find(context, provider)
    complete = content.client_private_key and content.client_certificate and content.trusted_certificates
    if content.primary_key_check_value is not None or not complete:
        return
    try:
        answer = await first_answer(context, provider, "POST", "check-value", CheckValue)
    except ResourceInaccessible as error:
        log.info("check_value_unknown", provider=provider, reason=error.text)
        return
    learned = msgspec.structs.replace(content, primary_key_check_value=answer.check_value)
    await context.manager.replication.change(context.cluster, [Change(KIND, provider, learned)])


async def learn_missing_check_values(context: Context) -> None:
    """`learn_check_value` for each provider that has none. The caller holds the cluster's lock."""
    for provider in authority_documents.find_all(context, KIND, KeyProvider):
        await learn_check_value(context, provider)


async def all_sealing_keys(context: Context) -> dict[str, SealingKey]:
    """The configuration keys of all hosts. Raises ResourceInaccessible naming hosts."""
    return await sealing_keys(context.manager.nodes, hosts(context))


async def sealed(context: Context, provider: str, field: str, secret: bytes) -> Sealed:
    """A secret that the caller gave, for all hosts."""
    return seal(secret, await all_sealing_keys(context), provider, field)


async def first_answer(
    context: Context, provider: str, method: str, action: str, wanted: type[Answer], content: Any = None
) -> Answer:
    """Asks the hosts one after the other until one does it. Raises ResourceInaccessible with all reasons."""
    failures: list[NodeError] = []
    # A host may have to wait for a key server that hangs, and should say so itself.
    timeout = find(context, provider).connection_timeout + MARGIN
    for host in hosts(context):
        try:
            path = provider_path(provider, action)
            return await ask(context.manager.nodes, host.name, method, path, wanted, content, timeout)
        except NodeError as error:
            failures.append(error)
    raise nobody(provider, action, failures)


def nobody(provider: str, action: str, failures: Sequence[NodeError]) -> ResourceInaccessible:
    """The error when no host could."""
    return ResourceInaccessible(
        f"No host of the cluster could do {action!r} for the key provider {provider!r}.",
        provider,
        reason=failures[0].code if failures else "no_hosts",
        details=[failure.message() for failure in failures],
    )

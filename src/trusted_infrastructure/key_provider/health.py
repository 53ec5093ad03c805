# SPDX-License-Identifier: GPL-3.0-or-later
"""The service's health: what `GET /kms/manage/v1/status` answers."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from trusted_infrastructure import identity
from trusted_infrastructure.config.documents import KeyProvider, PreviousPrimaryKey
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.key_provider.host_state import HostState
from trusted_infrastructure.key_provider.primary_keys import Health, Round, ServerHealth
from trusted_infrastructure.kmip.client_certificates import certificate_end
from trusted_infrastructure.kmip.pool import ACTIVE
from trusted_infrastructure.refusal import Refusal

WORST_FIRST: tuple[Health, ...] = ("ERROR", "WARNING", "NONE", "OK")
# Before the end of a client's or a key server's certificate, from when it is a warning.
CERTIFICATE_WARNING = datetime.timedelta(days=30)


def service_status(state: HostState) -> dict[str, Any]:
    """Health and details of the service; of its providers; of their key servers.

    Reads what is known; asks nobody. {health, details, service_id, security_generation, identity_expires,
    providers: {name: {health, details, servers: [...]}}}.
    """
    details: list[str] = []
    healths: list[Health] = []
    expires, problem = _identity_end(state)
    if problem:
        details.append(problem)
        healths.append("ERROR")
    stopped, watched = state.problems()
    details += stopped + watched
    healths += ["ERROR"] * len(stopped)
    healths += ["WARNING"] * len(watched)
    providers: dict[str, dict[str, Any]] = {}
    generation = None
    try:
        snapshot = state.snapshot()
        generation = snapshot.security_generation
        peer_details = _peer_problems(state, snapshot)
        details += peer_details
        healths += ["WARNING"] * len(peer_details)
        providers = _providers(state, snapshot)
    except Refusal as refusal:
        details.append(str(refusal))
        healths.append("ERROR")
    for name, provider in providers.items():
        healths.append(provider["health"])
        if provider["health"] in ("ERROR", "WARNING"):
            details.append(f"provider {name!r}: {provider['health']}")
    return {
        "health": _worst(healths),
        "details": details,
        "service_id": state.service_id,
        "security_generation": generation,
        "identity_expires": expires,
        "providers": providers,
    }


def _providers(state: HostState, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    rounds = state.primary_keys.health()
    ends = state.primary_keys.certificate_ends()
    now = datetime.datetime.fromtimestamp(state.clock(), datetime.UTC)
    return {
        name: _provider(document, rounds.get(name, {}), ends.get(name, {}), now)
        for name, document in snapshot.documents("key_provider", KeyProvider).items()
    }


def _worst(healths: Iterable[Health]) -> Health:
    return min(healths, key=WORST_FIRST.index, default="OK")


def _provider(
    document: KeyProvider,
    rounds: Mapping[str, Round | None],
    ends: Mapping[str, datetime.datetime],
    now: datetime.datetime,
) -> dict[str, Any]:
    last = rounds.get(document.master_key_id)
    healths: list[Health] = []
    details: list[str] = []
    if last is None:
        healths.append("NONE")
        details.append("its key servers were not asked yet")
    else:
        healths.append(last.health)
        details += last.details
        if last.held is not None and last.held.key.state != ACTIVE:
            healths.append("ERROR")
            details.append(
                f"key_deactivated: primary key {document.master_key_id!r} is {last.held.key.state}: it opens,"
                " and wraps nothing; rotate to another"
            )
    for key in document.previous_keys:
        health, lines = _previous(key, rounds.get(key.master_key_id))
        healths.append(health)
        details += lines
    client_end, warning = _client_certificate(document, now)
    servers = [_server(server.name, document, rounds, ends.get(server.name)) for server in document.servers]
    warnings = [warning] if warning else []
    for server in servers:
        ending = _ending(f"certificate of key server {server['name']}", ends.get(server["name"]), now)
        if ending:
            warnings.append(ending)
            server["details"] = [*server["details"], ending]
            server["health"] = _worst([server["health"], "WARNING"])
    if warnings and last is not None:
        details += warnings
        healths.append("WARNING")
    return {
        "health": _worst(healths),
        "details": details,
        "client_certificate_end": _text(client_end),
        "servers": servers,
    }


def _previous(key: PreviousPrimaryKey, last: Round | None) -> tuple[Health, list[str]]:
    """What a primary key that the provider was rotated from means for it: it must open, until it is given
    up."""
    if last is None or last.health == "OK":
        return "OK", []
    lines = [f"earlier primary key {key.master_key_id!r}: {line}" for line in last.details]
    # Of a compromised one it is expected that it goes.
    return ("WARNING" if key.compromised else last.health), lines


def _server(
    name: str,
    document: KeyProvider,
    rounds: Mapping[str, Round | None],
    end: datetime.datetime | None,
) -> dict[str, Any]:
    """One key server: how it does by the primary key of now, whether it has each primary key, and when the
    certificate ends that it presented."""
    found = {key_id: _of_server(name, last) for key_id, last in rounds.items()}
    current = found.get(document.master_key_id) or ServerHealth(name, "NONE", ["not asked yet"])
    order = [document.master_key_id, *(key.master_key_id for key in document.previous_keys)]
    return {
        "name": name,
        "health": current.health,
        "details": current.details,
        "client_trust_server": current.client_trust_server,
        "server_trust_client": current.server_trust_client,
        "certificate_end": _text(end),
        "keys": [
            {
                "primary_key_id": key_id,
                "state": known.state if known else "",
                "code": known.code if known else "",
            }
            for key_id in order
            for known in [found.get(key_id)]
        ],
    }


def _of_server(name: str, last: Round | None) -> ServerHealth | None:
    return None if last is None else next((server for server in last.servers if server.name == name), None)


def _client_certificate(
    document: KeyProvider, now: datetime.datetime
) -> tuple[datetime.datetime | None, str]:
    """When it ends, and what is wrong with it."""
    if document.client_certificate is None:
        return None, ""
    try:
        end = certificate_end(document.client_certificate)
    except Refusal as refusal:
        return None, str(refusal)
    return end, _ending("client certificate for the key servers", end, now)


def _ending(what: str, end: datetime.datetime | None, now: datetime.datetime) -> str:
    if end is None or now + CERTIFICATE_WARNING < end:
        return ""
    return f"certificate_expired: the {what} ends at {_text(end)}"


def _text(moment: datetime.datetime | None) -> str | None:
    """RFC 3339."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _peer_problems(state: HostState, snapshot: Snapshot) -> list[str]:
    peers, problems = state.peers(snapshot)
    known = state.attestation_keys.problems
    return problems + [f"peer {peer.host!r}: {known[peer.host]}" for peer in peers if peer.host in known]


def _identity_end(state: HostState) -> tuple[str | None, str]:
    """When this service's identity ends (RFC 3339), and what is wrong with it."""
    try:
        leaf = identity.load_certificates(state.identity_files.certificate.read_bytes())[0]
    except OSError as error:
        return None, f"{state.identity_files.certificate}: {error.strerror}"
    except Refusal as refusal:
        return None, str(refusal)
    end = leaf.not_valid_after_utc
    text = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    if state.clock() >= end.timestamp():
        return text, f"certificate_expired: the service's identity certificate expired at {text}"
    return text, ""

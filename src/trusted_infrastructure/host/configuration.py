# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host was told: registered services, the manager's assertion, key providers, the anchor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from trusted_infrastructure.config.documents import (
    Content,
    HostAssertion,
    RegisteredService,
    TrustedKeyProvider,
)
from trusted_infrastructure.config.snapshot import Snapshot, SnapshotReader
from trusted_infrastructure.host.registered_services import Service, check_anchored, read_anchor
from trusted_infrastructure.refusal import Refusal


@dataclass(frozen=True)
class RefusedService:
    """A registered service that the anchor does not vouch for."""

    kind: Literal["attestation_service", "kms_service"]
    id: str
    address: str
    refusal: Refusal


@dataclass(frozen=True)
class Configuration:
    """One state of it. fingerprint: of what an attestation depends on."""

    host: str
    anchor: str
    attestation_services: tuple[Service, ...]
    key_provider_services: tuple[Service, ...]
    refused: tuple[RefusedService, ...]
    key_providers: dict[str, TrustedKeyProvider]
    host_assertion: HostAssertion | None
    fingerprint: str

    def assertion(self) -> str:
        """The workload manager's JWT for this host. Raises Refusal `assertion_invalid`."""
        remedy = "put the host into the trusted cluster; its manager then vouches for it"
        if self.host_assertion is None:
            raise Refusal("assertion_invalid", "the workload manager has not vouched for this host", remedy)
        if self.host_assertion.host != self.host:
            found = self.host_assertion.host
            raise Refusal(
                "assertion_invalid", f"expected an assertion for {self.host}, found {found}", remedy
            )
        return self.host_assertion.assertion

    def services_for(self, provider: str) -> list[Service]:
        """The key provider services that a provider is paired with; all, where this host does not know it.

        Raises Refusal `service_not_anchored` when there is none but such that the anchor does not vouch for.
        """
        known = self.key_providers.get(provider)
        usable = [one for one in self.key_provider_services if known is None or one.group == known.group]
        refused = [one.refusal for one in self.refused if one.kind == "kms_service"]
        if not usable and refused:
            raise refused[0]
        return usable


class ConfigurationReader:
    """Reads the published snapshot and the anchor; each is parsed again only when it changed."""

    def __init__(self, host: str, snapshot: Path, anchors_directory: Path) -> None:
        self._host = host
        self._snapshots = SnapshotReader(snapshot)
        self._anchors_directory = anchors_directory
        self._seen: tuple[Snapshot, str] | None = None
        self._configuration: Configuration | None = None

    def snapshot(self) -> Snapshot:
        """What is published now. Raises Unavailable `configuration_unavailable`."""
        return self._snapshots.current()

    def current(self) -> Configuration:
        """The configuration now. Raises Unavailable: configuration_unavailable, anchor_missing."""
        snapshot, anchor = self._snapshots.current(), read_anchor(self._anchors_directory)
        if self._configuration is None or self._seen is None or self._seen != (snapshot, anchor):
            self._configuration = configuration_of(self._host, snapshot, anchor)
            self._seen = snapshot, anchor
        return self._configuration


def configuration_of(host: str, snapshot: Snapshot, anchor: str) -> Configuration:
    """The configuration in a snapshot. anchor: PEM. Raises Refusal for an anchor that is no certificate."""
    attestation_services, refused = _services("attestation_service", snapshot, anchor)
    key_provider_services, also_refused = _services("kms_service", snapshot, anchor)
    registered = snapshot.documents("attestation_service", RegisteredService)
    assertion = snapshot.get("host_assertion", "assertion", HostAssertion)
    return Configuration(
        host=host,
        anchor=anchor,
        attestation_services=tuple(attestation_services),
        key_provider_services=tuple(key_provider_services),
        refused=(*refused, *also_refused),
        key_providers=dict(snapshot.documents("trusted_key_provider", TrustedKeyProvider)),
        host_assertion=assertion,
        fingerprint=_fingerprint(anchor, {**registered, "": assertion}),
    )


def _services(
    kind: Literal["attestation_service", "kms_service"], snapshot: Snapshot, anchor: str
) -> tuple[list[Service], list[RefusedService]]:
    """Those that may be used, and the others, by id."""
    usable: list[Service] = []
    refused: list[RefusedService] = []
    for identifier, content in sorted(snapshot.documents(kind, RegisteredService).items()):
        service = Service(identifier, content.address, content.group)
        try:
            check_anchored(content, anchor)
            usable.append(service)
        except Refusal as refusal:
            refused.append(RefusedService(kind, identifier, service.name, refusal))
    return usable, refused


def _fingerprint(anchor: str, contents: dict[str, Content | None]) -> str:
    return hashlib.sha256(msgspec.json.encode([anchor, contents], order="sorted")).hexdigest()

# SPDX-License-Identifier: GPL-3.0-or-later
"""A Trust Authority host's folder as roles and managers leave it: certificates, settings, configuration with
so many enrolled hosts and base images, and the hosts that attest to it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from bench.attester import Attester, SessionKeys, make_attester
from bench.boot import TYPICAL_SIZE, MeasuredBoot, measured_boot
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from services.attestation.vendor import Vendor
from services.side_authority import SideAuthority

from trusted_infrastructure import base_images, tokens
from trusted_infrastructure.config.documents import Document, Generation, content_of
from trusted_infrastructure.config.snapshot import PublishedSnapshot, publish, snapshot_of
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.tpm.event_log import parse_event_log

HOST, GROUP, SCOPE = "ta1", "group-1", "scope-1"
ISSUER = "https://workload-manager/sts"


@dataclass
class Site:
    """One Trust Authority host. enrolled: hosts with an endorsement key in the configuration. denied: removed
    hosts. images: active base images; the one that the hosts match comes last. log_size: of the hosts' logs.
    hosts: how many of the enrolled ones really attest. name: of the Trust Authority host. documents: further
    ones of its configuration.
    """

    folder: Path
    enrolled: int = 100
    denied: int = 0
    images: int = 2
    hosts: int = 1
    log_size: int = TYPICAL_SIZE
    ek_kind: str = "p256"
    name: str = HOST
    documents: list[tuple[str, str, Any]] = field(default_factory=list)
    now: int = field(default_factory=lambda: int(time.time()))
    attesters: list[Attester] = field(init=False)

    def __post_init__(self) -> None:
        self.side = SideAuthority(now=self.now)
        self.vendor = Vendor(self.now)
        principal = SideAuthority(side="workload", now=self.now)
        key, self.principal_certificate = principal.leaf("manager", "workload-manager", side="workload")
        self._principal_key = load_key(key)
        self.boots = [measured_boot(self.log_size, f"image={number}") for number in range(self.images)]
        session = SessionKeys.generate()
        self.attesters = [
            make_attester(f"host{number}", self.boots[-1], session, self.vendor, self._vouch, self.ek_kind)
            for number in range(self.hosts)
        ]

    def snapshot(self) -> PublishedSnapshot:
        """The configuration that the manager would have published."""
        listed = [
            Document(kind, name, Generation(1, 1), content)
            for kind, name, content in (*self._documents(), *self.documents)
        ]
        return snapshot_of(self.name, "trust_authority", 3, listed)

    def write(self, service: str = "attestation", **settings: Any) -> Path:
        """Write certificates, configuration and settings of a service; answers its settings file."""
        run, state, anchors = (
            self.folder / "run" / service,
            self.folder / "state" / service,
            self.folder / "anchors",
        )
        for folder in (run, state, anchors):
            folder.mkdir(parents=True, exist_ok=True)
        self.side.write_leaf(self.folder, f"{service}-service", f"{service}-service", self.name)
        (self.folder / "side_ca.pem").write_text(self.side.certificate)
        peers = [{"host": self.name, "public_name": self.name}]
        (anchors / "peers.json").write_bytes(msgspec.json.encode(peers))
        publish(self.folder / "run" / "snapshot.json", self.snapshot())
        path = self.folder / f"{service}.json"
        plain = {
            "host": self.name,
            "service_id": f"{service}@{self.name}",
            "public_name": self.name,
            "side_ca": str(self.folder / "side_ca.pem"),
            "identity_certificate": str(self.folder / f"{service}-service.pem"),
            "identity_key": str(self.folder / f"{service}-service.key"),
            "snapshot": str(self.folder / "run" / "snapshot.json"),
            "anchors_directory": str(anchors),
            "state_directory": str(state),
            "run_directory": str(run),
        }
        path.write_bytes(msgspec.json.encode(plain | settings))
        return path

    def twin(self, folder: Path, name: str) -> Site:
        """Another Trust Authority host of the same cluster."""
        other = copy.copy(self)
        other.folder, other.name, other.documents = folder, name, []
        return other

    def _vouch(self, host: str, ek_digest: str) -> str:
        claims = tokens.AssertionClaims(
            iss=ISSUER,
            sub=host,
            scope=SCOPE,
            ek_digest=ek_digest,
            aud=GROUP,
            iat=self.now,
            exp=self.now + 30 * 86400,
            jti=f"assertion-{host}",
        )
        return tokens.sign_assertion(claims, self._principal_key, self.principal_certificate)

    def _documents(self) -> Iterable[tuple[str, str, dict[str, Any]]]:
        cluster = {
            "cluster": "domain-c1",
            "name": "Trust Authority",
            "state": "ENABLE",
            "group": GROUP,
            "peers": [{"host": self.name, "public_name": self.name}],
        }
        yield "trust_authority_cluster", "cluster", cluster
        principal = {"id": {"name": "workload", "domain": "local"}, "type": "STS_USER"}
        certificates = [[self.principal_certificate]]
        yield (
            "consumer_principal",
            "principal-1",
            {
                "issuer": ISSUER,
                "issuer_alias": "workload",
                "principal": principal,
                "certificates": certificates,
            },
        )
        scope = {
            "principal": ISSUER,
            "trusted_cluster": "domain-c9",
            "base_images": ["*"],
            "providers": ["*"],
        }
        yield "scope", SCOPE, scope
        yield "tpm2_settings", "settings", {}
        yield "ca_certificate", "vendor", {"cert_chain": [self.vendor.pem]}
        for number, boot in enumerate(self.boots):
            yield "base_image", f"image-{number:03}", captured(boot, f"image-{number:03}")
        for attester in self.attesters:
            yield "endorsement_key", attester.name, {"public_key": attester.ek.subject_public_key_info()}
        for number in range(len(self.attesters), self.enrolled):
            yield "endorsement_key", f"enrolled-{number}", {"public_key": some_public_key()}
        for number in range(self.denied):
            content = {"host": f"removed-{number}", "ek_digest": f"{number:064x}", "reason": "removed"}
            yield "denied_host", f"removed-{number}", content


def captured(boot: MeasuredBoot, version: str) -> dict[str, Any]:
    """The base image of a boot, as a document's content."""
    image = base_images.capture(
        parse_event_log(boot.event_log),
        boot.pcrs,
        bank="sha256",
        image_version=version,
        display_name=version,
    )
    return content_of(image)


def some_public_key() -> str:
    """The public key (PEM) of a TPM that never calls."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()

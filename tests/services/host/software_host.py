# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent needs around it: a TPM that believes everything, a published configuration, a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from services.host.trust_authority import GROUP, PROVIDER, SCOPE, Network, TrustAuthorityHost
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.config.documents import (
    Content,
    Document,
    Generation,
    HostAssertion,
    NetworkAddress,
    RegisteredService,
    TrustedKeyProvider,
    content_of,
)
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.host.agent import Agent, HostFacts
from trusted_infrastructure.host.configuration import ConfigurationReader
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.host.tpm_values import (
    AttestationKey,
    EndorsementKey,
    EndorsementKeyType,
    SealedData,
    SignedQuote,
    TpmProperties,
)
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.policy import SignedPcrPolicy

HOST = "host1"
EVENT_LOG = b"event log"
SUITE = "X25519"  # the hybrid is exercised with a real TPM; these tests want to be fast


@dataclass
class FakeTpm:
    """Opens any credential (the blob is the secret) and quotes by saying the qualifying data."""

    serial: str = "tpm-1"
    fault: Refusal | None = None
    made: int = 0
    proofs: int = 0
    sealed: list[bytes] = field(default_factory=list)

    def endorsement_key(self, key_type: EndorsementKeyType) -> EndorsementKey:
        self._check()
        return EndorsementKey(
            key_type, b"ek of " + self.serial.encode(), b"name", b"qualified", (b"certificate",)
        )

    def endorsement_keys(self) -> list[EndorsementKey]:
        return [self.endorsement_key("RSA_2048")]

    def create_attestation_key(self, key_type: EndorsementKeyType) -> AttestationKey:
        self._check()
        self.made += 1
        return AttestationKey(key_type, b"ak", self.serial.encode(), b"authorization")

    def accepts(self, key: AttestationKey) -> bool:
        self._check()
        return key.private == self.serial.encode()

    def prove(
        self,
        key: AttestationKey,
        credential_blob: bytes,
        encrypted_secret: bytes,
        qualify: Callable[[bytes], bytes],
        bank: str,
        pcrs: Sequence[int],
    ) -> SignedQuote:
        self._check()
        self.proofs += 1
        return SignedQuote(qualify(credential_blob), b"signature", self.read_pcrs(bank, pcrs))

    def read_pcrs(self, bank: str, pcrs: Sequence[int]) -> dict[int, bytes]:
        return {pcr: bytes(32) for pcr in pcrs}

    def properties(self) -> TpmProperties:
        self._check()
        return TpmProperties(2, 0, "1.64", "IBM", "SW TPM", "1.2.3.4", {"sha256": tuple(range(24))})

    def seal(self, secret: bytes, policy: bytes) -> SealedData:
        self._check()
        self.sealed.append(secret)
        number = len(self.sealed).to_bytes(2, "big")
        return SealedData("ECC_NIST_P_256", self.serial.encode(), policy, number)

    def unseal(self, sealed: SealedData, policy: SignedPcrPolicy) -> bytes:
        self._check()
        return self.sealed[int.from_bytes(sealed.private, "big") - 1]

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class SoftwareHost:
    """A trusted host of two Trust Authority hosts. documents: what its manager has replicated."""

    folder: Path
    authority: SideAuthority = field(default_factory=SideAuthority)
    clock: Clock = field(default_factory=Clock)
    tpm: FakeTpm = field(default_factory=FakeTpm)
    event_log: bytes = EVENT_LOG
    read_event_log: Callable[[], bytes] | None = None
    documents: dict[tuple[str, str], Content] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services = [TrustAuthorityHost(self.authority, name, self.clock) for name in ("ta1", "ta2")]
        # One cluster: each key provider knows the token keys of both.
        self.services[1].token_key = self.services[0].token_key
        self.services[1].published["attestation-service"] = self.services[0].published["attestation-service"]
        self.network = Network(*self.services)
        (self.folder / "anchors").mkdir()
        (self.folder / "state").mkdir()
        self.write_anchor(self.authority.certificate)
        for name in ("ta1", "ta2"):
            self.documents["attestation_service", f"attestation-{name}"] = self.registered(name)
            self.documents["kms_service", f"kms-{name}"] = self.registered(name)
        self.documents["host_assertion", "assertion"] = HostAssertion(
            host=HOST, scope=SCOPE, assertion="a.b.c"
        )
        self.documents["trusted_key_provider", PROVIDER] = TrustedKeyProvider(group=GROUP, default=True)
        self.publish()
        self.agent = self.start()

    def start(self) -> Agent:
        """A new agent on this host, as after a restart."""
        facts = HostFacts(HOST, "RSA_2048", self.folder / "state", self.event_log, SUITE, self.read_event_log)
        reader = ConfigurationReader(HOST, self.folder / "snapshot.json", self.folder / "anchors")
        worker = TpmWorker(lambda: nullcontext(self.tpm))
        self.agent = Agent(
            facts, reader, worker, ServiceClient(self.network.client), self.clock, dice=lambda: 0.0
        )
        return self.agent

    def registered(self, name: str, ca: str | None = None) -> RegisteredService:
        return RegisteredService(
            address=NetworkAddress(name),
            trusted_ca=[ca or self.authority.certificate],
            group=GROUP,
            trust_authority_cluster="cluster-1",
        )

    def write_anchor(self, pem: str) -> None:
        (self.folder / "anchors" / "trust_authority_ca.pem").write_text(pem)

    def publish(self, changes: Mapping[tuple[str, str], Content | None] | None = None) -> None:
        """Publish the documents; changes: None removes."""
        for name, content in (changes or {}).items():
            self.documents.pop(name, None)
            if content is not None:
                self.documents[name] = content
        documents = [
            Document(kind, identifier, Generation(1, 1), content_of(content))
            for (kind, identifier), content in self.documents.items()
        ]
        publish(self.folder / "snapshot.json", snapshot_of(HOST, "workload", 1, documents))

    def states(self) -> dict[str, tuple[str, str | None]]:
        """service -> (state, reason)."""
        now = int(self.clock())
        return {str(one.service): (one.state, one.reason) for one in self.agent.attestations.services(now)}

    def state(self) -> tuple[str, str | None]:
        """(state, reason) of the host."""
        status = self.agent.status(int(self.clock()))
        return status.state, status.reason

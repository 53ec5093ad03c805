# SPDX-License-Identifier: GPL-3.0-or-later
"""An Attestation Service with its configuration, and a host in software that attests, or lies, as it is told.

`World` is the service's side: documents, clock, sockets' applications. `Host` is the other side: its messages
are made here step by step, and a test changes any of them on the way.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from services.asgi_client import AsgiClient
from services.attestation.vendor import Vendor
from services.side_authority import NOW, SideAuthority, forwarded
from services.tpm import software_keys
from services.tpm.event_log_builder import LogBuilder

from trusted_infrastructure import base_images, tokens
from trusted_infrastructure.attestation.service import (
    AttestationService,
    Settings,
    management_application,
    public_application,
)
from trusted_infrastructure.audit import AuditRecord, verify
from trusted_infrastructure.config.documents import Document, Generation, content_of
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.messages import (
    AttestationResult,
    Challenge,
    ChallengeRequest,
    Evidence,
    ProofKey,
    encode,
    qualifying_data,
)
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tpm import event_types
from trusted_infrastructure.tpm.event_log import initial_value, parse_event_log
from trusted_infrastructure.tpm.public_area import PublicArea, marshal_tpmt_public, parse_tpmt_public
from trusted_infrastructure.tpm.quote import pcr_selection

GROUP = "group-1"
ISSUER = "https://workload-manager/sts"
SCOPE = "scope-1"
CHALLENGE, EVIDENCE = "/attestation/v1/challenge", "/attestation/v1/evidence"
SEPARATORS = tuple((pcr, event_types.EV_SEPARATOR, bytes(4)) for pcr in range(8))
COMMAND_LINE = f"root=/dev/vda1 ro quiet usrhash={'ab' * 32}\0".encode("utf-16-le")

Boot = tuple[tuple[int, int, bytes], ...]
BOOT: Boot = (
    (0, event_types.EV_S_CRTM_VERSION, b"firmware 1"),
    (7, event_types.EV_EFI_VARIABLE_DRIVER_CONFIG, b"SecureBoot=1"),
    *SEPARATORS,
    (4, event_types.EV_EFI_BOOT_SERVICES_APPLICATION, b"boot loader 1"),
    (12, event_types.EV_IPL, COMMAND_LINE),
    (4, event_types.EV_EFI_BOOT_SERVICES_APPLICATION, b"kernel 1"),
    (9, event_types.EV_EVENT_TAG, b"initrd 1"),
)
BOOT_LOADER, KERNEL = 10, 12

Change = Callable[[Any], Any]


def unchanged(value: Any) -> Any:
    return value


@dataclass
class Host:
    """A host with a TPM. kind of keys: see `software_keys.private_key`."""

    name: str = "host1"
    ek_kind: str = "p256:ek"
    ak_kind: str = "p256:ak"
    boot: Boot = BOOT
    resets: int = 7
    restarts: int = 1
    clock: int = 1_000_000
    safe: int = 1
    firmware: int = 0x2024_0001_0002_0003

    def __post_init__(self) -> None:
        self.ek = software_keys.endorsement_key(self.ek_kind)
        self.ak = software_keys.attestation_key(self.ak_kind)
        self.certificates: list[bytes] = []
        self.proof_key = ec.generate_private_key(ec.SECP256R1())
        self.sealing_key = SealingKey.generate()
        self.start(self.boot)

    def start(self, boot: Boot) -> None:
        """Measure a boot into the PCRs and the log."""
        log = LogBuilder(("sha256",))
        for pcr, kind, content in boot:
            log.add(pcr, kind, content)
        self.event_log = log.data
        self.pcrs = {pcr: initial_value(pcr, "sha256") for pcr in range(24)} | log.pcrs["sha256"]

    def reboot(self, boot: Boot = BOOT) -> None:
        """A power cycle."""
        self.resets, self.restarts, self.clock = self.resets + 1, 0, self.clock + 1000
        self.start(boot)

    def activate(self, challenge: Challenge) -> bytes:
        """TPM2_ActivateCredential. AssertionError where the TPM refuses."""
        secret = software_keys.activate(
            software_keys.private_key(self.ek_kind),
            self.ek,
            self.ak.name,
            challenge.credential_blob,
            challenge.encrypted_secret,
        )
        assert secret is not None
        return secret

    def quote(
        self, challenge: Challenge, extra: bytes, change: Change, signing_key: Any
    ) -> tuple[bytes, bytes]:
        """TPM2_Quote: TPMS_ATTEST and TPMT_SIGNATURE."""
        genuine = software_keys.genuine_attest(self.ek, self.ak, extra, self.pcrs, challenge.pcrs)
        attest = change(
            replace(
                genuine,
                clock=self.clock,
                resets=self.resets,
                restarts=self.restarts,
                safe=self.safe,
                firmware=self.firmware,
            )
        ).marshal()
        key = signing_key or software_keys.private_key(self.ak_kind)
        return attest, software_keys.sign(key, self.ak, attest)

    def evidence(
        self,
        request: bytes,
        challenge: Challenge,
        change_attest: Change = unchanged,
        signing_key: Any = None,
        **bound: Any,
    ) -> Evidence:
        """Evidence for a challenge.

        change_attest: lies inside what is signed. signing_key: another key than the AK's.
        bound: parts of the qualifying data and of the message, changed together (event_log, claims, ...).
        """
        secret = self.activate(challenge)
        event_log = bound.get("event_log", self.event_log)
        claims = bound.get("claims", b"{}")
        jwk = tokens.jwk(self.proof_key.public_key())
        proof_key = bound.get("proof_key", ProofKey(x=jwk["x"], y=jwk["y"]))
        suite = bound.get("hpke_suite", self.sealing_key.suite)
        public_key = bound.get("hpke_public_key", self.sealing_key.public_bytes())
        extra = qualifying_data(
            purpose=bound.get("purpose", "token"),
            service_id=bound.get("service_id", challenge.service_id),
            nonce=bound.get("nonce", challenge.nonce),
            challenge_request=bound.get("challenge_request", request),
            secret_proof=hmac.digest(bound.get("secret", secret), challenge.challenge_id, "sha256"),
            pcr_selection=pcr_selection(challenge.bank, bound.get("pcrs", challenge.pcrs)),
            proof_key_thumbprint=proof_key.thumbprint(),
            hpke_suite=suite,
            hpke_public_key=public_key,
            event_log=event_log,
            claims=claims,
        )
        attest, signature = self.quote(challenge, extra, change_attest, signing_key)
        return Evidence(
            challenge=challenge.challenge,
            quote=attest,
            signature=signature,
            event_log=event_log,
            proof_key=proof_key,
            hpke_suite=suite,
            hpke_public_key=public_key,
            claims=claims,
        )


class World:
    """One Attestation Service. now: its clock, to be moved by a test."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.folder = folder
        self.vendor = Vendor(NOW)
        self.side = SideAuthority()
        self.host = Host()
        self.host.certificates = [self.vendor.certify(self.host.ek)]
        self.principal = SideAuthority(side="workload")
        self.principal_key, self.principal_certificate = self.principal.leaf(
            "manager", "workload-manager", side="workload"
        )
        self.security_generation = 3
        self.documents = self._documents()
        self.settings = self._settings()
        self.publish()
        self.start()

    def start(self) -> None:
        """Start the service, or start it again."""
        self.service = AttestationService(self.settings, lambda: self.now)
        self.public = AsgiClient(public_application(self.service), {"X-Real-IP": "192.0.2.7"})
        _key, manager = self.side.leaf("manager", "ta-manager")
        self.management = AsgiClient(
            management_application(self.service, self.settings, lambda: self.now), forwarded(manager)
        )

    def publish(self) -> None:
        """Publish `documents`: (kind, id) -> content."""
        listed = [
            Document(kind, name, Generation(1, 1), content)
            for (kind, name), content in self.documents.items()
        ]
        snapshot = snapshot_of("ta1", "trust_authority", self.security_generation, listed)
        publish(self.settings.snapshot, snapshot)

    def change(self, kind: str, name: str, **fields: Any) -> None:
        """Change fields of a document, and publish."""
        self.documents[kind, name] = self.documents[kind, name] | fields
        self.publish()

    def add_host(self, host: Host) -> Host:
        """Enroll and certify another host."""
        host.certificates = [self.vendor.certify(host.ek)]
        self.documents["endorsement_key", host.name] = {"public_key": host.ek.subject_public_key_info()}
        self.publish()
        return host

    def assertion(self, host: Host, key: Any = None, **changes: Any) -> str:
        """The workload manager's assertion for a host."""
        fields: dict[str, Any] = {
            "iss": ISSUER,
            "sub": host.name,
            "scope": SCOPE,
            "ek_digest": host.ek.digest,
            "aud": GROUP,
            "iat": self.now,
            "exp": self.now + 30 * 86400,
            "jti": "assertion-1",
        } | changes
        claims = tokens.AssertionClaims(**fields)
        return tokens.sign_assertion(claims, key or load_key(self.principal_key), self.principal_certificate)

    def request(self, host: Host | None = None, **changes: Any) -> bytes:
        """A challenge request; `changes` are fields of the message."""
        host = host or self.host
        message = ChallengeRequest(
            assertion=changes.pop("assertion", None) or self.assertion(host),
            ek_public=host.ek.tpm2b(),
            ek_certificates=host.certificates,
            ak_public=host.ak.tpm2b(),
        )
        return encode(msgspec.structs.replace(message, **changes))

    def challenge(self, request: bytes) -> Challenge:
        """A challenge that must be given."""
        answer = self.public.post(CHALLENGE, content=request)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=Challenge)

    def attest(self, host: Host | None = None, **lies: Any) -> httpx.Response:
        """A whole attestation; lies: see `Host.evidence`."""
        host = host or self.host
        request = self.request(host)
        evidence = host.evidence(request, self.challenge(request), **lies)
        return self.public.post(EVIDENCE, content=encode(evidence))

    def attested(self, host: Host | None = None) -> tokens.TokenClaims:
        """An attestation that must succeed: the claims of its token, verified."""
        answer = self.attest(host)
        assert answer.status_code == 200, answer.text
        result = msgspec.json.decode(answer.content, type=AttestationResult)
        return tokens.verify_token(result.token, self.keys().keys, GROUP, self.now)

    def keys(self) -> tokens.KeySet:
        """The service's key set, verified."""
        jws = self.public.get("/attestation/v1/keys").json()["keys"]
        return tokens.verify_key_set(
            jws, self.side.certificate, "trust_authority", "attestation-service", {"ta1"}, self.now
        )

    def audit(self) -> list[AuditRecord]:
        """All audit records, after the chain was verified."""
        path = self.settings.state_directory / "audit.jsonl"
        assert verify(path).intact
        return [msgspec.json.decode(line, type=AuditRecord) for line in path.read_bytes().splitlines()]

    def histories(self) -> Mapping[str, Any]:
        """Everything that the service has learnt of TPMs."""
        rows = self.service._state._database.execute("SELECT * FROM clock_history ORDER BY ek_digest")
        return {row["ek_digest"]: tuple(row) for row in rows}

    def results(self) -> list[dict[str, Any]]:
        """GET hosts."""
        hosts: list[dict[str, Any]] = self.management.get("/attestation/manage/v1/hosts").json()["hosts"]
        return hosts

    def image(self, host: Host | None = None, version: str = "image-1") -> dict[str, Any]:
        """A base image captured from a host."""
        host = host or self.host
        captured = base_images.capture(
            parse_event_log(host.event_log),
            host.pcrs,
            bank="sha256",
            image_version=version,
            display_name=version,
        )
        return content_of(captured)

    def _documents(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            ("trust_authority_cluster", "cluster"): {
                "cluster": "domain-c1",
                "name": "Trust Authority",
                "state": "ENABLE",
                "group": GROUP,
            },
            ("consumer_principal", "principal-1"): {
                "issuer": ISSUER,
                "issuer_alias": "workload",
                "principal": {"id": {"name": "workload", "domain": "local"}, "type": "STS_USER"},
                "certificates": [[self.principal_certificate]],
            },
            ("scope", SCOPE): {
                "principal": ISSUER,
                "trusted_cluster": "domain-c9",
                "base_images": ["*"],
                "providers": ["*"],
            },
            ("tpm2_settings", "settings"): {},
            ("ca_certificate", "vendor"): {"cert_chain": [self.vendor.pem]},
            ("endorsement_key", "host1"): {"public_key": self.host.ek.subject_public_key_info()},
            ("base_image", "image-1"): self.image(),
        }

    def _settings(self) -> Settings:
        state, run = self.folder / "state", self.folder / "run"
        state.mkdir()
        run.mkdir()
        self.side.write_leaf(self.folder, "attestation-service", "attestation-service", "ta1")
        (self.folder / "side_ca.pem").write_text(self.side.certificate)
        return Settings(
            host="ta1",
            service_id="attestation@ta1",
            side_ca=self.folder / "side_ca.pem",
            identity_certificate=self.folder / "attestation-service.pem",
            identity_key=self.folder / "attestation-service.key",
            snapshot=run / "snapshot.json",
            state_directory=state,
            run_directory=run,
            public_name="ta1.example",
            burst=1000,
            clock_max_unsynchronized=0,
        )


def with_area(area: PublicArea, **fields: Any) -> PublicArea:
    """The same key with other fields in its public area."""
    return parse_tpmt_public(marshal_tpmt_public(replace(area, **fields)))

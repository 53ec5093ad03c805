# SPDX-License-Identifier: GPL-3.0-or-later
"""A Trust Authority of one host for tests: CA, snapshot, an attestation service's keys, and attested hosts.

`Authority` is the side; `Host` an attested machine that asks for keys as an agent does, and can be told to
lie. `FakeKeyServer` stands in for a key server where no network is wanted.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from services.hostile_key_server import make_pair
from services.side_authority import SideAuthority

from trusted_infrastructure import messages, sealing, tokens, wrapping
from trusted_infrastructure.config.documents import (
    ConsumerPrincipal,
    Content,
    DeniedHost,
    Document,
    Generation,
    KeyProvider,
    KmipServer,
    NetworkAddress,
    Peer,
    PreviousPrimaryKey,
    Scope,
    StsPrincipal,
    StsPrincipalId,
    TrustAuthorityCluster,
    content_of,
)
from trusted_infrastructure.config.snapshot import Snapshot, publish, snapshot_of
from trusted_infrastructure.key_provider.service import Settings
from trusted_infrastructure.kmip.connection import KeyServer
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.messages import (
    CreateKeyRequest,
    KeyAnswer,
    KeyUsageReport,
    RewrapKeyRequest,
    UnwrapKeyRequest,
)
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tokens import Confirmation, PublicKey, SealingTarget, TokenClaims

NOW = 1_800_000_000
GROUP = "group-1"
PRIMARY_KEY = bytes(range(50, 82))
KEY_ID = "1001"
CHECK_VALUE = wrapping.check_value(PRIMARY_KEY, KEY_ID)
# The primary key that the provider was rotated from, where a test says so.
PREVIOUS_KEY = bytes(range(90, 122))
PREVIOUS_ID = "900"
EK = hashlib.sha256(b"ek of host1").hexdigest()
URL = "https://ta1/kms/v1/providers/finance/keys"
SERVICE_ID = "key-provider@ta1"
CLIENT = make_pair("trusted-key-provider.finance", address=None)


@dataclass
class AttestationKey:
    """The token key of one attestation service."""

    service_id: str = "attestation@ta1"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def kid(self) -> str:
        return tokens.thumbprint(self.key.public_key())


@dataclass
class Authority:
    """The Trust Authority side: documents by kind and id, the security generation, the attestation key."""

    documents: dict[tuple[str, str], Content] = field(default_factory=dict)
    security_generation: int = 3
    attestation: AttestationKey = field(default_factory=AttestationKey)

    def __post_init__(self) -> None:
        self.put("trust_authority_cluster", "cluster", cluster())
        self.put("scope", "cluster-a", scope())
        self.put("consumer_principal", "principal-1", principal())
        self.put("key_provider", "finance", provider())

    def put(self, kind: str, document_id: str, content: Content | None) -> None:
        """Set or remove a document."""
        if content is None:
            self.documents.pop((kind, document_id), None)
        else:
            self.documents[kind, document_id] = content

    def published(self) -> Any:
        """The snapshot as the configuration service publishes it."""
        documents = [
            Document(kind, document_id, Generation(1, 1), content_of(content))
            for (kind, document_id), content in self.documents.items()
        ]
        return snapshot_of("ta1", "trust_authority", self.security_generation, documents)

    def snapshot(self) -> Snapshot:
        """The snapshot in memory."""
        return Snapshot(self.published())

    def publish(self, path: Path) -> None:
        """The snapshot as a file."""
        publish(path, self.published())

    def keys(self) -> dict[str, PublicKey]:
        return {self.attestation.kid: self.attestation.key.public_key()}

    def issuers(self) -> dict[str, set[str]]:
        return {self.attestation.kid: {self.attestation.service_id}}


def cluster(**changes: Any) -> TrustAuthorityCluster:
    return msgspec.structs.replace(
        TrustAuthorityCluster(
            cluster="domain-c1", name="ta", state="ENABLE", group=GROUP, peers=[Peer("ta1", "ta1")]
        ),
        **changes,
    )


def scope(**changes: Any) -> Scope:
    made = Scope(
        principal="https://wm", trusted_cluster="domain-c1", base_images=["*"], providers=["finance"]
    )
    return msgspec.structs.replace(made, **changes)


def principal(issuer: str = "https://wm") -> ConsumerPrincipal:
    sts = StsPrincipal(StsPrincipalId("workload", "trusted"), "STS_USER")
    return ConsumerPrincipal(issuer=issuer, issuer_alias="wm", principal=sts, certificates=[])


def service_settings(folder: Path, **changes: Any) -> Settings:
    """Settings of ta1's Key Provider Service, all of whose files lie below `folder`."""
    return Settings(
        host="ta1",
        service_id=SERVICE_ID,
        public_name="ta1",
        side_ca=folder / "side_ca.pem",
        identity_certificate=folder / "key-provider-service.pem",
        identity_key=folder / "key-provider-service.key",
        anchors_directory=folder / "anchors",
        snapshot=folder / "snapshot.json",
        state_directory=folder / "state",
        run_directory=folder / "run",
        clock_max_unsynchronized=0,
        **changes,
    )


def provider(**changes: Any) -> KeyProvider:
    made = KeyProvider(
        master_key_id=KEY_ID,
        servers=[
            KmipServer("kms1", NetworkAddress("127.0.0.1", 5696)),
            KmipServer("kms2", NetworkAddress("127.0.0.2", 5696)),
        ],
        primary_key_check_value=CHECK_VALUE,
    )
    return msgspec.structs.replace(made, **changes)


def rotated(*, compromised: bool = False, **changes: Any) -> KeyProvider:
    """The provider after a rotation from PREVIOUS_ID."""
    value = wrapping.check_value(PREVIOUS_KEY, PREVIOUS_ID)
    previous = PreviousPrimaryKey(PREVIOUS_ID, value, NOW - 3600, compromised)
    return provider(previous_keys=[previous], **changes)


def denied(host: str = "host9", ek_digest: str = "0" * 64) -> DeniedHost:
    return DeniedHost(host=host, ek_digest=ek_digest)


@dataclass
class Host:
    """An attested host. `claims` changes what its token says; the rest what it sends."""

    authority: Authority
    now: int = NOW
    suite: str = "MLKEM768_X25519"
    proof_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    claims: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sealing_key = SealingKey.generate(self.suite)

    def token(self, **changes: Any) -> str:
        """A token of the authority's attestation service."""
        made = TokenClaims(
            iss=self.authority.attestation.service_id,
            aud=GROUP,
            sub="host1",
            scope="cluster-a",
            principal="https://wm",
            ek_digest=EK,
            base_image="image-1",
            userspace="verity",
            security_generation=self.authority.security_generation,
            reset_count=1,
            restart_count=0,
            iat=self.now - 60,
            nbf=self.now - 60,
            exp=self.now + 3000,
            jti=secrets.token_urlsafe(16),
            cnf=Confirmation(tokens.thumbprint(self.proof_key.public_key())),
            hpke=SealingTarget(self.suite, hashlib.sha256(self.sealing_key.public_bytes()).hexdigest()),
        )
        made = msgspec.structs.replace(made, **{**self.claims, **changes})
        return tokens.sign_token(made, self.authority.attestation.key, self.authority.attestation.kid)

    def proof(self, token: str, body: bytes, url: str = URL, **changes: Any) -> str:
        """A proof for a request."""
        arguments = {"method": "POST", "url": url, "body": body, "token": token, "now": self.now, **changes}
        proof, _jti = tokens.make_proof(self.proof_key, **arguments)
        return proof

    def create_body(self, label: str = "machine 1") -> bytes:
        message = CreateKeyRequest(object_label=label, hpke_public_key=self.sealing_key.public_bytes())
        return messages.encode(message)

    def unwrap_body(self, wrapped_key: bytes, **more: bool) -> bytes:
        message = UnwrapKeyRequest(
            wrapped_key=wrapped_key, hpke_public_key=self.sealing_key.public_bytes(), **more
        )
        return messages.encode(message)

    def rewrap_body(self, wrapped_key: bytes) -> bytes:
        message = RewrapKeyRequest(wrapped_key=wrapped_key, hpke_public_key=self.sealing_key.public_bytes())
        return messages.encode(message)

    def usage_body(self, **keys: int) -> bytes:
        """A report; a primary key's id has an underscore before it."""
        return messages.encode(KeyUsageReport(keys={name.lstrip("_"): count for name, count in keys.items()}))

    def open(
        self, key_answer: KeyAnswer, body: bytes, token: str, proof: str, response_key: PublicKey
    ) -> bytes:
        """The KEK, verified and opened as an agent does it."""
        claims = _payload(token)
        signed = messages.answer_to_be_signed(
            request=body,
            proof_jti=_payload(proof)["jti"],
            kek_id=key_answer.kek_id,
            sealed_key=key_answer.sealed_key,
            wrapped_key=key_answer.wrapped_key,
            service_id=key_answer.service_id,
        )
        r, s = (
            int.from_bytes(part, "big") for part in (key_answer.signature[:32], key_answer.signature[32:])
        )
        response_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        info = messages.seal_info(
            suite=self.suite, token_jti=claims["jti"], request=body, service_id=key_answer.service_id
        )
        return self.sealing_key.open(key_answer.sealed_key, info)


def wrapped_key(**changes: Any) -> bytes:
    """A wrapped key of the provider, around 32 bytes of 7. Under PREVIOUS_ID: by that key."""
    values: dict[str, Any] = {
        "provider": "finance",
        "primary_key_id": KEY_ID,
        "kek_id": "kek-1",
        "object_label": "machine 1",
        "scope": "cluster-a",
        "salt": bytes(32),
    }
    header = wrapping.WrappedKeyHeader(**{**values, **changes})
    primary_key = PREVIOUS_KEY if header.primary_key_id == PREVIOUS_ID else PRIMARY_KEY
    return wrapping.wrap(primary_key, header, bytes([7] * 32))


@dataclass
class FakeKeyServer:
    """A key server in this process. material: what it gives; state: of what it gives; refusal: what it says.

    others: keys under other ids. states: of a key alone. refusals: of a key alone. asked: how often."""

    name: str = "kms1"
    material: bytes = PRIMARY_KEY
    state: str = "ACTIVE"
    others: dict[str, bytes] = field(default_factory=lambda: {PREVIOUS_ID: PREVIOUS_KEY})
    states: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    refusal: Refusal | None = None
    asked: int = 0
    closed: bool = False
    certificate_end: datetime.datetime | None = None

    @property
    def server(self) -> KeyServer:
        return KeyServer(self.name, "127.0.0.1", 5696)

    def primary_key(self, key_id: str) -> PrimaryKey:
        self.asked += 1
        refusal = self.refusal or self.refusals.get(key_id)
        if refusal is not None:
            raise refusal
        state = self.states.get(key_id, self.state)
        return PrimaryKey(key_id, self.name, self.others.get(key_id, self.material), state)

    def close(self) -> None:
        self.closed = True


def seal_to(host: str, key: SealingKey, secret: bytes, purpose: str) -> Any:
    """A sealed document field for one host."""
    from trusted_infrastructure.config.documents import Sealed

    sealed = sealing.seal_secret(secret, key.suite, {host: key.public_bytes()}, purpose)
    return Sealed(sealed.suite, sealed.digest, sealed.sealed)


def write_identity(folder: Path, side: SideAuthority, host: str = "ta1") -> None:
    """side_ca.pem, and key and certificate of the key provider service."""
    (folder / "side_ca.pem").write_text(side.certificate)
    side.write_leaf(folder, "key-provider-service", "key-provider-service", host)


def _payload(jws: str) -> dict[str, Any]:
    import base64

    part = jws.split(".")[1]
    payload: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return payload

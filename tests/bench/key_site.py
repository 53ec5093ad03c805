# SPDX-License-Identifier: GPL-3.0-or-later
"""A trusted key provider for a site: a real key server with its primary key, what the Key Provider Service
finds in its state and configuration, and keys that hosts had wrapped before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from bench.attester import SessionKeys
from bench.front import Front, Service
from bench.site import GROUP, ISSUER, SCOPE, Site
from bench.wire import Wire, request, trusting
from cryptography.hazmat.primitives.asymmetric import ec
from integration.software_key_server import SoftwareKeyServer

from trusted_infrastructure import messages, sealing, tokens, wrapping
from trusted_infrastructure.config.documents import (
    KeyProvider,
    KmipServer,
    NetworkAddress,
    Peer,
    Sealed,
    content_of,
)
from trusted_infrastructure.identity import load_key
from trusted_infrastructure.key_provider.attestation_keys import AttestationKeys
from trusted_infrastructure.key_provider.client_credentials import private_key_purpose
from trusted_infrastructure.key_provider.sealing_key_file import load_or_make
from trusted_infrastructure.kmip.client_certificates import self_signed
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, client_context
from trusted_infrastructure.kmip.pool import KeyServerPool
from trusted_infrastructure.messages import UnwrapKeyRequest
from trusted_infrastructure.sealing import SealingKey

PROVIDER, PRIMARY_KEY_ID = "bench", "1"
PATH = f"/kms/v1/providers/{PROVIDER}/keys"


@dataclass(frozen=True)
class Vault:
    """A running key server, and the client that it knows. primary: the primary key's bytes."""

    server: SoftwareKeyServer
    client: ClientCredentials
    primary: bytes = field(repr=False)

    def key_server(self) -> KeyServer:
        """As the client reaches it."""
        return KeyServer("kms", self.server.address, self.server.port)


@contextlib.contextmanager
def vault(folder: Path) -> Iterator[Vault]:
    """A key server (PyKMIP's, of the lab) with a primary key."""
    name = f"trusted-key-provider.{PROVIDER}"
    private_key, certificate = self_signed(name, int(time.time()))
    server = SoftwareKeyServer(folder, "kms")
    server.allow({"primary": [name, "kms"]})
    server.trust("client", certificate)
    client = ClientCredentials(certificate, private_key)
    with server:
        server.ensure_keys([{"name": PROVIDER, "id": PRIMARY_KEY_ID, "policy": "primary"}])
        pool = KeyServerPool(
            KeyServer("kms", server.address, server.port),
            client,
            client_context(client, [server.certificate]),
        )
        primary = pool.primary_key(PRIMARY_KEY_ID).material
        pool.close()
        yield Vault(server, client, primary)


def provide(site: Site, held: Vault) -> None:
    """Give the site the provider. Before the site is written."""
    state = site.folder / "state" / "key-provider"
    state.mkdir(parents=True)
    key = load_or_make(state / "sealing-key.json")
    sealed = sealing.seal_secret(
        held.client.private_key, key.suite, {site.name: key.public_bytes()}, private_key_purpose(PROVIDER)
    )
    address = NetworkAddress(held.server.address, held.server.port)
    provider = KeyProvider(
        master_key_id=PRIMARY_KEY_ID,
        servers=[KmipServer("kms", address)],
        client_certificate=held.client.certificate,
        client_private_key=Sealed(sealed.suite, sealed.digest, sealed.sealed),
        trusted_certificates=[held.server.certificate],
        primary_key_check_value=wrapping.check_value(held.primary, PRIMARY_KEY_ID),
    )
    site.documents.append(("key_provider", PROVIDER, content_of(provider)))


def key_service(site: Site, key_set: Callable[[int], str]) -> Service:
    """The Key Provider Service. key_set: from the public server's port to the Attestation Service's key set,
    which the service has read before, as one that was restarted."""

    def know(port: int) -> None:
        path = site.folder / "state" / "key-provider" / "attestation-keys.json"
        jws = key_set(port)

        async def fetch(_peer: Peer) -> str:
            return jws

        keys = AttestationKeys(path, site.folder / "side_ca.pem", fetch, time.monotonic)
        asyncio.run(keys.refresh([Peer(site.name, site.name)], int(time.time())))
        if keys.problems:
            raise ValueError(f"the key set of the Attestation Service is not good: {keys.problems}")

    return Service("key-provider", lambda port: {"public_port": port}, know)


def wrapped_for(held: Vault, host: str) -> bytes:
    """A key that a host had wrapped before the power went."""
    header = wrapping.WrappedKeyHeader(
        provider=PROVIDER,
        primary_key_id=PRIMARY_KEY_ID,
        kek_id=str(uuid.uuid4()),
        object_label=f"disk of {host}",
        scope=SCOPE,
        salt=hashlib.sha256(host.encode()).digest(),
    )
    return wrapping.wrap(held.primary, header, hashlib.sha256(b"key of " + host.encode()).digest())


def released_to(host: str) -> bytes:
    """The key within `wrapped_for`."""
    return hashlib.sha256(b"key of " + host.encode()).digest()


def published_key_set(site: Site) -> Callable[[int], str]:
    """From the port of the site's public server to what its Attestation Service publishes there."""

    def read(port: int) -> str:
        front = Front(site.name, port, site.folder / "side_ca.pem", {}, 0)
        status, body = asyncio.run(_asked(front, "/attestation/v1/keys"))
        if status != 200:
            raise ValueError(f"asked for its keys, the Attestation Service answers {status}: {body.decode()}")
        return str(msgspec.json.decode(body)["keys"])

    return read


async def _asked(front: Front, path: str) -> tuple[int, bytes]:
    wire = Wire(front, trusting(front.ca), 0)
    try:
        return await wire.ask(request(front.host, path))
    finally:
        wire.close()


@dataclass
class TokenMaker:
    """In place of an Attestation Service, where releases alone are measured: its key, and its key set."""

    site: Site
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def key_set(self, _port: int) -> str:
        """As the service would publish it."""
        key, certificate = self.site.side.leaf("attestation-service", self.site.name)
        kid = tokens.thumbprint(self.key.public_key())
        service_id = f"attestation@{self.site.name}"
        now = int(time.time())
        return tokens.sign_key_set(
            {kid: self.key.public_key()}, service_id, load_key(key), [certificate], now, 3600
        )

    def token(self, host: str, proof_key: tokens.PrivateKey, sealing_key: SealingKey) -> str:
        """What the service would say of a host that is in order."""
        now = int(time.time())
        claims = tokens.TokenClaims(
            iss=f"attestation@{self.site.name}",
            aud=GROUP,
            sub=host,
            scope=SCOPE,
            principal=ISSUER,
            ek_digest=hashlib.sha256(host.encode()).hexdigest(),
            base_image="image-000",
            userspace="verity",
            security_generation=3,
            reset_count=1,
            restart_count=0,
            iat=now,
            nbf=now,
            exp=now + 3600,
            jti=uuid.uuid4().hex,
            cnf=tokens.Confirmation(tokens.thumbprint(proof_key.public_key())),
            hpke=tokens.SealingTarget(
                sealing_key.suite, hashlib.sha256(sealing_key.public_bytes()).hexdigest()
            ),
        )
        return tokens.sign_token(claims, self.key, tokens.thumbprint(self.key.public_key()))


@dataclass(frozen=True)
class KeyHolder:
    """A host that wants its key back. body: of its request."""

    name: str
    proof_key: tokens.PrivateKey
    sealing_key: SealingKey
    body: bytes

    @classmethod
    def make(cls, name: str, held: Vault, session: SessionKeys) -> KeyHolder:
        """session: what the host attested."""
        message = UnwrapKeyRequest(
            wrapped_key=wrapped_for(held, name), hpke_public_key=session.hpke_public_key
        )
        return cls(name, session.private_proof_key, session.sealing_key, messages.encode(message))

    def headers(self, url: str, token: str) -> dict[str, str]:
        """Of a request that is made now; good for a minute."""
        proof, _jti = tokens.make_proof(self.proof_key, "POST", url, self.body, token, int(time.time()))
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    def request(self, front: Front, token: str) -> bytes:
        """The request, complete."""
        headers = self.headers(front.url + PATH, token)
        return request(f"{front.host}:{front.port}", PATH + "?action=unwrap", self.body, headers)

    def opens(self, answer: bytes, token: str) -> bool:
        """Whether an answer holds this host's key."""
        found = messages.decode(answer, messages.KeyAnswer)
        jti = msgspec.json.decode(_payload(token))["jti"]
        info = messages.seal_info(
            suite=self.sealing_key.suite, token_jti=jti, request=self.body, service_id=found.service_id
        )
        return self.sealing_key.open(found.sealed_key, info) == released_to(self.name)


def _payload(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

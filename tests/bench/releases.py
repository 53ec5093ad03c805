# SPDX-License-Identifier: GPL-3.0-or-later
"""Key releases: a wrapped key is opened for a host that shows its token and proves its key; the key is sealed
to the host, and the answer signed. In process, and over HTTPS.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from bench.attester import SessionKeys
from bench.front import Front
from bench.key_site import PATH, KeyHolder, TokenMaker, Vault
from bench.load import PATIENCE, Result, code_of, forked
from bench.site import Site
from bench.timing import rate
from bench.wire import Wire, trusting
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trusted_infrastructure import sealing, tokens
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.key_provider.authorization import KeyRequest, Knowledge, authenticate, authorize
from trusted_infrastructure.key_provider.release import ResponseKey, answer, open_key
from trusted_infrastructure.kmip.pool import PrimaryKey
from trusted_infrastructure.messages import KeyAnswer
from trusted_infrastructure.sealing import SealingKey

# A proof is good for a minute: what is made before a run must last for it.
MAX_SECONDS = 40


@dataclass
class InProcess:
    """The service's own order of judging, for one host; without network, audit write, state, rate limit."""

    site: Site
    held: Vault

    def __post_init__(self) -> None:
        maker = TokenMaker(self.site)
        holder = KeyHolder.make("host0", self.held, SessionKeys.generate())
        key = maker.key.public_key()
        token = maker.token(holder.name, holder.proof_key, holder.sealing_key)
        url = f"https://{self.site.name}{PATH}"

        self.asker = holder, token
        kid = tokens.thumbprint(key)
        self._knowledge = Knowledge(
            Snapshot(self.site.snapshot()),
            {kid: key},
            {kid: {f"attestation@{self.site.name}"}},
            lambda _generation: None,
        )
        self._request = KeyRequest(
            provider="bench",
            method="POST",
            url=url,
            body=holder.body,
            token=token,
            proof=holder.headers(url, token)["DPoP"],
            action="unwrap",
        )
        self._primary = PrimaryKey("1", "kms", self.held.primary)
        self._response_key = ResponseKey()
        self._now = int(time.time())

    def release(self) -> KeyAnswer:
        """From the request to the answer."""
        claims = authenticate(self._request, self._knowledge, self._now)
        authorization = authorize(self._request, claims, self._knowledge, self._now)
        if authorization.wrapped is None:
            raise ValueError("nothing to open")
        released = open_key(authorization.wrapped, self._primary)
        return answer(released, authorization, self._request.body, "key-provider@ta1", self._response_key)


def raw_seal(seconds: float) -> float:
    """HPKE seals of a key (ML-KEM-768 and X25519), in a second of a core."""
    key = SealingKey.generate()
    public, secret, info = key.public_bytes(), os.urandom(32), bytes(100)
    return rate(lambda: sealing.seal(key.suite, public, secret, info), seconds)


def raw_aes_gcm(seconds: float) -> float:
    """AES-256-GCM decryptions of a wrapped key, in a second of a core."""
    cipher, nonce, header = AESGCM(os.urandom(32)), bytes(12), bytes(150)
    sealed = cipher.encrypt(nonce, bytes(32), header)
    return rate(lambda: cipher.decrypt(nonce, sealed, header), seconds)


def raw_es256_sign(seconds: float) -> float:
    """P-256 signatures, in a second of a core."""
    key = ec.generate_private_key(ec.SECP256R1())
    return rate(lambda: key.sign(bytes(100), ec.ECDSA(hashes.SHA256())), seconds)


@dataclass
class ReleaseLoad:
    """Hosts that ask for their keys, over so many connections that stay open. Tokens and proofs are made
    before it begins."""

    front: Front
    maker: TokenMaker
    hosts: list[KeyHolder]
    connections: int = 32
    seconds: float = 10.0
    warm_up: float = 1.0

    def run(self) -> Result:
        """Ask, in a process of its own."""
        if self.warm_up + self.seconds > MAX_SECONDS:  # PATIENCE is not for figures
            raise ValueError("the proofs would not last")
        return forked(self._ask)

    async def _ask(self) -> Result:
        made = [
            (holder, self.maker.token(holder.name, holder.proof_key, holder.sealing_key))
            for holder in self.hosts
        ]
        requests = [(holder, token, holder.request(self.front, token)) for holder, token in made]
        context = trusting(self.front.ca)
        result = Result(seconds=self.seconds)
        begins = time.monotonic() + self.warm_up
        tasks = []
        for number in range(self.connections):
            wire = Wire(self.front, context, number)
            mine = requests[number :: self.connections]
            tasks.append(asyncio.create_task(self._connection(wire, mine, begins, result)))
        await asyncio.sleep(max(0.0, begins - time.monotonic()))
        before = time.process_time()
        await asyncio.sleep(self.seconds)
        result.cpu = time.process_time() - before
        await asyncio.gather(*tasks)
        return result

    async def _connection(
        self, wire: Wire, requests: list[tuple[KeyHolder, str, bytes]], begins: float, result: Result
    ) -> None:
        ends, turn = begins + self.seconds, 0
        try:
            # What was under way at the end does not count, but a machine that is too slow for even one does.
            while (began := time.monotonic()) < ends or (not result.done and began < ends + PATIENCE):
                holder, token, message = requests[turn % len(requests)]
                status, body = await wire.ask(message)
                now = time.monotonic()
                if status != 200:
                    code = code_of(body)
                    result.refused[code] = result.refused.get(code, 0) + 1
                elif turn == 0 and not holder.opens(body, token):
                    raise ValueError("an answer does not hold the host's key")
                elif begins <= began and (now < ends or not result.done):
                    result.done += 1
                    result.latencies.append(now - began)
                turn += 1
        finally:
            wire.close()

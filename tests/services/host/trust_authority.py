# SPDX-License-Identifier: GPL-3.0-or-later
"""A Trust Authority host in this process, as the agent sees it: challenge, evidence, keys. It can be told to
refuse, to lie and to be away. Verdicts on the evidence come from `judge`, for tests without a TPM.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import httpx
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from services.side_authority import NOW, SideAuthority
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure import identity, messages, sealing, tokens, wrapping
from trusted_infrastructure.messages import (
    AttestationResult,
    Challenge,
    ChallengeRequest,
    CreateKeyRequest,
    Evidence,
    KeyAnswer,
    KeyUsageReport,
    PrimaryKeyIds,
    RewrapKeyRequest,
    UnwrapKeyRequest,
)
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tokens import Confirmation, PublicKey, SealingTarget, TokenClaims
from trusted_infrastructure.tpm.quote import pcr_selection
from trusted_infrastructure.transport import Application, JSONAnswer

GROUP = "group-1"
SCOPE = "scope-1"
PROVIDER = "finance"
PCRS = [0, 1, 2, 3, 4, 7]
BANK = "sha256"

Judge = Callable[[ChallengeRequest, Evidence, bytes], None]
"""Gets the challenge request, the evidence and the qualifying data that it must hold; raises Refusal."""

Protect = Callable[[ChallengeRequest, bytes], tuple[bytes, bytes]]
"""Gets the challenge request and a secret; (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET)."""


def trust_the_quote(_request: ChallengeRequest, evidence: Evidence, expected: bytes) -> None:
    """For the fake TPM, whose quote is the qualifying data itself."""
    if evidence.quote != expected:
        raise Refusal("quote_qualifying_data", "not that of this challenge")


def open_secret(_request: ChallengeRequest, secret: bytes) -> tuple[bytes, bytes]:
    """For the fake TPM, whose credential is the secret itself."""
    return secret, b"seed"


@dataclass
class TrustAuthorityHost:
    """One host. The attributes in the second block are for tests to change."""

    authority: SideAuthority
    host: str = "ta1"
    clock: Callable[[], float] = lambda: NOW
    judge: Judge = trust_the_quote
    protect: Protect = open_secret
    primary_key: bytes = b"\1" * 32
    primary_key_id: str = "key-1"
    previous: dict[str, bytes] = field(default_factory=dict)
    compromised: set[str] = field(default_factory=set)

    away: bool = False
    refuse_attestation: Refusal | None = None
    refuse_key: Refusal | None = None
    refuse_usage: Refusal | None = None
    base_image: str = "image-1"
    lifetime: int = 3600
    security_generation: int = 1
    grace_period: int = 60
    image_state: Literal["STAGED", "ACTIVE"] = "ACTIVE"
    group: str = GROUP
    change_challenge: Callable[[Challenge], Challenge] = lambda challenge: challenge
    change_claims: Callable[[TokenClaims], TokenClaims] = lambda claims: claims
    change_answer: Callable[[KeyAnswer, bytes], KeyAnswer] = lambda answer, _request: answer
    change_wrapping: Callable[[wrapping.WrappedKeyHeader], wrapping.WrappedKeyHeader] = lambda header: header
    change_kek: Callable[[bytes], bytes] = lambda kek: kek
    change_context: Callable[[bytes], bytes] = lambda context: context

    calls: list[str] = field(default_factory=list)
    unwrapped: list[bytes] = field(default_factory=list)
    reports: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    # known: the number of what was wrapped last; None: another one each time. covers: of each report.
    known: int | None = 0
    covers: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    # Of each request to unwrap: whether the host keeps the key from then on.
    kept: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_key = ec.generate_private_key(ec.SECP256R1())
        self.response_key = ec.generate_private_key(ec.SECP256R1())
        self.published = {
            "attestation-service": [self.token_key.public_key()],
            "key-provider-service": [self.response_key.public_key()],
        }
        self.identities = {role: self.authority.leaf(role, self.host) for role in self.published}
        self._challenges: dict[str, tuple[ChallengeRequest, bytes, Challenge, bytes]] = {}
        self.app = Application(
            [
                Route("/attestation/v1/challenge", self._challenge, methods=["POST"]),
                Route("/attestation/v1/evidence", self._evidence, methods=["POST"]),
                Route("/attestation/v1/keys", self._attestation_keys, methods=["GET"]),
                Route("/attestation/v1/generation", self._generation, methods=["GET"]),
                Route("/kms/v1/providers/{provider}/keys", self._key, methods=["POST"]),
                Route("/kms/v1/providers/{provider}/usage", self._usage, methods=["POST"]),
                Route("/kms/v1/keys", self._response_keys, methods=["GET"]),
            ]
        )

    def now(self) -> int:
        return int(self.clock())

    @property
    def url(self) -> str:
        """Base of the URLs that proofs must be for."""
        return f"https://{self.host}"

    def token_keys(self) -> dict[str, PublicKey]:
        """The keys whose tokens the key provider accepts."""
        return {tokens.thumbprint(self.token_key.public_key()): self.token_key.public_key()}

    def key_set(self, role: str) -> str:
        """The signed key set of one of the services."""
        key, certificate = self.identities[role]
        return tokens.sign_key_set(
            {tokens.thumbprint(one): one for one in self.published[role]},
            self.service_id(role),
            identity.load_key(key),
            [certificate],
            self.now(),
            600,
        )

    def service_id(self, role: str) -> str:
        return (
            {"attestation-service": "attestation", "key-provider-service": "key-provider"}[role]
            + "@"
            + self.host
        )

    async def _attestation_keys(self, _request: Request) -> Response:
        self.calls.append("attestation keys")
        return JSONAnswer({"keys": self.key_set("attestation-service")})

    async def _generation(self, _request: Request) -> Response:
        self.calls.append("generation")
        return JSONAnswer(
            {"security_generation": self.security_generation, "grace_period": self.grace_period}
        )

    async def _response_keys(self, _request: Request) -> Response:
        self.calls.append("response keys")
        return JSONAnswer({"keys": self.key_set("key-provider-service")})

    async def _challenge(self, request: Request) -> Response:
        self.calls.append("challenge")
        if self.refuse_attestation is not None:
            raise self.refuse_attestation
        body = await request.body()
        asked = messages.decode(body, ChallengeRequest)
        secret = secrets.token_bytes(32)
        blob, seed = self.protect(asked, secret)
        challenge = Challenge(
            challenge=secrets.token_urlsafe(16),
            challenge_id=secrets.token_bytes(16),
            nonce=secrets.token_bytes(32),
            credential_blob=blob,
            encrypted_secret=seed,
            bank=BANK,
            pcrs=PCRS,
            service_id=self.service_id("attestation-service"),
            expires=self.now() + 30,
        )
        self._challenges[challenge.challenge] = asked, body, challenge, secret
        return JSONAnswer(self.change_challenge(challenge))

    async def _evidence(self, request: Request) -> Response:
        self.calls.append("evidence")
        evidence = messages.decode(await request.body(), Evidence)
        asked, body, challenge, secret = self._challenges.pop(evidence.challenge)
        expected = messages.qualifying_data(
            purpose=messages.PURPOSE_TOKEN,
            service_id=challenge.service_id,
            nonce=challenge.nonce,
            challenge_request=body,
            secret_proof=hmac.digest(secret, challenge.challenge_id, "sha256"),
            pcr_selection=pcr_selection(challenge.bank, challenge.pcrs),
            proof_key_thumbprint=evidence.proof_key.thumbprint(),
            hpke_suite=evidence.hpke_suite,
            hpke_public_key=evidence.hpke_public_key,
            event_log=evidence.event_log,
            claims=evidence.claims,
        )
        self.judge(asked, evidence, expected)
        claims = self.change_claims(self._claims(evidence))
        token = tokens.sign_token(claims, self.token_key, tokens.thumbprint(self.token_key.public_key()))
        return JSONAnswer(
            AttestationResult(
                token=token,
                expires=claims.exp,
                base_image=claims.base_image,
                security_generation=claims.security_generation,
                image_state=self.image_state,
            )
        )

    def _claims(self, evidence: Evidence) -> TokenClaims:
        now = self.now()
        return TokenClaims(
            iss=self.service_id("attestation-service"),
            aud=self.group,
            sub="host1",
            scope=SCOPE,
            principal="issuer-1",
            ek_digest="0" * 64,
            base_image=self.base_image,
            userspace="verity",
            security_generation=self.security_generation,
            reset_count=1,
            restart_count=0,
            iat=now,
            nbf=now,
            exp=now + self.lifetime,
            jti=secrets.token_urlsafe(16),
            cnf=Confirmation(jkt=evidence.proof_key.thumbprint()),
            hpke=SealingTarget(
                suite=evidence.hpke_suite, digest=hashlib.sha256(evidence.hpke_public_key).hexdigest()
            ),
        )

    async def _key(self, request: Request) -> Response:
        action, provider = request.query_params["action"], request.path_params["provider"]
        self.calls.append(action)
        if self.refuse_key is not None:
            raise self.refuse_key
        body = await request.body()
        claims, jti = self._authorized(request, body, "keys")
        return JSONAnswer(self._answer(action, provider, body, claims, jti))

    async def _usage(self, request: Request) -> Response:
        self.calls.append("usage")
        if self.refuse_usage is not None:
            raise self.refuse_usage
        body = await request.body()
        self._authorized(request, body, "usage")
        report = messages.decode(body, KeyUsageReport)
        self.reports.append((request.path_params["provider"], report.keys))
        known = messages.number(report.known)
        self.covers.append((known, report.keys))
        return JSONAnswer(
            PrimaryKeyIds(
                primary_key_id=self.primary_key_id,
                previous=list(self.previous),
                compromised=sorted(self.compromised),
                known=known + 1 if self.known is None else self.known,
            )
        )

    def _authorized(self, request: Request, body: bytes, what: str) -> tuple[TokenClaims, str]:
        """The token's claims and the proof's id."""
        token = request.headers["authorization"].removeprefix("DPoP ")
        claims = tokens.verify_token(token, self.token_keys(), self.group, self.now())
        url = f"{self.url}/kms/v1/providers/{request.path_params['provider']}/{what}"
        proof = request.headers["dpop"]
        return claims, tokens.verify_proof(proof, "POST", url, body, token, claims.cnf.jkt, self.now())

    def rotate(self, key_id: str, primary_key: bytes, *, compromise: bool = False) -> None:
        """A new primary key; the old one opens what it wrapped."""
        self.previous[self.primary_key_id] = self.primary_key
        if compromise:
            self.compromised.update(self.previous)
        self.primary_key_id, self.primary_key = key_id, primary_key

    def _opened(self, wrapped_key: bytes) -> tuple[wrapping.WrappedKeyHeader, bytes]:
        primary_key_id = wrapping.parse(wrapped_key).header.primary_key_id
        keys = self.previous | {self.primary_key_id: self.primary_key}
        if primary_key_id not in keys:
            raise Refusal("primary_key_unavailable", f"no primary key {primary_key_id!r}")
        return wrapping.unwrap(keys[primary_key_id], wrapped_key)

    def _answer(self, action: str, provider: str, body: bytes, claims: TokenClaims, jti: str) -> KeyAnswer:
        wrapped: bytes | None = None
        if action == "create":
            asked = messages.decode(body, CreateKeyRequest)
            kek, target = os.urandom(32), asked.hpke_public_key
            header = self.change_wrapping(
                wrapping.WrappedKeyHeader(
                    provider,
                    self.primary_key_id,
                    secrets.token_hex(8),
                    asked.object_label,
                    claims.scope,
                    os.urandom(32),
                )
            )
            wrapped = wrapping.wrap(self.primary_key, header, kek)
        elif action == "rewrap":
            rewrap = messages.decode(body, RewrapKeyRequest)
            before, kek = self._opened(rewrap.wrapped_key)
            target = rewrap.hpke_public_key
            if before.primary_key_id in self.compromised:
                raise Refusal("primary_key_compromised", "make a new key", status=409)
            header = self.change_wrapping(
                dataclasses.replace(before, primary_key_id=self.primary_key_id, salt=os.urandom(32))
            )
            same = before.primary_key_id == self.primary_key_id
            wrapped = rewrap.wrapped_key if same else wrapping.wrap(self.primary_key, header, kek)
        else:
            unwrap = messages.decode(body, UnwrapKeyRequest)
            header, kek = self._opened(unwrap.wrapped_key)
            if unwrap.keep is True and header.primary_key_id != self.primary_key_id:
                raise Refusal("primary_key_previous", "have it wrapped again", status=409)
            self.kept.append(unwrap.keep is True)
            target = unwrap.hpke_public_key
        self.unwrapped.append(kek)
        service_id = self.service_id("key-provider-service")
        context = messages.seal_info(
            suite=claims.hpke.suite, token_jti=claims.jti, request=body, service_id=service_id
        )
        sealed = sealing.seal(claims.hpke.suite, target, self.change_kek(kek), self.change_context(context))
        answer = KeyAnswer(
            kek_id=header.kek_id,
            sealed_key=sealed,
            signature=b"",
            key_id=tokens.thumbprint(self.response_key.public_key()),
            service_id=service_id,
            wrapped_key=wrapped,
        )
        return self.change_answer(self.signed(answer, body, jti), body)

    def signed(self, answer: KeyAnswer, body: bytes, jti: str) -> KeyAnswer:
        """The answer with the response key's signature."""
        to_be_signed = messages.answer_to_be_signed(
            request=body,
            proof_jti=jti,
            kek_id=answer.kek_id,
            sealed_key=answer.sealed_key,
            wrapped_key=answer.wrapped_key,
            service_id=answer.service_id,
        )
        r, s = decode_dss_signature(self.response_key.sign(to_be_signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return msgspec.structs.replace(answer, signature=signature)


class Network(httpx.AsyncBaseTransport):
    """Calls the host that an URL names; the others, and those that are away, do not answer."""

    def __init__(self, *hosts: TrustAuthorityHost) -> None:
        self.hosts = {host.host: host for host in hosts}
        self.anchors: list[str] = []
        self.paths: list[str] = []
        self.attempts: Counter[str] = Counter()

    def client(self, anchor: str) -> httpx.AsyncClient:
        """For `ServiceClient`."""
        self.anchors.append(anchor)
        return httpx.AsyncClient(transport=self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.raw_path.decode("ascii"))
        self.attempts[request.url.host] += 1
        host = self.hosts.get(request.url.host)
        if host is None or host.away:
            raise httpx.ConnectError("connection refused", request=request)
        return await httpx.ASGITransport(host.app).handle_async_request(request)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys from the Trust Authority: make a key encryption key (KEK), get one back from its wrapped form, and
have it wrapped again under the primary key of now.

Any key provider service of the token's group will do, because wrapped keys do not depend on a host: the
services are tried in order, the one that answered last first. An answer is opened only when

1. its service's response key signed it (`answer_to_be_signed`), and that key's set leads to this host's
   anchor;
2. the KEK id is the one asked for: of the wrapped key that was sent, or, for a new key, of the wrapped key
   that came back, which must be of the provider, scope and object asked for, or of the wrapped key that was
   sent to be wrapped again;
3. it opens with this attestation's session key in the context of this request.

So neither a proxy nor somebody who knows this host's public key can plant a key that they know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol
from urllib.parse import quote

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted_infrastructure.host.key_encryption_keys import KeyEncryptionKey
from trusted_infrastructure.host.key_sets import KeySets
from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.host.state import Session, is_decision
from trusted_infrastructure.messages import (
    CreateKeyRequest,
    KeyAnswer,
    KeyUsageReport,
    PrimaryKeyIds,
    RewrapKeyRequest,
    UnwrapKeyRequest,
    answer_to_be_signed,
    encode,
    number,
    seal_info,
)
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tokens import PublicKey, make_proof
from trusted_infrastructure.wrapping import KEY_BYTES, parse

Action = Literal["create", "unwrap", "rewrap"]

# What a new attestation mends: the token is old, or was judged by an older configuration, or by another key.
ATTEST_AGAIN = frozenset({"token_security_generation", "token_expired", "token_invalid"})
# What says that this host is to have no keys at all: its tokens and session keys go at once.
DENIALS = frozenset({"host_denied"})
# A decision that another service may not share: it may have read the keys of its peers later.
ANOTHER_MAY_KNOW = frozenset({"token_invalid"})

log = structlog.get_logger("trusted_infrastructure.host")


# Reports to one service in a row, while keys arrive in between.
ROUNDS = 4

_Request = Callable[[bytes], msgspec.Struct]
_Check = Callable[[KeyAnswer, Session], bytes]


class Counts(Protocol):
    """How many wrapped keys this host keeps. It waits for keys that are on their way when it is called."""

    async def __call__(self, provider: str) -> Mapping[str, int]:
        """By primary key id. Raises Refusal."""


class Attested(Protocol):
    """What `Keys` needs of the agent, at the moment of a request."""

    def key_provider_services(self, provider: str) -> Sequence[Service]:
        """Registered services for `provider` that chain to the anchor. Raises Unavailable."""

    def session(self, group: str) -> Session:
        """The valid token for a group. Raises Refusal `not_attested`."""

    async def attest_again(self) -> None:
        """Attest now, because the token was not accepted."""

    def denied(self, refusal: Refusal) -> None:
        """Drop tokens and session keys: this host is to have no keys."""


class Keys:
    """Key requests of this host. clock: Unix seconds."""

    def __init__(
        self, attested: Attested, client: ServiceClient, key_sets: KeySets, clock: Callable[[], float]
    ) -> None:
        self._attested = attested
        self._client = client
        self._key_sets = key_sets
        self._clock = clock
        self._preferred = ""
        # What was answered to the last report: (service id, provider) -> number.
        self._known: dict[tuple[str, str], int] = {}

    async def create(self, provider: str, object_label: str) -> KeyEncryptionKey:
        """A new KEK for `object_label`. provider: name of a trusted key provider.

        Raises the service's Refusal, Refusal `not_attested`, `answer_invalid`, Unavailable.
        """

        def check(answer: KeyAnswer, session: Session) -> bytes:
            wrapped = answer.wrapped_key
            if wrapped is None:
                raise _invalid("has a new key without its wrapped form")
            header = parse(wrapped).header
            expected = (provider, session.claims.scope, object_label, answer.kek_id)
            if (header.provider, header.scope, header.object_label, header.kek_id) != expected:
                raise _invalid("holds a wrapped key that is not of the provider, scope and object asked for")
            return wrapped

        return await self._request(
            provider,
            "create",
            lambda public_key: CreateKeyRequest(object_label=object_label, hpke_public_key=public_key),
            check,
        )

    async def unwrap(self, provider: str, wrapped_key: bytes, keep: bool = False) -> KeyEncryptionKey:
        """The KEK inside `wrapped_key`. keep: it is kept here from now on.

        Raises as `create`, and Refusal `wrapped_key_invalid`; with `keep`, `primary_key_previous`."""
        asked = parse(wrapped_key).header.kek_id

        def check(answer: KeyAnswer, _session: Session) -> bytes:
            if answer.kek_id != asked:
                raise _invalid(f"is for key {answer.kek_id!r}; asked for was {asked!r}")
            return wrapped_key

        return await self._request(
            provider,
            "unwrap",
            lambda public_key: UnwrapKeyRequest(
                wrapped_key=wrapped_key, hpke_public_key=public_key, keep=keep or msgspec.UNSET
            ),
            check,
        )

    async def rewrap(self, provider: str, wrapped_key: bytes) -> KeyEncryptionKey:
        """The KEK inside `wrapped_key`, and its form under the provider's primary key of now; the same form
        where it is that already. Raises as `unwrap`, and Refusal `primary_key_compromised`."""
        before = parse(wrapped_key).header

        def check(answer: KeyAnswer, _session: Session) -> bytes:
            if answer.wrapped_key is None:
                raise _invalid("has no wrapped key")
            after = parse(answer.wrapped_key).header
            expected = (before.provider, before.scope, before.object_label, before.kek_id)
            found = (after.provider, after.scope, after.object_label, after.kek_id)
            if found != expected or answer.kek_id != before.kek_id:
                raise _invalid("holds a wrapped key of something else than the one that was sent")
            return answer.wrapped_key

        return await self._request(
            provider,
            "rewrap",
            lambda public_key: RewrapKeyRequest(wrapped_key=wrapped_key, hpke_public_key=public_key),
            check,
        )

    async def report_usage(self, provider: str, counts: Counts) -> tuple[list[PrimaryKeyIds], list[Refusal]]:
        """Tell every service of `provider` how many wrapped keys this host keeps, by primary key id. Each
        keeps reports of its own, so all are told.

        Answers what the services said of the primary keys, and why some were not told all. Raises Unavailable
        where no service is registered.
        """
        answers: list[PrimaryKeyIds] = []
        faults: list[Refusal] = []
        services = self._attested.key_provider_services(provider)
        if not services:
            raise _no_service(provider)
        for service in services:
            try:
                answer, complete = await self._report(service, provider, counts)
            except Refusal as refusal:
                faults.append(refusal)
            else:
                answers.append(answer)
                if not complete:
                    faults.append(_still_arriving(provider))
        return answers, faults

    async def _report(self, service: Service, provider: str, counts: Counts) -> tuple[PrimaryKeyIds, bool]:
        """Report until the service has nothing wrapped for this host that the report may lack; whether that
        was reached."""
        path = f"/kms/v1/providers/{quote(provider, safe='')}/usage"
        name = service.id, provider
        for _round in range(ROUNDS):
            known = self._known.get(name, 0)
            # In this order: what the service had wrapped by then has arrived when it is counted.
            body = encode(KeyUsageReport(keys=dict(await counts(provider)), known=known or msgspec.UNSET))
            session = self._attested.session(service.group)
            headers, _jti = self._authorization(service, session, path, body)
            try:
                answer = await self._client.post(service, path, body, PrimaryKeyIds, headers)
            except Refusal as refusal:
                if refusal.code == "malformed_request":  # so that no number that it does not take stays
                    self._known.pop(name, None)
                raise
            newest = number(answer.known)
            if newest == known:
                return answer, True
            self._known[name] = newest
        return answer, False

    async def _request(
        self, provider: str, action: Action, request: _Request, check: _Check
    ) -> KeyEncryptionKey:
        try:
            return await self._from_any(provider, action, request, check)
        except Refusal as refusal:
            if refusal.code in DENIALS:
                self._attested.denied(refusal)
            if refusal.code not in ATTEST_AGAIN:
                raise
        await self._attested.attest_again()
        return await self._from_any(provider, action, request, check)

    async def _from_any(
        self, provider: str, action: Action, request: _Request, check: _Check
    ) -> KeyEncryptionKey:
        """From the first service that answers. A decision ends the search; a fault of a service does not."""
        faults: list[Refusal] = []
        for service in sorted(
            self._attested.key_provider_services(provider), key=lambda one: one.id != self._preferred
        ):
            session = self._attested.session(service.group)
            body = encode(request(session.sealing_key.public_bytes()))
            try:
                answer, proof_jti = await self._ask(service, session, provider, action, body)
            except Refusal as refusal:
                if is_decision(refusal) and refusal.code not in ANOTHER_MAY_KNOW:
                    raise
                faults.append(refusal)
                continue
            try:
                key = await self._opened(service, session, body, proof_jti, answer, check)
            except Refusal as refusal:
                log.warning("answer_refused", address=service.name, code=refusal.code, reason=refusal.message)
                faults.append(refusal)
                continue
            self._preferred = service.id
            return key
        raise faults[-1] if faults else _no_service(provider)

    async def _ask(
        self, service: Service, session: Session, provider: str, action: Action, body: bytes
    ) -> tuple[KeyAnswer, str]:
        path = f"/kms/v1/providers/{quote(provider, safe='')}/keys"
        headers, jti = self._authorization(service, session, path, body)
        return await self._client.post(service, f"{path}?action={action}", body, KeyAnswer, headers), jti

    def _authorization(
        self, service: Service, session: Session, path: str, body: bytes
    ) -> tuple[dict[str, str], str]:
        """Headers with the token and a proof for this request, and the proof's id."""
        proof, jti = make_proof(
            session.proof_key, "POST", service.url + path, body, session.token, int(self._clock())
        )
        return {"authorization": f"DPoP {session.token}", "dpop": proof}, jti

    async def _opened(
        self,
        service: Service,
        session: Session,
        body: bytes,
        proof_jti: str,
        answer: KeyAnswer,
        check: _Check,
    ) -> KeyEncryptionKey:
        """Steps 1 to 3 of the module's docstring. Raises Refusal."""
        key, key_set = await self._key_sets.key(service, "key-provider-service", answer.key_id)
        if answer.service_id != key_set.service_id:
            raise _invalid(f"says that it is of {answer.service_id!r}, but {key_set.service_id!r} signed it")
        signed = answer_to_be_signed(
            request=body,
            proof_jti=proof_jti,
            kek_id=answer.kek_id,
            sealed_key=answer.sealed_key,
            wrapped_key=answer.wrapped_key,
            service_id=answer.service_id,
        )
        _verify(key, answer.signature, signed)
        wrapped_key = check(answer, session)
        context = seal_info(
            suite=session.sealing_key.suite,
            token_jti=session.claims.jti,
            request=body,
            service_id=answer.service_id,
        )
        opened = bytearray(session.sealing_key.open(answer.sealed_key, context))
        if len(opened) != KEY_BYTES:
            raise _invalid(f"holds a key of {len(opened)} bytes; expected {KEY_BYTES}")
        return KeyEncryptionKey(answer.kek_id, wrapped_key, opened)


def _verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """ES256: r || s, 32 bytes each (RFC 7518, 3.4)."""
    if len(signature) != 64:
        raise _invalid(f"has a signature of {len(signature)} bytes; expected 64")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _invalid("is not signed by the key provider service for this request") from None


def _invalid(message: str) -> Refusal:
    return Refusal(
        "answer_invalid",
        f"the key provider's answer {message}",
        "another service is tried; if all answers are refused, look for somebody between host and service",
        status=502,
    )


def _still_arriving(provider: str) -> Unavailable:
    return Unavailable(
        "service_busy",
        f"keys of {provider!r} keep arriving while they are counted",
        "wait for the next report",
    )


def _no_service(provider: str) -> Unavailable:
    return Unavailable(
        "configuration_unavailable",
        f"no key provider service for {provider!r} is registered on this host",
        "register the services of the Trust Authority, and the provider, on the trusted cluster",
    )

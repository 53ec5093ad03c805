# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit routes of a service: for its peers, which anybody may ask, and for the manager of its side.

Public: where this log stands, and the heads of peers' logs that are kept here. Each is a number and a hash,
signed by the service whose log it is: it tells a stranger nothing, and a peer cannot make one up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trusted_infrastructure import tokens
from trusted_infrastructure.audit import AuditLog, Decision, Head, verify
from trusted_infrastructure.peers.heads import KnownPeer
from trusted_infrastructure.peers.watch import SIDE, PeerWatch
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tokens import PrivateKey
from trusted_infrastructure.transport import JSONAnswer

# A head that is asked for by strangers is signed once a second at most.
HEAD_REUSE = 1

Identity = Callable[[], tuple[PrivateKey, list[str]]]
"""The service's identity key and its chain (PEM, leaf first). Raises Refusal `certificate_invalid`."""


class VerifyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of verify: heads of this log that are kept elsewhere."""

    heads: list[Head] = []


class AuditRoutes:
    """The routes of one service; /audit-head and /peer-heads below its public path, /audit/... below its
    management path."""

    def __init__(
        self,
        log: AuditLog,
        path: Path,
        service_id: str,
        identity: Identity,
        watch: PeerWatch,
        side_ca: Path,
        generation: Callable[[], int | None],
        clock: Callable[[], float],
    ) -> None:
        """path: of the audit log. generation: the security generation, None without a configuration."""
        self._log = log
        self._path = path
        self._service_id = service_id
        self._identity = identity
        self._watch = watch
        self._ca = side_ca
        self._generation = generation
        self._clock = clock
        self._signed: tuple[int, dict[str, Any]] = (-1, {})

    def public(self, base: str) -> list[BaseRoute]:
        """Routes for everybody. base: such as /attestation/v1."""
        return [
            Route(f"{base}/audit-head", self.public_head, methods=["GET"]),
            Route(f"{base}/peer-heads", self.peer_heads, methods=["GET"]),
        ]

    def management(self, base: str) -> list[BaseRoute]:
        """Routes for the manager. base: such as /attestation/manage/v1."""
        return [
            Route(f"{base}/audit/head", self.head, methods=["GET"]),
            Route(f"{base}/audit/peer-heads", self.known_peers, methods=["GET"]),
            Route(f"{base}/audit/peer-heads/{{host}}/accept", self.accept, methods=["POST"]),
            Route(f"{base}/audit/verify", self.verify, methods=["POST"]),
        ]

    def sign(self, head: Head) -> str:
        """A head as a JWS of this service. Raises Refusal `certificate_invalid`."""
        return signed_head(head, self._service_id, self._identity, int(self._clock()), self._generation())

    async def head(self, _request: Request) -> Response:
        """GET audit/head: where the chain stands, plain and signed."""
        return JSONAnswer(await asyncio.to_thread(self._head))

    async def public_head(self, _request: Request) -> Response:
        """GET audit-head: the same, at most a second old."""
        now = int(self._clock())
        if not 0 <= now - self._signed[0] < HEAD_REUSE:
            self._signed = (now, await asyncio.to_thread(self._head))
        return JSONAnswer(self._signed[1])

    async def peer_heads(self, request: Request) -> Response:
        """GET peer-heads?host=...: what is kept here of the peers' logs, as they signed it: {host: [JWS]}."""
        known = self._watch.known()
        if "host" in request.query_params:
            wanted = request.query_params["host"]
            known = {wanted: known[wanted]} if wanted in known else {}
        return JSONAnswer(
            {
                "heads": {
                    host: [head.signed for head in (peer.last, *peer.earlier)] for host, peer in known.items()
                }
            }
        )

    async def known_peers(self, _request: Request) -> Response:
        """GET audit/peer-heads: the same for people, with what is wrong."""
        return JSONAnswer({"peers": {host: described(peer) for host, peer in self._watch.known().items()}})

    async def accept(self, request: Request) -> Response:
        """POST audit/peer-heads/{host}/accept: an administrator says that the peer's new log is in order."""
        host = request.path_params["host"]
        decision = Decision(
            time=int(self._clock()),
            service=self._service_id,
            host="",
            address=request.headers.get("x-real-ip", ""),
            code="audit_log_accepted",
            detail={"peer": host, "by": request.state.caller.host},
        )

        def act() -> bool:
            if host not in self._watch.known():
                return False
            self._log.append(decision)
            return self._watch.accept(host)

        return JSONAnswer({"changed": await asyncio.to_thread(act)})

    async def verify(self, request: Request) -> Response:
        """POST audit/verify: is this log whole, and does it hold the heads that are given?"""
        try:
            given = msgspec.json.decode(await request.body() or b"{}", type=VerifyRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField("body", str(error)[:200]) from None
        return JSONAnswer(await asyncio.to_thread(self._verify, given.heads))

    def _verify(self, heads: Sequence[Head]) -> dict[str, Any]:
        result = verify(self._path, heads, checkpoint_judge(self._ca, self._service_id))
        answer: dict[str, Any] = msgspec.to_builtins(result)
        return answer | {"intact": result.intact, "heads": len(heads)}

    def _head(self) -> dict[str, Any]:
        head = self._log.head()
        return {"chain": head.chain, "seq": head.seq, "hash": head.hash, "signed": self.sign(head)}


def signed_head(
    head: Head, service_id: str, identity: Identity, now: int, generation: int | None = None
) -> str:
    """A head as a JWS of a service's identity. Raises Refusal `certificate_invalid`."""
    key, chain = identity()
    claims = tokens.AuditHeadClaims(
        service_id=service_id,
        chain=head.chain,
        seq=head.seq,
        hash=head.hash,
        iat=now,
        security_generation=generation,
    )
    return tokens.sign_audit_head(claims, key, chain)


def checkpoint_judge(side_ca: Path, service_id: str) -> Callable[[str, Head], str]:
    """What judges the signature of a checkpoint in the log of `service_id`: see `audit.CheckSigned`."""

    def judge(signed: str, head: Head) -> str:
        role = role_of(service_id)
        try:
            claims = tokens.verify_kept_audit_head(signed, side_ca.read_text(), SIDE, role)
        except Refusal as refusal:
            return str(refusal)
        except OSError as error:
            return f"{side_ca}: {error.strerror}"
        if (claims.service_id, claims.chain, claims.seq, claims.hash) != (
            service_id,
            head.chain,
            head.seq,
            head.hash,
        ):
            return "it is signed for another head"
        return ""

    return judge


def role_of(service_id: str) -> str:
    """The certificate's role of a service: "attestation@ta1" has attestation-service."""
    return service_id.partition("@")[0] + "-service"


def described(peer: KnownPeer) -> dict[str, Any]:
    """A peer for people and managers."""
    return {
        "chain": peer.last.chain,
        "seq": peer.last.seq,
        "hash": peer.last.hash,
        "signed": peer.last.signed,
        "seen": peer.last.seen,
        "problem": peer.problem,
        "security_generation": peer.security_generation,
        "earlier": [head.signed for head in peer.earlier],
    }

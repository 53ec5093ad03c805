# SPDX-License-Identifier: GPL-3.0-or-later
"""The published keys of services, verified up to this host's anchor and kept until they end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Literal

from trusted_infrastructure.host.registered_services import Service
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tokens import KeySet, PublicKey, verify_key_set
from trusted_infrastructure.transport import answer_of

Role = Literal["attestation-service", "key-provider-service"]
PATHS: dict[Role, str] = {
    "attestation-service": "/attestation/v1/keys",
    "key-provider-service": "/kms/v1/keys",
}
REFRESH_INTERVAL = 10


class _Certified(Collection[str]):
    """Every host: on a trusted host the CA itself is the anchor, so whom it certified is allowed."""

    def __contains__(self, host: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class KeySets:
    """Key sets by service and role.

    clock: Unix seconds. `anchor` is set by the agent before use, and again when it changes.
    """

    def __init__(self, client: ServiceClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._anchor = ""
        self._kept: dict[tuple[str, Role], tuple[KeySet, int]] = {}

    def trust(self, anchor: str) -> None:
        """Verify against `anchor` (PEM) from now on; what another anchor vouched for is forgotten."""
        if anchor != self._anchor:
            self._anchor = anchor
            self._kept.clear()

    async def key(self, service: Service, role: Role, key_id: str) -> tuple[PublicKey, KeySet]:
        """A service's key and the set that it is in.

        A set is read again when it has ended, and when it does not know `key_id` (services rotate keys), but
        not more often than every 10 s, so that a made-up id cannot cause a request each time.
        Raises Refusal (key_set_invalid, certificate_invalid, certificate_expired, response_key_unknown).
        """
        now = int(self._clock())
        kept, read = self._kept.get((service.url, role), (None, 0))
        if (
            kept is None
            or kept.expires <= now
            or (key_id not in kept.keys and now - read >= REFRESH_INTERVAL)
        ):
            kept = await self._read(service, role, now)
            self._kept[service.url, role] = kept, now
        key = kept.keys.get(key_id)
        if key is None:
            raise Refusal(
                "response_key_unknown",
                f"{service.name} signed with key {key_id[:64]!r}, which is not in its key set",
                "look at the service's log; a key that it does not publish is not accepted",
                status=502,
            )
        return key, kept

    async def _read(self, service: Service, role: Role, now: int) -> KeySet:
        answer = answer_of(await self._client.get(service, PATHS[role]), service.name)
        jws = answer.get("keys") if isinstance(answer, dict) else None
        if not isinstance(jws, str):
            raise Unavailable("peer_answer_invalid", f"{service.name} gave no key set")
        return verify_key_set(jws, self._anchor, "trust_authority", role, _Certified(), now)

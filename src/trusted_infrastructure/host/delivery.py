# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workload manager seals keys for this host to: a key that lives as long as this process."""

from __future__ import annotations

import secrets
from typing import Literal

from trusted_infrastructure.key_delivery import DeliveryTarget
from trusted_infrastructure.messages import delivery_info
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.wrapping import KEY_BYTES


class DeliveryKey:
    """An HPKE key and the id of this start of the agent. host: this host's id. Raises InvalidField for an
    unknown suite."""

    def __init__(self, host: str, suite: str) -> None:
        self.instance = secrets.token_hex(16)
        self._host = host
        self._key = SealingKey.generate(suite)

    @property
    def suite(self) -> str:
        """Name of the HPKE suite."""
        return self._key.suite

    def public_key(self) -> bytes:
        """The public key."""
        return self._key.public_bytes()

    def target(self) -> DeliveryTarget:
        """What the manager is told."""
        return DeliveryTarget(instance=self.instance, suite=self.suite, public_key=self.public_key())

    def check(self, instance: str) -> None:
        """Refuse what was sealed for another start. Raises Refusal `delivery_stale` (409)."""
        if instance != self.instance:
            raise Refusal(
                "delivery_stale",
                "the delivery is for another start of this agent",
                "read the host's delivery key again, and seal the keys to it",
                status=409,
            )

    def open(self, kind: Literal["standard", "native"], provider: str, key_id: str, sealed: bytes) -> bytes:
        """The 32-byte key. Raises Refusal `sealed_value_invalid`: not sealed for this host, this start, this
        provider and this key id, or no key."""
        info = delivery_info(
            kind=kind, host=self._host, instance=self.instance, provider=provider, key_id=key_id
        )
        key = self._key.open(sealed, info)
        if len(key) != KEY_BYTES:
            raise Refusal(
                "sealed_value_invalid",
                f"the sealed key {key_id!r} of provider {provider!r} has {len(key)} bytes; it must have"
                f" {KEY_BYTES}",
                "use AES keys of 256 bits",
            )
        return key

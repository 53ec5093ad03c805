# SPDX-License-Identifier: GPL-3.0-or-later
"""The primary keys: there, active, and the same under the same id on every key server.

All of it goes through KMIP. The first server makes a key, and replication brings it to the others; one that
has not got it reads it from there over a connection that both sides authenticate, and registers it. No key
passes through a file, an argument, a log or Ansible.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import Any

from kmip.core import enums
from kmip.core.attributes import CryptographicAlgorithm, CryptographicLength
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.misc import KeyFormatType
from kmip.core.objects import KeyBlock, KeyMaterial, KeyValue, TemplateAttribute
from kmip.core.secrets import SymmetricKey
from kmip.services.kmip_client import KMIPProxy
from kmip.services.kmip_protocol import KMIPProtocol

from .endpoint import Endpoint, connected
from .engine import REQUESTED_ID
from .errors import KeyServerError
from .journal import DESTROYED
from .vendor_attributes import kmip_attribute

TIMEOUT = 15
KEY_BITS = 256
# How a key is revoked on its way to a state.
WAYS = {
    "DEACTIVATED": enums.RevocationReasonCode.CESSATION_OF_OPERATION,
    "COMPROMISED": enums.RevocationReasonCode.KEY_COMPROMISE,
    "DESTROYED": enums.RevocationReasonCode.CESSATION_OF_OPERATION,
}
VENDOR = {"x-Vendor": "trusted.infrastructure", "x-Product": "lab key server", "x-Product_Version": "1"}


@dataclass(frozen=True)
class WantedKey:
    """A primary key of the inventory. policy: operation policy that says who may read it."""

    name: str
    id: str
    policy: str


def ensure(wanted: list[WantedKey], here: Endpoint, first: Endpoint | None, *, check: bool) -> list[str]:
    """Ids of the keys that were made, or with `check` would be. first: whom to replicate from; None: here."""
    changed = []
    with Client(here) as client:
        for key in wanted:
            state = client.state(key.id)
            if state is None:
                changed.append(key.id)
                if not check:
                    client.make(key) if first is None else _replicate(key, client, first)
            elif state is enums.State.PRE_ACTIVE:
                changed.append(key.id)
                if not check:
                    client.activate(key.id)
            elif first is not None and state.value < DESTROYED:
                _compare(key, client, first)
    return changed


def bring_to(here: Endpoint, key_id: str, wanted: str, *, check: bool) -> bool:
    """Bring a key to a KMIP state ("DEACTIVATED", "COMPROMISED", "DESTROYED"), as an administrator may.

    Says whether it was, or with `check` would be, in another one. Raises KeyServerError for a way back.
    """
    if wanted not in WAYS:
        raise KeyServerError(f"state is {wanted!r}; expected one of {', '.join(WAYS)}")
    with Client(here) as client:
        state = client.state(key_id)
        if state is None:
            raise KeyServerError(f"{here.host} has no key {key_id}")
        target = enums.State[wanted]
        gone = target is enums.State.DESTROYED and state is enums.State.DESTROYED_COMPROMISED
        if state is target or gone:
            return False
        if state.value > target.value:
            raise KeyServerError(f"key {key_id} is {state.name}; it cannot become {wanted}")
        if not check:
            if target is not enums.State.DESTROYED or state is enums.State.ACTIVE:
                client.revoke(key_id, WAYS[wanted])
            if target is enums.State.DESTROYED:
                client.destroy(key_id)
    return True


def _replicate(key: WantedKey, client: Client, first: Endpoint) -> None:
    with Client(first) as origin:
        client.register(key, origin.material(key.id))


def _compare(key: WantedKey, client: Client, first: Endpoint) -> None:
    with Client(first) as origin:
        if not hmac.compare_digest(origin.material(key.id), client.material(key.id)):
            raise KeyServerError(
                f"{client.endpoint.host} and {first.host} have different keys under id {key.id} ({key.name})"
            )


class Client:
    """A KMIP client with what PyKMIP's lacks: its server's name is verified, and no file at home is read."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connection = connected(endpoint, TIMEOUT)
        self._proxy: Any = KMIPProxy(config_file=os.devnull)
        self._proxy.kmip_version = enums.KMIPVersion.KMIP_1_4
        self._proxy.protocol = KMIPProtocol(self._connection)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def state(self, key_id: str) -> Any:
        """The key's state, or None where there is no such key."""
        answer = self._proxy.get_attributes(key_id, ["State"])
        if answer.result_reason is not None and answer.result_reason.value in (
            enums.ResultReason.ITEM_NOT_FOUND,
            enums.ResultReason.PERMISSION_DENIED,
        ):
            return None
        self._done(answer)
        return next((attribute.attribute_value.value for attribute in answer.attributes), None)

    def material(self, key_id: str) -> bytes:
        """The key's bytes."""
        answer = self._done(self._proxy.get(key_id))
        return bytes(answer.secret.key_block.key_value.key_material.value)

    def make(self, key: WantedKey) -> None:
        """Create the key under its id, and activate it."""
        self._done(self._proxy.create(enums.ObjectType.SYMMETRIC_KEY, _attributes(key)))
        self.activate(key.id)

    def register(self, key: WantedKey, material: bytes) -> None:
        """Register the key under its id, and activate it."""
        block = KeyBlock(
            key_format_type=KeyFormatType(enums.KeyFormatType.RAW),
            key_compression_type=None,
            key_value=KeyValue(KeyMaterial(material)),
            cryptographic_algorithm=CryptographicAlgorithm(enums.CryptographicAlgorithm.AES),
            cryptographic_length=CryptographicLength(KEY_BITS),
            key_wrapping_data=None,
        )
        kind = enums.ObjectType.SYMMETRIC_KEY
        self._done(self._proxy.register(kind, _attributes(key), SymmetricKey(block)))
        self.activate(key.id)

    def activate(self, key_id: str) -> None:
        """Activate the key."""
        self._done(self._proxy.activate(key_id))

    def revoke(self, key_id: str, reason: Any) -> None:
        """Revoke the key. reason: KMIP's RevocationReasonCode."""
        self._done(self._proxy.revoke(reason, key_id))

    def destroy(self, key_id: str) -> None:
        """Destroy the key."""
        self._done(self._proxy.destroy(key_id))

    def _done(self, answer: Any) -> Any:
        if answer.result_status.value is not enums.ResultStatus.SUCCESS:
            raise KeyServerError(f"{self.endpoint.host}: {answer.result_message.value}")
        return answer


def _attributes(key: WantedKey) -> TemplateAttribute:
    make = AttributeFactory().create_attribute
    usage = [
        enums.CryptographicUsageMask.ENCRYPT,
        enums.CryptographicUsageMask.DECRYPT,
        enums.CryptographicUsageMask.WRAP_KEY,
        enums.CryptographicUsageMask.UNWRAP_KEY,
    ]
    attributes = [
        make(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
        make(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, KEY_BITS),
        make(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, usage),
        make(enums.AttributeType.NAME, key.name),
        make(enums.AttributeType.OPERATION_POLICY_NAME, key.policy),
    ]
    for name, value in {**VENDOR, "x-Name": key.name, REQUESTED_ID: key.id}.items():
        attributes.append(kmip_attribute(name, value))
    return TemplateAttribute(attributes=attributes)

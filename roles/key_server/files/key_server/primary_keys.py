# SPDX-License-Identifier: GPL-3.0-or-later
"""The primary keys: there, active, and the same under the same id on every key server.

All of it goes through KMIP. The first server makes a key; the others read it from there over a connection
that both sides authenticate, and register it. No key passes through a file, an argument, a log or Ansible.
"""

from __future__ import annotations

import hmac
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from kmip.core import enums
from kmip.core.attributes import CryptographicAlgorithm, CryptographicLength, CustomAttribute
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.misc import KeyFormatType
from kmip.core.objects import Attribute, KeyBlock, KeyMaterial, KeyValue, TemplateAttribute
from kmip.core.secrets import SymmetricKey
from kmip.services.kmip_client import KMIPProxy
from kmip.services.kmip_protocol import KMIPProtocol

from .engine import REQUESTED_ID
from .errors import KeyServerError

TIMEOUT = 15
KEY_BITS = 256
VENDOR = {"x-Vendor": "trusted.infrastructure", "x-Product": "lab key server", "x-Product_Version": "1"}


@dataclass(frozen=True)
class Endpoint:
    """A key server. trusted: PEM file of exactly its certificate. certificate, key: the client's files."""

    host: str
    port: int
    trusted: str
    certificate: str
    key: str


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
            elif first is not None:
                _compare(key, client, first)
    return changed


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
        context = ssl.create_default_context(cafile=endpoint.trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(endpoint.certificate, endpoint.key)
        try:
            connection = socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT)
            self._connection = context.wrap_socket(connection, server_hostname=endpoint.host)
        except OSError as error:
            raise KeyServerError(f"{endpoint.host}:{endpoint.port}: {error}") from None
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
        attributes.append(
            Attribute(attribute_name=Attribute.AttributeName(name), attribute_value=CustomAttribute(value))
        )
    return TemplateAttribute(attributes=attributes)

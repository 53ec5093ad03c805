# SPDX-License-Identifier: GPL-3.0-or-later
"""KMIP operations on one TLS connection. Of the services, this module and key_making.py alone touch PyKMIP.

PyKMIP has no types, reads configuration files from the home directory, opens connections that check no
host name, believes any length that a server announces, and logs whole messages at DEBUG. So it gets here an
open and verified connection, an empty configuration and a transport that bounds and never logs, and what it
answers is taken apart at once into the types below. An answer about another object than the one that was
asked about is no answer. Sources: KMIP 1.1-1.4 Specification, sections 3 (attributes; 3.36 custom attributes,
whose names begin with "x-"), 4.11 (Get), 4.12 (Get Attributes), 4.25 (Query), 4.26 (Discover Versions).
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kmip.core import enums, exceptions, utils
from kmip.core.messages import contents, payloads
from kmip.services.kmip_client import KMIPProxy

from trusted_infrastructure.kmip import text_strings
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, KeyServerFailure, tls_failure
from trusted_infrastructure.refusal import Refusal

# The answer to Get of a symmetric key has some 300 bytes; of all attributes, a few thousand.
MAX_MESSAGE = 256 * 1024
# Best first. 2.x has other attribute encodings, and nothing here needs it.
VERSIONS = ((1, 4), (1, 3), (1, 2), (1, 1))
VENDOR_PREFIX = "x-"
_HEADER = 8
_ATTRIBUTES = [
    "Object Type",
    "Cryptographic Algorithm",
    "Cryptographic Length",
    "Cryptographic Usage Mask",
    "State",
]
_Taken = TypeVar("_Taken")
text_strings.repair()
_AUTHENTICATION_REASONS = {"AUTHENTICATION_NOT_SUCCESSFUL"}


@dataclass(frozen=True)
class KeyAttributes:
    """Attributes of a managed object. KMIP names in upper case ("ACTIVE", "AES"); None where not given.

    usage: names of the bits of Cryptographic Usage Mask. length: bits. vendor: vendor attributes ("x-Name")
    that were asked for and have a text.
    """

    object_type: str | None
    algorithm: str | None
    length: int | None
    usage: frozenset[str]
    state: str | None
    vendor: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyMaterial:
    """A symmetric key as Get gave it. material: the bytes, never shown."""

    algorithm: str | None
    length: int | None
    material: bytes = field(repr=False)


class KeyServerRefusal(Refusal):
    """The key server answered, over a verified connection, that it will not: `key_missing` or `key_destroyed`
    where it says that there is no such key, else `primary_key_unavailable`.

    reason: KMIP Result Reason ("ITEM_NOT_FOUND"). server_trust_client: False where it does not know us.
    """

    def __init__(self, server: KeyServer, reason: str, text: str) -> None:
        code, status, remedy = _GONE.get(reason, _REFUSED)
        words = f"key server {server.name!r} refused: {reason.lower()}: {_plain(text)}"
        super().__init__(code, words, remedy, status)
        self.server = server.name
        self.reason = reason
        self.server_trust_client = reason not in _AUTHENTICATION_REASONS


# Reason code, HTTP status and remedy, by KMIP Result Reason (KMIP 1.4 9.1.3.2.28, 2.0 11.48). What may be
# there in a moment, or elsewhere, is 503; a destroyed key is not.
_REFUSED = (
    "primary_key_unavailable",
    503,
    "Check the primary key's id, and what the key server lets this provider's client do.",
)
_GONE = {
    "ITEM_NOT_FOUND": (
        "key_missing",
        503,
        "Check the key's id, and that the key servers replicate keys. Restore the key if it was lost.",
    ),
    "OBJECT_DESTROYED": (
        "key_destroyed",
        403,
        "What only this key opens is lost, unless the key server can restore the key. Set another key.",
    ),
}


class Session:
    """One connection to a key server, one request at a time. Any failure leaves it unusable: close it."""

    def __init__(
        self,
        server: KeyServer,
        connection: ssl.SSLSocket,
        credentials: ClientCredentials,
        version: tuple[int, int] | None = None,
        deadline: float | None = None,
    ) -> None:
        """version: KMIP version to speak; None asks the server. deadline: see there. Raises as `attributes`
        does."""
        self.server = server
        # When all that is asked must be answered (time.monotonic); None gives each question the server's
        # timeout. A server that sends a byte now and then does not hold anybody up.
        self.deadline = deadline
        self._connection = connection
        self._transport = _Transport(connection)
        self._proxy = _proxy(self._transport, credentials)
        self._answered = False
        self.version = version or self._agree_on_version()
        self._proxy.kmip_version = _kmip_version(self.version)

    @property
    def peer_certificate(self) -> bytes:
        """The server's certificate (DER), which was verified."""
        return self._connection.getpeercert(binary_form=True) or b""

    def attributes(self, key_id: str, vendor: Sequence[str] = ()) -> KeyAttributes:
        """State and kind of a key, and those of its vendor attributes (KMIP 4.12). Raises KeyServerFailure or
        KeyServerRefusal."""
        payload = self.call(
            enums.Operation.GET_ATTRIBUTES,
            payloads.GetAttributesRequestPayload(key_id, [*_ATTRIBUTES, *vendor]),
        )
        return self.taken_apart(lambda: _attributes_of(payload, key_id))

    def material(self, key_id: str) -> KeyMaterial:
        """A symmetric key's bytes (KMIP 4.11). Raises KeyServerFailure or KeyServerRefusal."""
        payload = self.call(
            enums.Operation.GET,
            payloads.GetRequestPayload(unique_identifier=key_id, key_format_type=enums.KeyFormatType.RAW),
        )
        return self.taken_apart(lambda: _material_of(payload, key_id))

    def vendor(self) -> str:
        """Who made the server, in its own words (KMIP 4.25, Vendor Identification); "" where it does not say.

        Raises KeyServerFailure, and KeyServerRefusal where it does not know us."""
        wanted = payloads.QueryRequestPayload([enums.QueryFunction.QUERY_SERVER_INFORMATION])
        try:
            payload = self.call(enums.Operation.QUERY, wanted)
        except KeyServerRefusal as refusal:
            if not refusal.server_trust_client:
                raise
            return ""
        return self.taken_apart(
            lambda: "" if payload is None else _plain(payload.vendor_identification or "")
        )

    def close(self) -> None:
        """Close the connection."""
        self._proxy.protocol = None
        self._connection.close()

    def _agree_on_version(self) -> tuple[int, int]:
        self._proxy.kmip_version = _kmip_version(VERSIONS[-1])
        payload = self.call(
            enums.Operation.DISCOVER_VERSIONS,
            payloads.DiscoverVersionsRequestPayload(
                [contents.ProtocolVersion(*version) for version in VERSIONS]
            ),
        )
        known = self.taken_apart(lambda: {(v.major, v.minor) for v in payload.protocol_versions})
        for version in VERSIONS:
            if version in known:
                return version
        raise KeyServerRefusal(self.server, "INVALID_MESSAGE", "it speaks none of KMIP 1.1 to 1.4")

    def call(self, operation: Any, payload: Any) -> Any:
        """One question and its answer, of PyKMIP's types. Raises KeyServerFailure or KeyServerRefusal."""
        self._transport.deadline = self.deadline or time.monotonic() + self.server.timeout
        try:
            answer = self._proxy.send_request_payload(operation, payload)
            self._answered = True
            return answer
        except exceptions.OperationFailure as failure:
            self._answered = True
            raise KeyServerRefusal(self.server, failure.reason.name, str(failure)) from None
        except (OSError, EOFError) as error:
            raise self._broken(tls_failure(self.server, error, verified=True)) from None
        except Exception as error:
            # A library's parser, on a server's bytes: it raises what it likes, and its words may hold them.
            raise self._no_kmip(error) from None

    def _broken(self, failure: KeyServerFailure) -> KeyServerFailure:
        if self._answered or failure.server_trust_client is not None:
            return failure
        # In TLS 1.3 a server judges our certificate after the handshake; a reset may swallow what it says.
        return KeyServerFailure(
            self.server,
            f"{failure.cause}, before its first answer: it may not know the client certificate",
            "Make the provider's client certificate known to the key server.",
            client_trust_server=True,
        )

    def taken_apart(self, take: Callable[[], _Taken]) -> _Taken:
        """What `take` makes of an answer; whatever it raises says that this is no such answer."""
        try:
            return take()
        except Exception as error:
            raise self._no_kmip(error) from None

    def _no_kmip(self, error: Exception) -> KeyServerFailure:
        return KeyServerFailure(
            self.server,
            f"its answer is not the KMIP that was asked for ({type(error).__name__})",
            "Check that the address and port are those of a KMIP server, version 1.1 or later.",
            client_trust_server=True,
        )


class _Transport:
    """What PyKMIP calls its protocol: whole messages over a connection; bounded, and nothing is logged."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self.deadline = time.monotonic()

    def write(self, data: bytes) -> None:
        self._bound()
        self._connection.sendall(bytes(data))

    def read(self) -> Any:
        header = self._receive(_HEADER)
        size = int.from_bytes(header[4:], "big")
        if size > MAX_MESSAGE:
            raise EOFError(f"it announced an answer of {size} bytes; at most {MAX_MESSAGE} are taken")
        return utils.BytearrayStream(header + self._receive(size))

    def _receive(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            self._bound()
            data = self._connection.recv(size - len(received))
            if not data:
                raise EOFError("it closed the connection")
            received += data
        return bytes(received)

    def _bound(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


def _proxy(transport: _Transport, credentials: ClientCredentials) -> Any:
    proxy = KMIPProxy(config_file=os.devnull)
    # Set afterwards: its constructor takes the text "None" for no value, and would look for files otherwise.
    proxy.username = credentials.username
    proxy.password = credentials.password or "" if credentials.username is not None else None
    proxy.protocol = transport
    return proxy


def _kmip_version(version: tuple[int, int]) -> Any:
    return contents.protocol_version_to_kmip_version(contents.ProtocolVersion(*version))


def _attributes_of(payload: Any, key_id: str) -> KeyAttributes:
    if payload.unique_identifier != key_id:
        raise ValueError("another object than the one asked for")
    values = {a.attribute_name.value: a.attribute_value.value for a in payload.attributes}
    mask = values.get("Cryptographic Usage Mask") or 0
    return KeyAttributes(
        object_type=_name(values.get("Object Type")),
        algorithm=_name(values.get("Cryptographic Algorithm")),
        length=values.get("Cryptographic Length"),
        usage=frozenset(bit.name for bit in enums.CryptographicUsageMask if bit.value & mask),
        state=_name(values.get("State")),
        vendor={
            name: value
            for name, value in values.items()
            if name.startswith(VENDOR_PREFIX) and isinstance(value, str)
        },
    )


def _material_of(payload: Any, key_id: str) -> KeyMaterial:
    if payload.unique_identifier != key_id:
        raise ValueError("another object than the one asked for")
    if payload.object_type is not enums.ObjectType.SYMMETRIC_KEY:
        raise ValueError("no symmetric key")
    block = payload.secret.key_block
    if block.key_wrapping_data is not None or block.key_format_type.value is not enums.KeyFormatType.RAW:
        raise ValueError("not a raw key")
    return KeyMaterial(
        algorithm=_name(block.cryptographic_algorithm.value) if block.cryptographic_algorithm else None,
        length=block.cryptographic_length.value if block.cryptographic_length else None,
        material=bytes(block.key_value.key_material.value),
    )


def _name(value: Any) -> str | None:
    return None if value is None else str(value.name)


def _plain(text: str) -> str:
    """A server's words for a message of ours: short, and no control characters."""
    return "".join(character for character in text[:200] if character.isprintable())

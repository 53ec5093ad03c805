# SPDX-License-Identifier: GPL-3.0-or-later
"""A key server that can be told to misbehave: TLS on a loopback port, answers made to order.

`Answers` holds what is said of the one key; `raw`, when set, is sent in place of any answer. Certificates are
made here, so that every kind of wrong one can be shown.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kmip.core import attributes, enums, utils
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.messages import contents, messages, payloads
from kmip.core.misc import KeyFormatType
from kmip.core.objects import KeyBlock, KeyMaterial, KeyValue, KeyWrappingData
from kmip.core.secrets import SecretData, SymmetricKey

KEY = bytes(range(200, 232))
USAGE = ["ENCRYPT", "DECRYPT"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: str
    private_key: bytes = field(repr=False)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.private_key + self.certificate.encode())
        return path


def make_pair(
    name: str,
    *,
    address: str | None = "127.0.0.1",
    issuer: Pair | None = None,
    ca: bool = False,
    ended: bool = False,
) -> Pair:
    """A certificate for `name` and `address`, self-signed or signed by `issuer`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    start = now - datetime.timedelta(days=10)
    end = now - datetime.timedelta(days=1) if ended else now + datetime.timedelta(days=10)
    signer, signed_by = key, subject
    if issuer is not None:
        loaded = serialization.load_pem_private_key(issuer.private_key, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer, signed_by = loaded, x509.load_pem_x509_certificate(issuer.certificate.encode()).subject
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if address is not None:
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), private)


@dataclass
class Answers:
    """What the server says. raw: sent in place of an answer. refuse: KMIP result reason by operation.

    trickle: seconds before each byte of an answer."""

    key: bytes = KEY
    key_id: str = "1001"
    vendor: str | None = "a vendor"
    state: str | None = "ACTIVE"
    algorithm: str = "AES"
    length: int = 256
    usage: list[str] = field(default_factory=lambda: list(USAGE))
    object_type: str = "SYMMETRIC_KEY"
    versions: tuple[tuple[int, int], ...] = ((1, 4), (1, 1))
    wrapped: bool = False
    secret_data: bool = False
    refuse: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    cut_after: int | None = None
    silent: bool = False
    trickle: float | None = None


class HostileKeyServer:
    """Context manager: the server on `port`. seen: headers and payloads of the requests, for assertions."""

    def __init__(
        self,
        folder: Path,
        pair: Pair,
        answers: Answers | None = None,
        client_ca: str | None = None,
        tls: Callable[[ssl.SSLContext], None] | None = None,
    ) -> None:
        self.answers = answers or Answers()
        self.seen: list[Any] = []
        self.connections = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.write(folder / "hostile-server.pem"))
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=client_ca)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if tls is not None:
            tls(context)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> HostileKeyServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shutdown wakes the thread that waits in accept; close alone leaves it there.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Close all connections."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            tls = self._context.wrap_socket(connection, server_side=True)
            self._open.append(tls)
            while True:
                header = _receive(tls, 8)
                request = header + _receive(tls, int.from_bytes(header[4:], "big"))
                if self.answers.silent:
                    threading.Event().wait(5)
                    return
                answer = self.answers.raw if self.answers.raw is not None else self._answer(request)
                for byte in answer if self.answers.trickle is not None else b"":
                    threading.Event().wait(self.answers.trickle)
                    tls.sendall(bytes([byte]))
                if self.answers.trickle is not None:
                    return
                tls.sendall(answer[: self.answers.cut_after])
                if self.answers.cut_after is not None:
                    tls.close()

    def _answer(self, data: bytes) -> bytes:
        request = messages.RequestMessage()
        version = enums.KMIPVersion.KMIP_1_4
        request.read(utils.BytearrayStream(data), kmip_version=version)
        self.seen.append(request)
        item = request.batch_items[0]
        name = item.operation.value.name
        if name in self.answers.refuse:
            result = messages.ResponseBatchItem(
                operation=item.operation,
                result_status=contents.ResultStatus(enums.ResultStatus.OPERATION_FAILED),
                result_reason=contents.ResultReason(enums.ResultReason[self.answers.refuse[name]]),
                result_message=contents.ResultMessage("refused\nby order"),
            )
        else:
            result = messages.ResponseBatchItem(
                operation=item.operation,
                result_status=contents.ResultStatus(enums.ResultStatus.SUCCESS),
                response_payload=self._payload(name),
            )
        header = messages.ResponseHeader(
            protocol_version=request.request_header.protocol_version,
            time_stamp=contents.TimeStamp(1),
            batch_count=contents.BatchCount(1),
        )
        stream = utils.BytearrayStream()
        messages.ResponseMessage(response_header=header, batch_items=[result]).write(
            stream, kmip_version=version
        )
        return bytes(stream.buffer)

    def _payload(self, operation: str) -> Any:
        if operation == "DISCOVER_VERSIONS":
            versions = [contents.ProtocolVersion(*version) for version in self.answers.versions]
            return payloads.DiscoverVersionsResponsePayload(protocol_versions=versions)
        if operation == "QUERY":
            return payloads.QueryResponsePayload(vendor_identification=self.answers.vendor)
        if operation == "GET_ATTRIBUTES":
            return payloads.GetAttributesResponsePayload(self.answers.key_id, self._attributes())
        return self._get()

    def _attributes(self) -> list[Any]:
        make, answers = AttributeFactory().create_attribute, self.answers
        usage = [enums.CryptographicUsageMask[name] for name in answers.usage]
        found = [
            make(enums.AttributeType.OBJECT_TYPE, enums.ObjectType[answers.object_type]),
            make(
                enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM,
                enums.CryptographicAlgorithm[answers.algorithm],
            ),
            make(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, answers.length),
            make(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, usage),
        ]
        if answers.state is not None:
            found.append(make(enums.AttributeType.STATE, enums.State[answers.state]))
        return found

    def _get(self) -> Any:
        block = KeyBlock(
            key_format_type=KeyFormatType(enums.KeyFormatType.RAW),
            key_value=KeyValue(KeyMaterial(self.answers.key)),
            cryptographic_algorithm=attributes.CryptographicAlgorithm(
                enums.CryptographicAlgorithm[self.answers.algorithm]
            ),
            cryptographic_length=attributes.CryptographicLength(self.answers.length),
            key_wrapping_data=KeyWrappingData(enums.WrappingMethod.ENCRYPT) if self.answers.wrapped else None,
        )
        if self.answers.secret_data:
            kind = SecretData.SecretDataType(enums.SecretDataType.PASSWORD)
            return payloads.GetResponsePayload(
                enums.ObjectType.SECRET_DATA, self.answers.key_id, SecretData(kind, block)
            )
        return payloads.GetResponsePayload(
            enums.ObjectType.SYMMETRIC_KEY, self.answers.key_id, SymmetricKey(block)
        )


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise OSError("closed")
        received += data
    return received

# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections from one key server to another, which both sides authenticate."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from .errors import KeyServerError


@dataclass(frozen=True)
class Endpoint:
    """A key server. trusted: PEM file with what its certificate must be or chain to. certificate, key: the
    client's files. host: the name or address that its certificate must be for, and that is dialled."""

    host: str
    port: int
    trusted: str
    certificate: str
    key: str


def connected(endpoint: Endpoint, timeout: float) -> ssl.SSLSocket:
    """A verified connection; no step on it takes longer than `timeout` seconds. Raises KeyServerError."""
    try:
        context = ssl.create_default_context(cafile=endpoint.trusted)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(endpoint.certificate, endpoint.key)
        connection = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(connection, server_hostname=endpoint.host)
        except BaseException:
            connection.close()
            raise
    except OSError as error:  # ssl.SSLError is one
        raise KeyServerError(f"{endpoint.host}:{endpoint.port}: {error}") from None

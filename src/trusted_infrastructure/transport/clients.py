# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS clients between our parts: one pinned CA, TLS 1.2 or later, no proxies, no environment.

Names are resolved through /etc/hosts, which the roles write. A client verifies the peer's certificate and
name always; there is no way to switch that off.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import msgspec

from trusted_infrastructure.refusal import Refusal, Unavailable

TIMEOUT = 10.0
ANSWER_LIMIT = 16 << 20


def tls_context(ca: Path | str, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's TLS context that trusts `ca` alone.

    ca: path, or PEM text, of one or more CA certificates. certificate, key: PEM files of the client.
    Raises Refusal `certificate_invalid` when a file is missing or not PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if isinstance(ca, Path):
            context.load_verify_locations(cafile=str(ca))
        else:
            context.load_verify_locations(cadata=ca)
        if certificate is not None:
            context.load_cert_chain(str(certificate), str(key) if key is not None else None)
    except (OSError, ssl.SSLError, ValueError) as error:
        names = [str(item) for item in (ca if isinstance(ca, Path) else "CA", certificate, key) if item]
        raise Refusal(
            "certificate_invalid",
            f"cannot load TLS material from {', '.join(names)}: {type(error).__name__}",
            "check that the files exist, are PEM, and that the key belongs to the certificate",
            status=503,
        ) from None
    return context


def public_client(ca: Path | str, *, base_url: str = "", timeout: float = TIMEOUT) -> httpx.Client:
    """Client of the public names (attestation, key provider): verifies the server, has no identity itself."""
    return httpx.Client(transport=_transport(ca), **_options(base_url, timeout))


def async_public_client(ca: Path | str, *, base_url: str = "", timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """`public_client` for asyncio."""
    return httpx.AsyncClient(transport=_async_transport(ca), **_options(base_url, timeout))


def management_client(
    ca: Path | str, certificate: Path, key: Path, *, base_url: str = "", timeout: float = TIMEOUT
) -> httpx.Client:
    """Client of the config names (https://config.<host>): mTLS with the manager's certificate."""
    return httpx.Client(transport=_transport(ca, certificate, key), **_options(base_url, timeout))


def async_management_client(
    ca: Path | str, certificate: Path, key: Path, *, base_url: str = "", timeout: float = TIMEOUT
) -> httpx.AsyncClient:
    """`management_client` for asyncio."""
    return httpx.AsyncClient(transport=_async_transport(ca, certificate, key), **_options(base_url, timeout))


def local_client(socket_path: Path, *, timeout: float = TIMEOUT) -> httpx.Client:
    """Client of a unix socket on this machine; the URL's host does not matter."""
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket_path)), **_options("http://localhost", timeout)
    )


def answer_of(response: httpx.Response, peer: str) -> Any:
    """The JSON of a 2xx answer.

    Raises the peer's own Refusal (code, message, remedy, status) when it answered with one, and Unavailable
    `peer_answer_invalid` for anything that is not ours: an error page of a proxy, or no JSON.
    """
    try:
        answer = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = None
    if response.is_success and answer is not None:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        raise Refusal(
            error["code"],
            str(error.get("message", "")),
            str(error.get("remedy", "")),
            status=response.status_code if response.status_code >= 400 else 502,
        )
    raise Unavailable(
        "peer_answer_invalid",
        f"{peer} answered {response.status_code} without one of our error answers",
        f"look at nginx and the service on {peer}",
    )


def unreachable(peer: str, error: httpx.HTTPError) -> Unavailable:
    """A connection's failure as a refusal; says what kind it was, and an expired certificate by its name."""
    text = str(error)
    if "certificate has expired" in text:
        return Unavailable(
            "certificate_expired", f"the TLS certificate of {peer} has expired", f"renew it: {peer}"
        )
    return Unavailable(
        "peer_unreachable",
        f"{peer} did not answer ({type(error).__name__}: {text})",
        f"check that {peer} is up and reachable on port 443",
    )


def config_url(host: str, port: int = 443) -> str:
    """Base URL of a host's config name, where its management sockets are. host: inventory name."""
    return f"https://config.{host}" if port == 443 else f"https://config.{host}:{port}"


def _options(base_url: str, timeout: float) -> dict[str, Any]:
    return {
        "base_url": base_url,
        "timeout": timeout,
        "trust_env": False,
        "follow_redirects": False,
        "headers": {"user-agent": "trusted-infrastructure", "accept": "application/json"},
    }


def _transport(
    ca: Path | str, certificate: Path | None = None, key: Path | None = None
) -> httpx.HTTPTransport:
    return httpx.HTTPTransport(verify=tls_context(ca, certificate, key), trust_env=False)


def _async_transport(
    ca: Path | str, certificate: Path | None = None, key: Path | None = None
) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=tls_context(ca, certificate, key), trust_env=False)

# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS clients between our parts: one pinned CA, TLS 1.2 or later, no proxies, no environment.

Names are resolved through /etc/hosts, which the roles write. A client verifies the peer's certificate and
name always; there is no way to switch that off. What it reads is bounded (`bounded_answers`).
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import msgspec

from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.transport.bounded_answers import UNTYPED_LIMIT, AnswerRefused, BoundedAnswers

TIMEOUT = 10.0


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


def public_client(ca: Path | str, *, base_url: str = "", timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """Client of the public names (attestation, key provider): verifies the server, has no identity itself."""
    return _client(_https(tls_context(ca)), base_url, timeout)


def management_client(
    ca: Path | str, certificate: Path, key: Path, *, base_url: str = "", timeout: float = TIMEOUT
) -> httpx.AsyncClient:
    """Client of the config names (https://config.<host>): mTLS with the manager's certificate."""
    return _client(_https(tls_context(ca, certificate, key)), base_url, timeout)


def local_client(socket_path: Path, *, timeout: float = TIMEOUT) -> httpx.AsyncClient:
    """Client of a unix socket on this machine; the URL's host does not matter."""
    return _client(httpx.AsyncHTTPTransport(uds=str(socket_path)), "http://localhost", timeout)


def ask_once(client: httpx.AsyncClient, method: str, url: str, **options: Any) -> httpx.Response:
    """One request of a command, which has no event loop; the client is closed. options: of httpx.

    Raises httpx.HTTPError.
    """

    async def once() -> httpx.Response:
        async with client:
            return await client.request(method, url, **options)

    return asyncio.run(once())


def answer_of(response: httpx.Response, peer: str, limit: int = UNTYPED_LIMIT) -> Any:
    """The JSON of a 2xx answer of at most `limit` bytes: it becomes many times larger. Whoever reads more
    decodes it into a type, after `check_success`.

    Raises the peer's own Refusal (code, message, remedy, status) when it answered with one, and Unavailable
    `peer_answer_invalid` for anything that is not ours: an error page of a proxy, or no JSON;
    `answer_refused` for what is too large.
    """
    if len(response.content) > limit:
        raise _refused(peer, f"gave an answer of more than {limit} bytes")
    check_success(response, peer)
    answer = _json(response)
    if answer is None:
        raise _not_ours(response, peer)
    return answer


def check_success(response: httpx.Response, peer: str) -> None:
    """Raises as `answer_of` does for what is not 2xx."""
    if response.is_success:
        return
    answer = _json(response)
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        raise Refusal(
            error["code"],
            str(error.get("message", "")),
            str(error.get("remedy", "")),
            status=response.status_code if response.status_code >= 400 else 502,
        )
    raise _not_ours(response, peer)


def _json(response: httpx.Response) -> Any:
    """What an answer has, in no type; None for what is no JSON."""
    try:
        return msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refused(peer: str, text: str) -> Unavailable:
    return Unavailable(
        AnswerRefused.code,
        f"{peer} {text}",
        f"look at what answers at {peer}: no service of this release does that",
    )


def _not_ours(response: httpx.Response, peer: str) -> Unavailable:
    return Unavailable(
        "peer_answer_invalid",
        f"{peer} answered {response.status_code} without one of our error answers",
        f"look at nginx and the service on {peer}",
    )


def unreachable(peer: str, error: httpx.HTTPError, remedy: str = "") -> Unavailable:
    """A connection's failure as a refusal; says what kind it was, and an expired certificate by its name.

    remedy: for a peer that is not on the network.
    """
    text = str(error)
    if isinstance(error, AnswerRefused):
        return _refused(peer, text)
    if "certificate has expired" in text:
        return Unavailable(
            "certificate_expired", f"the TLS certificate of {peer} has expired", f"renew it: {peer}"
        )
    return Unavailable(
        "peer_unreachable",
        f"{peer} did not answer ({type(error).__name__}: {text})",
        remedy or f"check that {peer} is up and reachable on port 443",
    )


def config_url(host: str, port: int = 443) -> str:
    """Base URL of a host's config name, where its management sockets are. host: inventory name."""
    return f"https://config.{host}" if port == 443 else f"https://config.{host}:{port}"


def _https(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(verify=context, trust_env=False)


def _client(transport: httpx.AsyncBaseTransport, base_url: str, timeout: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=BoundedAnswers(transport),
        base_url=base_url,
        timeout=timeout,
        trust_env=False,
        follow_redirects=False,
        headers={
            "user-agent": "trusted-infrastructure",
            "accept": "application/json",
            "accept-encoding": "identity",
        },
    )

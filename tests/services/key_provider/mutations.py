# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutations of key requests: token, proof, request, wrapped key. Each row is a good request with one thing
wrong, and what the service must say; `test_mutations` sends it through the ASGI application."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from services.key_provider.harness import (
    EK,
    KEY_ID,
    NOW,
    PREVIOUS_ID,
    AttestationKey,
    Authority,
    Host,
    cluster,
    denied,
    principal,
    provider,
    rotated,
    scope,
    wrapped_key,
)
from services.key_provider.running import PATH, Service

from trusted_infrastructure import tokens
from trusted_infrastructure.kmip.connection import KeyServer
from trusted_infrastructure.kmip.session import KeyServerRefusal
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tokens import Confirmation, SealingTarget

URL = f"https://ta1{PATH}"
Text = Callable[[str], str]


@dataclass(frozen=True)
class Mutation:
    """One row. code: the reason code that is expected.

    prepare: what changes at the service before. claims: of the token; token, proof: their text is made
    instead, from the host (and token, body). url, made: for what the proof is, and when. body: what is sent;
    sent: what is sent instead of what the proof is for. path, query: where it goes. headers: further ones,
    or other ones. known: the token was accepted, so the record names the host.
    """

    code: str
    known: bool = True
    prepare: Callable[[Service], object] | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    token: Callable[[Host], str] | None = None
    proof: Callable[[Host, str, bytes], str] | None = None
    body: Callable[[Host], bytes] | None = None
    sent: bytes | None = None
    path: str = PATH
    query: str = "?action=unwrap"
    headers: Callable[[str, str], list[tuple[str, str]]] | None = None

    def send(self, service: Service) -> Any:
        """Make the request and send it."""
        host = service.host
        token = self.token(host) if self.token else host.token(**self.claims)
        body = self.body(host) if self.body else host.unwrap_body(wrapped_key())
        proof = self.proof(host, token, body) if self.proof else host.proof(token, body)
        headers = [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
        if self.headers is not None:
            headers = self.headers(token, proof)
        content = body if self.sent is None else self.sent
        return service.public.post(self.path + self.query, content=content, headers=headers)


def forged(
    jws: str,
    key: ec.EllipticCurvePrivateKey,
    header: dict[str, Any] | None = None,
    payload: Callable[[bytes], bytes] = bytes,
    sign: Callable[[bytes], bytes] | None = None,
) -> str:
    """A compact JWS with another header or payload, signed again. header: None removes a parameter."""
    first, second, _signature = (decoded(part) for part in jws.split("."))
    plain = msgspec.json.decode(first) | (header or {})
    head = msgspec.json.encode({name: value for name, value in plain.items() if value is not None})
    signed = b".".join(encoded(part) for part in (head, payload(second)))
    signature = es256(key, signed) if sign is None else sign(signed)
    return (signed + b"." + encoded(signature)).decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def es256(key: ec.EllipticCurvePrivateKey, signed: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(header: dict[str, Any] | None = None, **forgery: Any) -> Callable[[Host], str]:
    """The token, forged with the attestation service's key, or without."""
    return lambda host: forged(host.token(), host.authority.attestation.key, header, **forgery)


def proof(header: dict[str, Any] | None = None, **forgery: Any) -> Callable[[Host, str, bytes], str]:
    return lambda host, text, body: forged(host.proof(text, body), host.proof_key, header, **forgery)


def hs256(host: Host) -> str:
    """An HMAC whose key is the public key that everybody knows."""
    public = host.authority.attestation.key.public_key()
    secret = msgspec.json.encode(tokens.jwk(public))
    return token({"alg": "HS256"}, sign=lambda signed: hmac.digest(secret, signed, "sha256"))(host)


def by_the_key_in_its_header(host: Host) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return forged(host.token(), key, {"jwk": tokens.jwk(key.public_key())})


def by_a_stranger(host: Host) -> str:
    """Of a service that is no peer, under the kid of one that is."""
    stranger = Authority(attestation=AttestationKey())
    return forged(Host(stranger).token(), stranger.attestation.key, {"kid": host.authority.attestation.kid})


def by_the_proof_key(host: Host) -> str:
    """The host signs a token for itself, and names its own key."""
    kid = tokens.thumbprint(host.proof_key.public_key())
    return forged(host.token(), host.proof_key, {"kid": kid})


def malleable(text: str) -> str:
    """The same signature in another text: bits of the last character that are not used."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


def twice(name: bytes, value: bytes) -> Callable[[bytes], bytes]:
    """A claim again, at the end."""
    return lambda payload: payload[:-1] + b',"' + name + b'":' + value + b"}"


def put(kind: str, name: str, content: Any) -> Callable[[Service], None]:
    def change(service: Service) -> None:
        service.authority.put(kind, name, content)
        service.publish()

    return change


def risen(service: Service) -> None:
    """Trust was withdrawn more than the grace period ago."""
    service.authority.security_generation = 4
    service.publish()
    service.parts.state.snapshot()
    service.clock.now += 61
    service.host.now += 61


def later(seconds: int) -> Callable[[Service], None]:
    def wait(service: Service) -> None:
        service.clock.now += seconds

    return wait


def peers(text: str) -> Callable[[Service], None]:
    return lambda service: void((service.folder / "anchors" / "peers.json").write_text(text))


def void(_value: object) -> None:
    return None


def of_suite(suite: str, minimum: str) -> Callable[[Service], None]:
    def change(service: Service) -> None:
        service.authority.put("trust_authority_cluster", "cluster", cluster(hpke_suite=minimum))
        service.publish()
        service.host = Host(service.authority, suite=suite)

    return change


def servers(refusal: Refusal) -> Callable[[Service], None]:
    """All key servers say this."""

    def change(service: Service) -> None:
        for server in service.servers:
            server.refusal = refusal

    return change


def other_key(service: Service) -> None:
    for server in service.servers:
        server.material = bytes(32)


def too_often(service: Service) -> None:
    from trusted_infrastructure.rate_limit import RateLimit

    service.parts.public.routes[1].endpoint.__self__._limit = RateLimit(0.001, 0, lambda: 0.0)


def other_sealing_key(host: Host) -> bytes:
    return replace_key(host, SealingKey.generate(host.suite)).unwrap_body(wrapped_key())


def replace_key(host: Host, key: SealingKey) -> Host:
    made = replace(host)
    made.sealing_key = key
    return made


def unwrap(data: bytes) -> Callable[[Host], bytes]:
    return lambda host: host.unwrap_body(data)


def body(change: Callable[[bytes], bytes]) -> Callable[[Host], bytes]:
    """The body as text, changed, and proven."""
    return lambda host: change(host.unwrap_body(wrapped_key()))


def url(address: str) -> Callable[[Host, str, bytes], str]:
    return lambda host, text, body: host.proof(text, body, url=address)


def target(address: str) -> Callable[[Host, str, bytes], str]:
    """A proof with this htu, which `tokens` would not write."""
    value = msgspec.json.encode(address)
    good = msgspec.json.encode(URL)
    return proof(payload=lambda payload: payload.replace(good, value))


def stolen(host: Host, text: str, body: bytes) -> str:
    return replace(host, proof_key=ec.generate_private_key(ec.SECP256R1())).proof(text, body)


def victims_key_in_the_header(host: Host, text: str, body: bytes) -> str:
    """The thief shows the attested key and signs with another."""
    thief = ec.generate_private_key(ec.SECP256R1())
    return forged(host.proof(text, body), thief)


OTHER_JWK = tokens.jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
CLUSTER = ("trust_authority_cluster", "cluster")

TOKEN: dict[str, Mutation] = {
    # headers
    "no header": Mutation("token_invalid", False, headers=lambda token, proof: []),
    "no token": Mutation("token_invalid", False, headers=lambda token, proof: [("DPoP", proof)]),
    "empty token": Mutation(
        "token_invalid", False, headers=lambda token, proof: [("Authorization", "DPoP "), ("DPoP", proof)]
    ),
    "token as Bearer": Mutation(
        "token_invalid",
        False,
        headers=lambda token, proof: [("Authorization", f"Bearer {token}"), ("DPoP", proof)],
    ),
    "scheme in small letters": Mutation(
        "token_invalid",
        False,
        headers=lambda token, proof: [("Authorization", f"dpop {token}"), ("DPoP", proof)],
    ),
    "two tokens": Mutation(
        "token_invalid",
        False,
        headers=lambda token, proof: [("Authorization", f"DPoP {token}")] * 2 + [("DPoP", proof)],
    ),
    "two tokens in one header": Mutation(
        "token_invalid", False, token=lambda host: f"{host.token()}, {host.token()}"
    ),
    "space before the token": Mutation("token_invalid", False, token=lambda host: " " + host.token()),
    # form and algorithm
    "nonsense": Mutation("token_invalid", False, token=lambda host: "nonsense"),
    "20000 characters": Mutation("token_invalid", False, token=lambda host: "A" * 20_000),
    "four parts": Mutation("token_invalid", False, token=lambda host: host.token() + ".AA"),
    "padding": Mutation("token_invalid", False, token=lambda host: host.token() + "="),
    "another text of its signature": Mutation(
        "token_invalid", False, token=lambda host: malleable(host.token())
    ),
    "unsigned": Mutation("token_invalid", False, token=token({"alg": "none"}, sign=lambda signed: b"")),
    "without a signature": Mutation("token_invalid", False, token=token(sign=lambda signed: b"")),
    "signature of zeros": Mutation("token_invalid", False, token=token(sign=lambda signed: bytes(64))),
    "HS256 with the public key": Mutation("token_invalid", False, token=hs256),
    "ES384": Mutation("token_invalid", False, token=token({"alg": "ES384"})),
    "RS256": Mutation("token_invalid", False, token=token({"alg": "RS256"})),
    "typ of a proof": Mutation("token_invalid", False, token=token({"typ": "dpop+jwt"})),
    "typ JWT": Mutation("token_invalid", False, token=token({"typ": "JWT"})),
    "typ in capitals": Mutation("token_invalid", False, token=token({"typ": "TI-TOKEN+JWT"})),
    "no typ": Mutation("token_invalid", False, token=token({"typ": None})),
    "no kid": Mutation("token_invalid", False, token=token({"kid": None})),
    "kid of nobody": Mutation("token_invalid", False, token=token({"kid": "A" * 43})),
    "kid of a path": Mutation("token_invalid", False, token=token({"kid": "../../etc/passwd"})),
    "kid is a list": Mutation("token_invalid", False, token=token({"kid": ["a"]})),
    "jwk beside the kid": Mutation("token_invalid", False, token=token({"jwk": OTHER_JWK})),
    "x5c beside the kid": Mutation("token_invalid", False, token=token({"x5c": ["AAAA"]})),
    "crit": Mutation("token_invalid", False, token=token({"crit": ["exp"], "exp": 1})),
    "b64": Mutation("token_invalid", False, token=token({"b64": False, "crit": ["b64"]})),
    "jku": Mutation("token_invalid", False, token=token({"jku": "https://evil.test/"})),
    "x5u": Mutation("token_invalid", False, token=token({"x5u": "https://evil.test/"})),
    "zip": Mutation("token_invalid", False, token=token({"zip": "DEF"})),
    "by the key in its header": Mutation("token_invalid", False, token=by_the_key_in_its_header),
    "by a stranger, with a peer's kid": Mutation("token_invalid", False, token=by_a_stranger),
    "by the host itself": Mutation("token_invalid", False, token=by_the_proof_key),
    "by a service that is no peer": Mutation(
        "token_invalid", False, token=lambda _host: Host(Authority(attestation=AttestationKey())).token()
    ),
    "a proof for a token": Mutation("token_invalid", False, token=lambda host: host.proof("t", b"")),
    "changed": Mutation("token_invalid", False, token=lambda host: host.token()[:-6] + "AAAAAA"),
    # claims
    "exp twice": Mutation("token_invalid", False, token=token(payload=twice(b"exp", b"9999999999"))),
    "a further claim": Mutation("token_invalid", False, token=token(payload=twice(b"admin", b"true"))),
    "claims nested": Mutation(
        "token_invalid", False, token=token(payload=lambda _payload: b'{"x":' + b"[" * 5000)
    ),
    "exp as a fraction": Mutation(
        "token_invalid", False, token=token(payload=lambda p: p.replace(b'"exp":', b'"exp":0.'))
    ),
    "version 2": Mutation(
        "token_invalid", False, token=token(payload=lambda p: p.replace(b'"version":1', b'"version":2'))
    ),
    "without exp": Mutation(
        "token_invalid", False, token=token(payload=lambda p: p.replace(b'"exp"', b'"ex_"'))
    ),
    "in another's name": Mutation("token_invalid", False, claims={"iss": "attestation@ta2"}),
    "of a peer that is not anchored": Mutation("token_invalid", False, prepare=peers("[]")),
    "of a peer that is not in the cluster": Mutation(
        "token_invalid", False, prepare=put(*CLUSTER, cluster(peers=[]))
    ),
    "of another cluster": Mutation("token_audience", False, claims={"aud": "group-2"}),
    "of a cluster in capitals": Mutation("token_audience", False, claims={"aud": "GROUP-1"}),
    "ended now": Mutation("token_expired", False, claims={"exp": NOW}),
    "ended": Mutation("token_expired", False, claims={"exp": NOW - 1}),
    "ended before it began": Mutation("token_expired", False, claims={"iat": NOW, "exp": NOW - 1}),
    "begins in 61 s": Mutation("token_invalid", False, claims={"nbf": NOW + 61}),
    "issued in 61 s": Mutation("token_invalid", False, claims={"iat": NOW + 61, "nbf": NOW}),
    "for more than a day": Mutation("token_invalid", False, claims={"iat": NOW, "exp": NOW + 86_401}),
    "for ever": Mutation("token_invalid", False, claims={"exp": 2**62}),
    # 3 to 7: what it says, by the configuration of now
    "of a generation before": Mutation(
        "token_security_generation", prepare=risen, claims={"security_generation": 3}
    ),
    "host denied": Mutation("host_denied", prepare=put("denied_host", "d", denied("host1"))),
    "EK denied": Mutation("host_denied", prepare=put("denied_host", "d", denied("host9", EK))),
    "no scope": Mutation("scope_unknown", prepare=put("scope", "cluster-a", None)),
    "scope of another principal": Mutation(
        "scope_unknown", prepare=put("scope", "cluster-a", scope(principal="https://wm2"))
    ),
    "principal gone": Mutation("principal_unknown", prepare=put("consumer_principal", "principal-1", None)),
    "another principal": Mutation(
        "principal_unknown", prepare=put("consumer_principal", "principal-1", principal("https://wm2"))
    ),
    "no provider": Mutation("provider_unknown", prepare=put("key_provider", "finance", None)),
    "provider not allowed": Mutation(
        "provider_denied", prepare=put("scope", "cluster-a", scope(providers=["hr"]))
    ),
    "no provider allowed": Mutation(
        "provider_denied", prepare=put("scope", "cluster-a", scope(providers=[]))
    ),
    "no user space coverage": Mutation(
        "userspace_required",
        prepare=put("key_provider", "finance", provider(required_userspace="verity")),
        claims={"userspace": "none"},
    ),
    "another user space coverage": Mutation(
        "userspace_required", prepare=put("key_provider", "finance", provider(required_userspace="ima"))
    ),
    "too often": Mutation("rate_limited", prepare=too_often),
}

PROOF: dict[str, Mutation] = {
    "no proof": Mutation(
        "proof_invalid", False, headers=lambda token, proof: [("Authorization", f"DPoP {token}")]
    ),
    "empty proof": Mutation(
        "proof_invalid",
        False,
        headers=lambda token, proof: [("Authorization", f"DPoP {token}"), ("DPoP", "")],
    ),
    "two proofs": Mutation(
        "proof_invalid",
        False,
        headers=lambda token, proof: [("Authorization", f"DPoP {token}")] + [("DPoP", proof)] * 2,
    ),
    "nonsense": Mutation("proof_invalid", proof=lambda *_all: "nonsense"),
    "20000 characters": Mutation("proof_invalid", proof=lambda *_all: "A" * 20_000),
    "the token as proof": Mutation("proof_invalid", proof=lambda _host, token, _body: token),
    "unsigned": Mutation("proof_invalid", proof=proof({"alg": "none"}, sign=lambda signed: b"")),
    "without a signature": Mutation("proof_invalid", proof=proof(sign=lambda signed: b"")),
    "another text of its signature": Mutation(
        "proof_invalid", proof=lambda h, t, b: malleable(h.proof(t, b))
    ),
    "HS256": Mutation("proof_invalid", proof=proof({"alg": "HS256"})),
    "typ JWT": Mutation("proof_invalid", proof=proof({"typ": "JWT"})),
    "no jwk": Mutation("proof_invalid", proof=proof({"jwk": None})),
    "jwk with the private part": Mutation(
        "proof_invalid", proof=proof({"jwk": {"kty": "EC", "crv": "P-256", "x": "A", "y": "A", "d": "A"}})
    ),
    "jwk off the curve": Mutation(
        "proof_invalid", proof=proof({"jwk": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}})
    ),
    "jwk of a secret": Mutation("proof_invalid", proof=proof({"jwk": {"kty": "oct", "k": "AAAA"}})),
    "kid beside the jwk": Mutation("proof_invalid", proof=proof({"kid": "A" * 43})),
    "x5c beside the jwk": Mutation("proof_invalid", proof=proof({"x5c": ["AAAA"]})),
    "crit": Mutation("proof_invalid", proof=proof({"crit": ["htu"]})),
    "signed by another than the key it shows": Mutation("proof_invalid", proof=victims_key_in_the_header),
    "stolen token": Mutation("proof_mismatch", proof=stolen),
    "token bound to nothing": Mutation("proof_mismatch", claims={"cnf": Confirmation("A")}),
    "htu twice": Mutation("proof_invalid", proof=proof(payload=twice(b"htu", msgspec.json.encode(URL)))),
    "a further claim": Mutation("proof_invalid", proof=proof(payload=twice(b"nonce", b'"x"'))),
    "short jti": Mutation("proof_invalid", proof=lambda h, t, b: h.proof(t, b, jti="short")),
    "long jti": Mutation("proof_invalid", proof=lambda h, t, b: h.proof(t, b, jti="x" * 129)),
    "for GET": Mutation("proof_mismatch", proof=lambda h, t, b: h.proof(t, b, method="GET")),
    "for post": Mutation("proof_mismatch", proof=lambda h, t, b: h.proof(t, b, method="post")),
    "for another host": Mutation("proof_mismatch", proof=url(URL.replace("ta1", "ta2"))),
    "for another provider": Mutation("proof_mismatch", proof=url(URL.replace("finance", "hr"))),
    "for http": Mutation("proof_mismatch", proof=target(URL.replace("https", "http"))),
    "for another port": Mutation("proof_mismatch", proof=target(URL.replace("ta1", "ta1:8443"))),
    "with the port written out": Mutation("proof_mismatch", proof=target(URL.replace("ta1", "ta1:443"))),
    "host in capitals": Mutation("proof_mismatch", proof=target(URL.replace("ta1", "TA1"))),
    "host with a dot": Mutation("proof_mismatch", proof=target(URL.replace("ta1", "ta1."))),
    "with a user": Mutation("proof_mismatch", proof=target(URL.replace("ta1", "evil@ta1"))),
    "trailing slash": Mutation("proof_mismatch", proof=target(URL + "/")),
    "with the query": Mutation("proof_mismatch", proof=target(URL + "?action=unwrap")),
    "with a fragment": Mutation("proof_mismatch", proof=target(URL + "#")),
    "path in another case": Mutation("proof_mismatch", proof=target(URL.replace("kms", "KMS"))),
    "path percent-encoded": Mutation("proof_mismatch", proof=target(URL.replace("finance", "f%69nance"))),
    "path with dots": Mutation("proof_mismatch", proof=target(URL.replace("finance", "x/../finance"))),
    "no address": Mutation("proof_mismatch", proof=target("")),
    "request to an encoded path": Mutation("proof_mismatch", path=PATH.replace("finance", "f%69nance")),
    "for another token": Mutation("proof_mismatch", proof=lambda h, _token, b: h.proof(h.token(), b)),
    "for no token": Mutation("proof_mismatch", proof=lambda h, _token, b: h.proof("", b)),
    "for another body": Mutation("proof_mismatch", proof=lambda h, t, _body: h.proof(t, b"{}")),
    "for the body with a space": Mutation("proof_mismatch", proof=lambda h, t, b: h.proof(t, b + b" ")),
    "body exchanged": Mutation("proof_mismatch", sent=b"{}"),
    "61 s old": Mutation("proof_expired", proof=lambda h, t, b: h.proof(t, b, now=NOW - 61)),
    "61 s ahead": Mutation("proof_expired", proof=lambda h, t, b: h.proof(t, b, now=NOW + 61)),
    "of the year 1970": Mutation("proof_expired", proof=lambda h, t, b: h.proof(t, b, now=0)),
    "replayed 61 s later": Mutation("proof_expired", prepare=later(61)),
}

REQUEST: dict[str, Mutation] = {
    "no action": Mutation("malformed_request", False, query=""),
    "action twice": Mutation("malformed_request", False, query="?action=create&action=unwrap"),
    "empty action": Mutation("malformed_request", False, query="?action="),
    "unknown action": Mutation("malformed_request", False, query="?action=delete"),
    "action in capitals": Mutation("malformed_request", False, query="?action=UNWRAP"),
    "too large": Mutation("request_too_large", False, sent=b"x" * (64 * 1024 + 1)),
    "empty body": Mutation("malformed_request", body=lambda _host: b""),
    "not JSON": Mutation("malformed_request", body=lambda _host: b"\xff{"),
    "nested": Mutation("malformed_request", body=lambda _host: b"[" * 60_000),
    "field twice": Mutation("malformed_request", body=body(twice(b"wrapped_key", b'"AAAA"'))),
    "unknown field": Mutation("malformed_request", body=body(twice(b"more", b"1"))),
    "byte order mark": Mutation("malformed_request", body=body(lambda good: b"\xef\xbb\xbf" + good)),
    "no key to seal to": Mutation("malformed_request", body=lambda _host: b'{"wrapped_key":"AAAA"}'),
    "create as unwrap": Mutation("malformed_request", body=lambda host: host.create_body()),
    "unwrap as create": Mutation("malformed_request", query="?action=create"),
    "another key to seal to": Mutation("proof_mismatch", body=other_sealing_key),
    "classical where hybrid is asked": Mutation(
        "token_invalid", prepare=of_suite("X25519", "MLKEM768_X25519")
    ),
    "weaker hybrid": Mutation("token_invalid", prepare=of_suite("MLKEM768_X25519", "MLKEM1024_P384")),
    "unknown suite": Mutation(
        "token_invalid", claims={"hpke": SealingTarget("ROT13", hashlib.sha256(b"").hexdigest())}
    ),
}

WRAPPED_KEY: dict[str, Mutation] = {
    "empty": Mutation("wrapped_key_invalid", body=unwrap(b"")),
    "cut": Mutation("wrapped_key_invalid", body=unwrap(wrapped_key()[:-1])),
    "with a tail": Mutation("wrapped_key_invalid", body=unwrap(wrapped_key() + b"\0")),
    "of another version": Mutation("wrapped_key_invalid", body=unwrap(b"TIWK\2" + wrapped_key()[5:])),
    "of another algorithm": Mutation("wrapped_key_invalid", body=unwrap(b"TIWK\1\2" + wrapped_key()[6:])),
    "of 7 KiB": Mutation("wrapped_key_invalid", body=unwrap(wrapped_key() + bytes(7000))),
    "of a primary key before": Mutation(
        "primary_key_unavailable", body=unwrap(wrapped_key(primary_key_id="7"))
    ),
    "of a primary key that was given up": Mutation(
        "primary_key_unavailable", body=unwrap(wrapped_key(primary_key_id=PREVIOUS_ID))
    ),
    "of another provider": Mutation("wrapped_key_invalid", body=unwrap(wrapped_key(provider="hr"))),
    "of another scope": Mutation("scope_mismatch", body=unwrap(wrapped_key(scope="cluster-b"))),
}

PREVIOUS = wrapped_key(primary_key_id=PREVIOUS_ID)
AFTER_ROTATION = put("key_provider", "finance", rotated())
AFTER_COMPROMISE = put("key_provider", "finance", rotated(compromised=True))


def rewrap(data: bytes) -> Callable[[Host], bytes]:
    return lambda host: host.rewrap_body(data)


def rewrapping(code: str, **row: Any) -> Mutation:
    """A request to wrap again what the provider wrapped before its rotation; good but for `row`."""
    values = {"prepare": AFTER_ROTATION, "body": rewrap(PREVIOUS), "query": "?action=rewrap", **row}
    return Mutation(code, **values)


# What differs from unwrapping; all rows above hold for every action (test_authorization.py).
REWRAP: dict[str, Mutation] = {
    "without a rotation": rewrapping("primary_key_unavailable", prepare=None),
    "under a compromised primary key": rewrapping("primary_key_compromised", prepare=AFTER_COMPROMISE),
    "kept as an earlier primary key wrapped it": rewrapping(
        "primary_key_previous",
        body=lambda host: host.unwrap_body(PREVIOUS, keep=True),
        query="?action=unwrap",
    ),
    "under an unknown primary key": rewrapping(
        "primary_key_unavailable", body=rewrap(wrapped_key(primary_key_id="7"))
    ),
    "of another scope": rewrapping(
        "scope_mismatch", body=rewrap(wrapped_key(primary_key_id=PREVIOUS_ID, scope="cluster-b"))
    ),
    "of another provider": rewrapping(
        "wrapped_key_invalid", body=rewrap(wrapped_key(primary_key_id=PREVIOUS_ID, provider="hr"))
    ),
    "cut": rewrapping("wrapped_key_invalid", body=rewrap(PREVIOUS[:-1])),
    "unwrap's action in capitals": rewrapping("malformed_request", query="?action=Rewrap", known=False),
    "with unwrap beside it": rewrapping(
        "malformed_request", query="?action=rewrap&action=unwrap", known=False
    ),
    "create's body": rewrapping("malformed_request", body=lambda host: host.create_body()),
    "another key to seal to": rewrapping(
        "proof_mismatch",
        body=lambda host: replace_key(host, SealingKey.generate(host.suite)).rewrap_body(PREVIOUS),
    ),
    "body exchanged": rewrapping("proof_mismatch", sent=b"{}"),
    "stolen token": rewrapping("proof_mismatch", proof=stolen),
    "ended token": rewrapping("token_expired", claims={"exp": NOW - 1}, known=False),
    "provider not of the scope": rewrapping(
        "provider_denied", prepare=put("scope", "cluster-a", scope(providers=["hr"]))
    ),
}

USAGE_PATH = PATH.replace("/keys", "/usage")
REPORT = b'{"version":1,"keys":{"1001":3,"900":1}}'


def reporting(code: str, **row: Any) -> Mutation:
    """A usage report, good but for `row`."""
    values = {
        "prepare": AFTER_ROTATION,
        "body": lambda _host: REPORT,
        "path": USAGE_PATH,
        "query": "",
        "proof": url(f"https://ta1{USAGE_PATH}"),
        **row,
    }
    return Mutation(code, **values)


USAGE: dict[str, Mutation] = {
    "no token": reporting("token_invalid", known=False, headers=lambda _token, proof: [("DPoP", proof)]),
    "ended token": reporting("token_expired", known=False, claims={"exp": NOW - 1}),
    "token of another cluster": reporting("token_audience", known=False, claims={"aud": "group-2"}),
    "proof for the keys": reporting("proof_mismatch", proof=url(URL)),
    "stolen token": reporting("proof_mismatch", proof=stolen),
    "body exchanged": reporting("proof_mismatch", sent=b'{"version":1,"keys":{}}'),
    "denied host": reporting("host_denied", prepare=put("denied_host", "host1", denied("host1"))),
    "provider that is not there": reporting("provider_unknown", prepare=put("key_provider", "finance", None)),
    "provider not of the scope": reporting(
        "provider_denied", prepare=put("scope", "cluster-a", scope(providers=["hr"]))
    ),
    "not JSON": reporting("malformed_request", body=lambda _host: b"keys"),
    "a negative count": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{"1001":-1}}'
    ),
    "a number that was never answered": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{},"known":-1}'
    ),
    "a number beyond all": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{},"known":9007199254740992}'
    ),
    "a count that is none": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{"1001":"3"}}'
    ),
    "a primary key twice": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{"a":1,"a":0}}'
    ),
    "for another host": reporting(
        "malformed_request", body=lambda _host: b'{"version":1,"keys":{},"host":"host2"}'
    ),
    "too many primary keys": reporting(
        "malformed_request",
        body=lambda _host: msgspec.json.encode({"version": 1, "keys": {str(i): 1 for i in range(65)}}),
    ),
    "too large": reporting("request_too_large", known=False, sent=b"x" * (64 * 1024 + 1)),
}


def key_servers_say(key_id: str, refusal: Refusal) -> Callable[[Service], None]:
    """After a rotation: all key servers say this of one primary key."""

    def change(service: Service) -> None:
        AFTER_ROTATION(service)
        for server in service.servers:
            server.refusals[key_id] = refusal

    return change


def deactivated(service: Service) -> None:
    AFTER_ROTATION(service)
    for server in service.servers:
        server.states[KEY_ID] = "DEACTIVATED"


KMS = KeyServer("kms1", "127.0.0.1", 5696)

# Token and proof are good: these are found out with the key at hand, so a key server may have been asked.
OPENED: dict[str, Mutation] = {
    "label with a line break": Mutation(
        "malformed_request", query="?action=create", body=lambda host: host.create_body("a\nb")
    ),
    "label empty": Mutation(
        "malformed_request", query="?action=create", body=lambda host: host.create_body("")
    ),
    "label of 256 characters": Mutation(
        "malformed_request", query="?action=create", body=lambda host: host.create_body("x" * 256)
    ),
    "tag changed": Mutation("wrapped_key_invalid", body=unwrap(wrapped_key()[:-1] + b"\0")),
    "salt changed": Mutation(
        "wrapped_key_invalid", body=unwrap(wrapped_key().replace(bytes(32), b"\1" + bytes(31)))
    ),
    "key server says that its key is not active": Mutation(
        "primary_key_state", prepare=servers(Refusal("primary_key_state", "PRE_ACTIVE"))
    ),
    "no key server answers": Mutation(
        "key_server_unreachable",
        prepare=servers(Unavailable("key_server_unreachable", "down")),
    ),
    "key server gives another key": Mutation("primary_key_mismatch", prepare=other_key),
    "key server has no such key": Mutation(
        "key_missing", prepare=servers(KeyServerRefusal(KMS, "ITEM_NOT_FOUND", "no such object"))
    ),
    "key server says that its key is compromised": Mutation(
        "key_compromised", prepare=servers(Refusal("key_compromised", "COMPROMISED"))
    ),
    "key server says that its key is destroyed": Mutation(
        "key_destroyed", prepare=servers(KeyServerRefusal(KMS, "OBJECT_DESTROYED", "gone"))
    ),
    "a new key under a deactivated one": Mutation(
        "key_deactivated", query="?action=create", body=lambda h: h.create_body(), prepare=deactivated
    ),
    "rewrapped under a deactivated one": rewrapping("key_deactivated", prepare=deactivated),
    "rewrapped, but the earlier key is compromised": rewrapping(
        "key_compromised", prepare=key_servers_say(PREVIOUS_ID, Refusal("key_compromised", "COMPROMISED"))
    ),
    "rewrapped, but the earlier key is gone": rewrapping(
        "key_missing", prepare=key_servers_say(PREVIOUS_ID, KeyServerRefusal(KMS, "ITEM_NOT_FOUND", "no"))
    ),
    "rewrapped, but no server has the key of now": rewrapping(
        "key_missing", prepare=key_servers_say(KEY_ID, KeyServerRefusal(KMS, "ITEM_NOT_FOUND", "no"))
    ),
    "rewrapped with a changed tag": rewrapping(
        "wrapped_key_invalid", body=rewrap(PREVIOUS[:-1] + bytes([PREVIOUS[-1] ^ 1]))
    ),
    "of an earlier primary key by its name only": Mutation(
        "wrapped_key_invalid",
        prepare=AFTER_ROTATION,
        body=unwrap(wrapped_key().replace(b"\0\x041001", b"\0\x03900")),
    ),
    "object label changed": Mutation(
        "wrapped_key_invalid", body=unwrap(wrapped_key().replace(b"machine 1", b"machine 2"))
    ),
}

# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision whether a host may have a key: one row for each way to be refused, in the steps' order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from services.key_provider.harness import (
    EK,
    KEY_ID,
    NOW,
    PREVIOUS_ID,
    URL,
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

from trusted_infrastructure import messages
from trusted_infrastructure.key_provider.authorization import (
    Action,
    Authorization,
    KeyRequest,
    Knowledge,
    ReportAuthorization,
    authenticate,
    authorize,
    authorize_report,
)
from trusted_infrastructure.messages import KeyUsageReport
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SUITES, SealingKey
from trusted_infrastructure.tokens import Confirmation, SealingTarget


@dataclass
class Case:
    """One request, and the state of the side that judges it. A row changes one thing and must be refused."""

    authority: Authority = field(default_factory=Authority)
    now: int = NOW
    action: Action = "unwrap"
    risen: dict[int, int] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    url: str = URL
    provider: str = "finance"
    body: Callable[[Host], bytes] | None = None
    proof: Callable[[Host, str, bytes], str] | None = None
    sent_body: bytes | None = None
    token: Callable[[Host], str] | None = None

    def __post_init__(self) -> None:
        self.host = Host(self.authority)

    def knowledge(self) -> Knowledge:
        return Knowledge(
            self.authority.snapshot(), self.authority.keys(), self.authority.issuers(), self.risen.get
        )

    def request(self) -> KeyRequest:
        token = self.token(self.host) if self.token else self.host.token(**self.claims)
        body = self.body(self.host) if self.body else self._body()
        proof = self.proof(self.host, token, body) if self.proof else self.host.proof(token, body)
        return KeyRequest(
            provider=self.provider,
            method="POST",
            url=self.url,
            body=self.sent_body if self.sent_body is not None else body,
            token=token,
            proof=proof,
            action=self.action,
        )

    def _body(self) -> bytes:
        bodies: dict[Action, Callable[[], bytes]] = {
            "create": self.host.create_body,
            "unwrap": lambda: self.host.unwrap_body(wrapped_key()),
            "rewrap": lambda: self.host.rewrap_body(wrapped_key()),
            "usage": lambda: self.host.usage_body(_1001=2),
        }
        return bodies[self.action]()

    def run(self) -> Authorization:
        request, knowledge = self.request(), self.knowledge()
        return authorize(request, authenticate(request, knowledge, self.now), knowledge, self.now)

    def report(self) -> ReportAuthorization:
        request, knowledge = self.request(), self.knowledge()
        return authorize_report(request, authenticate(request, knowledge, self.now), knowledge, self.now)


def with_document(kind: str, document_id: str, content: Any, **case: Any) -> Case:
    made = Case(**case)
    made.authority.put(kind, document_id, content)
    return made


def other_issuer() -> Case:
    case = Case()
    case.claims = {"iss": "attestation@ta2"}
    return case


def unknown_signer() -> Case:
    case = Case()
    stranger = Authority(attestation=AttestationKey())
    case.token = lambda _host: Host(stranger).token()
    return case


def stolen_token() -> Case:
    """The token of one host, shown by another with a proof of its own key."""
    case = Case()
    thief = ec.generate_private_key(ec.SECP256R1())
    case.proof = lambda host, token, body: replace(host, proof_key=thief).proof(token, body)
    return case


def other_key_to_seal_to() -> Case:
    case = Case()

    def body(host: Host) -> bytes:
        host.sealing_key = SealingKey.generate(host.suite)
        return host.unwrap_body(wrapped_key())

    case.body = body
    return case


def weak_suite(suite: str, minimum: str) -> Case:
    case = with_document("trust_authority_cluster", "cluster", cluster(hpke_suite=minimum))
    case.host = Host(case.authority, suite=suite)
    return case


def unwrap(data: bytes) -> Callable[[Host], bytes]:
    return lambda host: host.unwrap_body(data)


CLUSTER = ("trust_authority_cluster", "cluster")
REFUSED: dict[str, tuple[Case, str, str]] = {
    # 1
    "no cluster": (with_document(*CLUSTER, None), "configuration_unavailable", "no enabled"),
    "disabled": (with_document(*CLUSTER, cluster(state="DISABLE")), "configuration_unavailable", "enabled"),
    # 2
    "unknown signer": (unknown_signer(), "token_invalid", "no known attestation service"),
    "in another's name": (other_issuer(), "token_invalid", "does not belong to issuer"),
    "no token": (Case(token=lambda _host: "nonsense"), "token_invalid", "compact JWS"),
    "a proof as token": (Case(token=lambda h: h.proof("t", b"")), "token_invalid", "expected typ"),
    "changed token": (Case(token=lambda h: h.token()[:-4] + "AAAA"), "token_invalid", "signature"),
    "expired": (Case(now=NOW + 3000), "token_expired", "ended 0 s ago"),
    "not yet valid": (Case(claims={"nbf": NOW + 61}), "token_invalid", "not valid yet"),
    "lives too long": (Case(claims={"iat": NOW - 1, "exp": NOW + 86400}), "token_invalid", "more than"),
    "another group": (Case(claims={"aud": "group-2"}), "token_audience", "'group-1'"),
    # 3
    "old generation": (
        Case(risen={2: NOW - 61}, claims={"security_generation": 2}),
        "token_security_generation",
        "generation 2; trust was withdrawn since, and now it is 3",
    ),
    # 4
    "host denied": (with_document("denied_host", "d", denied("host1")), "host_denied", "host1"),
    "EK denied": (with_document("denied_host", "d", denied("host9", EK)), "host_denied", "removed"),
    # 5
    "no scope": (with_document("scope", "cluster-a", None), "scope_unknown", "'cluster-a'"),
    "another's scope": (
        with_document("scope", "cluster-a", scope(principal="https://wm2")),
        "scope_unknown",
        "https://wm",
    ),
    "principal gone": (with_document("consumer_principal", "principal-1", None), "principal_unknown", "wm"),
    "another principal": (
        with_document("consumer_principal", "principal-1", principal("https://wm2")),
        "principal_unknown",
        "https://wm",
    ),
    # 6
    "no provider": (with_document("key_provider", "finance", None), "provider_unknown", "'finance'"),
    "provider not allowed": (
        with_document("scope", "cluster-a", scope(providers=["hr"])),
        "provider_denied",
        "may not use provider 'finance'",
    ),
    "no provider allowed": (
        with_document("scope", "cluster-a", scope(providers=[])),
        "provider_denied",
        "finance",
    ),
    # 7
    "no user space coverage": (
        with_document(
            "key_provider",
            "finance",
            provider(required_userspace="verity"),
            claims={"userspace": "none"},
        ),
        "userspace_required",
        "requires user space coverage 'verity'; base image 'image-1' states 'none'",
    ),
    "another coverage": (
        with_document("key_provider", "finance", provider(required_userspace="ima")),
        "userspace_required",
        "'ima'",
    ),
    # 8
    "stolen token": (stolen_token(), "proof_mismatch", "not the one that the token is bound to"),
    "no proof": (Case(proof=lambda *_all: "nonsense"), "proof_invalid", "compact JWS"),
    "a token as proof": (Case(proof=lambda _h, token, _b: token), "proof_invalid", "expected typ"),
    "proof for another address": (
        Case(proof=lambda h, t, b: h.proof(t, b, url="https://ta2/kms/v1/providers/finance/keys")),
        "proof_mismatch",
        "htu",
    ),
    "proof for another provider": (
        Case(proof=lambda h, t, b: h.proof(t, b, url="https://ta1/kms/v1/providers/hr/keys")),
        "proof_mismatch",
        "htu",
    ),
    "proof for another method": (
        Case(proof=lambda h, t, b: h.proof(t, b, method="GET")),
        "proof_mismatch",
        "htm",
    ),
    "proof for another token": (
        Case(proof=lambda h, _t, b: h.proof(h.token(), b)),
        "proof_mismatch",
        "ath",
    ),
    "proof for another body": (
        Case(proof=lambda h, t, _b: h.proof(t, b"{}")),
        "proof_mismatch",
        "body",
    ),
    "old proof": (Case(proof=lambda h, t, b: h.proof(t, b, now=NOW - 61)), "proof_expired", "61 s ago"),
    "future proof": (Case(proof=lambda h, t, b: h.proof(t, b, now=NOW + 61)), "proof_expired", "-61 s"),
    # between 8 and 9: what an attested host sends must still be a request
    "not JSON": (Case(body=lambda _h: b"\xff{"), "malformed_request", "body"),
    "no key to seal to": (
        Case(body=lambda _h: b'{"version":1,"wrapped_key":"AAAA"}'),
        "malformed_request",
        "hpke_public_key",
    ),
    "unknown field": (
        Case(body=lambda _h: b'{"version":1,"wrapped_key":"AAAA","hpke_public_key":"AA==","more":1}'),
        "malformed_request",
        "more",
    ),
    "another version": (
        Case(body=lambda _h: b'{"version":2,"wrapped_key":"AAAA","hpke_public_key":"AA=="}'),
        "malformed_request",
        "version",
    ),
    "create as unwrap": (Case(body=lambda h: h.create_body()), "malformed_request", "object_label"),
    "unwrap as create": (
        Case(action="create", body=lambda h: h.unwrap_body(wrapped_key())),
        "malformed_request",
        "wrapped_key",
    ),
    # 9
    "another key to seal to": (other_key_to_seal_to(), "proof_mismatch", "hpke_public_key"),
    "classical where hybrid is asked": (
        weak_suite("X25519", "MLKEM768_X25519"),
        "token_invalid",
        "sealed with MLKEM768_X25519 or stronger; the token has 'X25519'",
    ),
    "weaker hybrid": (weak_suite("MLKEM768_X25519", "MLKEM1024_P384"), "token_invalid", "MLKEM1024_P384"),
    "unknown suite": (
        Case(claims={"hpke": SealingTarget("ROT13", hashlib.sha256(b"").hexdigest())}),
        "token_invalid",
        "ROT13",
    ),
    "unknown minimum": (weak_suite("MLKEM1024_P384", "MLKEM2048"), "token_invalid", "MLKEM2048"),
    # 10
    "no wrapped key": (Case(body=unwrap(b"TIWK")), "wrapped_key_invalid", "ends after 4 bytes"),
    "of another provider": (
        Case(body=unwrap(wrapped_key(provider="hr"))),
        "wrapped_key_invalid",
        "of provider 'hr', not 'finance'",
    ),
    "of another scope": (
        Case(body=unwrap(wrapped_key(scope="cluster-b"))),
        "scope_mismatch",
        "of scope 'cluster-b'; the host is of scope 'cluster-a'",
    ),
    "of another primary key": (
        Case(body=unwrap(wrapped_key(primary_key_id="7"))),
        "primary_key_unavailable",
        "needs primary key '7'; provider 'finance' has '1001'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    case, code, words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        case.run()
    assert (refused.value.code, words in str(refused.value)) == (code, True), str(refused.value)
    assert 400 <= refused.value.status < 600
    assert refused.value.status != 500


@pytest.mark.parametrize("action", ["create", "rewrap"])
@pytest.mark.parametrize("name", [name for name, (case, _code, _words) in REFUSED.items() if not case.body])
def test_every_action_passes_the_same_steps(name: str, action: Action) -> None:
    case, code, _words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        replaced(case, action).run()
    assert refused.value.code == code


OF_STEP_9 = {"classical where hybrid is asked", "weaker hybrid", "unknown suite", "unknown minimum"}


@pytest.mark.parametrize(
    "name",
    [name for name, (case, _code, _words) in REFUSED.items() if not case.body and name not in OF_STEP_9],
)
def test_a_usage_report_passes_steps_1_to_8(name: str) -> None:
    case, code, _words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        replaced(case, "usage").report()
    assert refused.value.code == code


def replaced(case: Case, action: Action) -> Case:
    """The same case with another action, and its own host."""
    made, host = replace(case, action=action), case.host
    made.host = host
    return made


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"version":1}', "keys"),
        (b'{"version":1,"keys":{"1001":1},"more":1}', "more"),
        (b'{"version":1,"keys":{"1001":-1}}', "-1"),
        (b'{"version":1,"keys":{"1001":2147483648}}', "2147483648"),
        (b'{"version":1,"keys":{"1001":1.5}}', "keys"),
        (b'{"version":1,"keys":{"1001":true}}', "keys"),
        (b'{"version":1,"keys":{"":1}}', "no id"),
        (b'{"version":1,"keys":{"a\\nb":1}}', "no id"),
        (b'{"version":1,"keys":{"' + b"a" * 256 + b'":1}}', "no id"),
        (messages.encode(KeyUsageReport(keys={str(number): 1 for number in range(65)})), "65 primary keys"),
    ],
)
def test_reports_that_are_none(body: bytes, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        Case(action="usage", body=lambda _host: body).report()
    assert refused.value.code == "malformed_request"
    assert words in refused.value.message


@pytest.mark.parametrize("action", ["create", "unwrap", "rewrap"])
def test_allowed(action: Action) -> None:
    found = Case(action=action).run()
    assert found.claims.sub == "host1"
    assert found.object_label == "machine 1"
    assert (found.wrapped is None) is (action == "create")
    assert found.opened_with == (None if action == "create" else KEY_ID)
    assert found.max_age == 86400


@pytest.mark.parametrize(
    ("action", "key_id", "compromised", "opened_with", "wraps"),
    [
        ("create", KEY_ID, False, None, True),
        ("create", KEY_ID, True, None, True),
        ("unwrap", KEY_ID, False, KEY_ID, False),
        ("unwrap", PREVIOUS_ID, False, PREVIOUS_ID, False),
        ("unwrap", PREVIOUS_ID, True, PREVIOUS_ID, False),
        ("rewrap", KEY_ID, False, KEY_ID, False),
        ("rewrap", KEY_ID, True, KEY_ID, False),
        ("rewrap", PREVIOUS_ID, False, PREVIOUS_ID, True),
    ],
)
def test_primary_keys_of_a_rotation(
    action: Action, key_id: str, compromised: bool, opened_with: str | None, wraps: bool
) -> None:
    """Which key opens, and whether the one of now wraps."""
    found = during_rotation(action, key_id, compromised).run()
    assert (found.opened_with, found.wraps) == (opened_with, wraps)
    assert found.provider.master_key_id == KEY_ID


@pytest.mark.parametrize(
    ("action", "key_id", "code"),
    [
        ("rewrap", PREVIOUS_ID, "primary_key_compromised"),
        ("rewrap", "7", "primary_key_unavailable"),
        ("unwrap", "7", "primary_key_unavailable"),
    ],
)
def test_primary_keys_that_are_refused(action: Action, key_id: str, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        during_rotation(action, key_id, compromised=True).run()
    assert refused.value.code == code
    # A host whose configuration is older than the wrapped key must not end the search for one that knows it.
    assert refused.value.status == (503 if code == "primary_key_unavailable" else 409)


def during_rotation(action: Action, key_id: str, compromised: bool) -> Case:
    case = with_document("key_provider", "finance", rotated(compromised=compromised), action=action)
    if action != "create":
        case.body = lambda host: getattr(host, f"{action}_body")(wrapped_key(primary_key_id=key_id))
    return case


ALLOWED: dict[str, Case] = {
    "all providers": with_document("scope", "cluster-a", scope(providers=["*"])),
    "coverage as required": with_document("key_provider", "finance", provider(required_userspace="verity")),
    "within the grace period": Case(risen={2: NOW - 60}, claims={"security_generation": 2}),
    "judged under a newer generation": Case(claims={"security_generation": 9}),
    "another host denied": with_document("denied_host", "d", denied()),
    "stronger than the minimum": weak_suite("MLKEM1024_P384", "MLKEM768_X25519"),
    "classical where that will do": weak_suite("P256", "X25519"),
    "the last second": Case(now=NOW + 2999, proof=lambda h, t, b: h.proof(t, b, now=NOW + 2999)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_at_the_edge(name: str) -> None:
    ALLOWED[name].run()


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_is_as_strong_as_itself(suite: str) -> None:
    weak_suite(suite, suite).run()


def test_the_most_restrictive_refusal_comes_first() -> None:
    """A denied host that asks with a bad proof for a provider that is not there learns that it is denied."""
    case = with_document("denied_host", "d", denied("host1"))
    case.authority.put("key_provider", "finance", None)
    case.proof = lambda *_all: "nonsense"
    with pytest.raises(Refusal) as refused:
        case.run()
    assert refused.value.code == "host_denied"


def test_no_refusal_shows_token_or_proof() -> None:
    for case, _code, _words in REFUSED.values():
        request = case.request()
        with pytest.raises(Refusal) as refused:
            authorize(request, authenticate(request, case.knowledge(), case.now), case.knowledge(), case.now)
        for secret in (request.token, request.proof):
            assert len(secret) < 16 or secret not in str(refused.value)


def test_confirmation_is_the_thumbprint() -> None:
    case = Case(claims={"cnf": Confirmation("AAAA")})
    with pytest.raises(Refusal) as refused:
        case.run()
    assert refused.value.code == "proof_mismatch"

# SPDX-License-Identifier: GPL-3.0-or-later
"""Key requests: which answers are not opened, when another service is asked, when this host attests again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from services.host.software_host import SoftwareHost
from services.host.trust_authority import GROUP, PROVIDER, SCOPE, TrustAuthorityHost
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure import wrapping
from trusted_infrastructure.host.key_encryption_keys import KeyEncryptionKey
from trusted_infrastructure.messages import KeyAnswer
from trusted_infrastructure.refusal import Refusal, Unavailable

LABEL = "vm-1"


@pytest.fixture
def host(tmp_path: Path) -> SoftwareHost:
    host = SoftwareHost(tmp_path)
    asyncio.run(host.agent.attest())
    assert host.state() == ("ATTESTED", None)
    for service in host.services:
        service.calls.clear()
    return host


@pytest.fixture
def single(host: SoftwareHost) -> TrustAuthorityHost:
    """The only key provider service of the host."""
    host.publish({("kms_service", "kms-ta2"): None})
    asyncio.run(host.agent.refresh())
    return host.services[0]


def create(host: SoftwareHost, provider: str = PROVIDER) -> KeyEncryptionKey:
    return asyncio.run(host.agent.keys.create(provider, LABEL))


def unwrap(host: SoftwareHost, wrapped_key: bytes, provider: str = PROVIDER) -> KeyEncryptionKey:
    return asyncio.run(host.agent.keys.unwrap(provider, wrapped_key))


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code


def test_a_key_is_made_and_comes_back_from_its_wrapped_form(host: SoftwareHost) -> None:
    made = create(host)
    header = wrapping.parse(made.wrapped_key).header
    assert (header.provider, header.scope, header.object_label) == (PROVIDER, SCOPE, LABEL)
    again = unwrap(host, made.wrapped_key)
    assert (again.key, again.kek_id) == (made.key, made.kek_id)
    assert bytes(made.key) == host.services[0].unwrapped[0]


def test_the_key_is_wiped_at_the_end_of_its_use(host: SoftwareHost) -> None:
    with create(host) as made:
        assert any(made.key)
    assert made.key == bytearray(32)


def test_a_key_is_not_in_representations(host: SoftwareHost) -> None:
    made = create(host)
    assert bytes(made.key).hex() not in repr(made)
    assert repr(bytes(made.key)) not in repr(made)
    session = host.agent.session(GROUP)
    assert session.token not in repr(session)


# ---- answers that are not opened ----------------------------------------------------------------------


def change(**fields: Any) -> Callable[[KeyAnswer, bytes], KeyAnswer]:
    return lambda answer, _request: msgspec.structs.replace(answer, **fields)


def _flip(answer: KeyAnswer, field: str) -> KeyAnswer:
    value = bytearray(getattr(answer, field))
    value[-1] ^= 1
    return msgspec.structs.replace(answer, **{field: bytes(value)})


ANSWERS: dict[str, tuple[Callable[[KeyAnswer, bytes], KeyAnswer], str]] = {
    "no signature": (change(signature=b""), "answer_invalid"),
    "zero signature": (change(signature=bytes(64)), "answer_invalid"),
    "signature changed": (lambda answer, _request: _flip(answer, "signature"), "answer_invalid"),
    "sealed key changed": (lambda answer, _request: _flip(answer, "sealed_key"), "answer_invalid"),
    "wrapped key changed": (lambda answer, _request: _flip(answer, "wrapped_key"), "answer_invalid"),
    "wrapped key left out": (change(wrapped_key=None), "answer_invalid"),
    "another KEK id": (change(kek_id="another"), "answer_invalid"),
    "another service's name": (change(service_id="key-provider@ta2"), "answer_invalid"),
    "a key that is not published": (change(key_id="x" * 43), "response_key_unknown"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_was_changed_is_not_opened(
    host: SoftwareHost, single: TrustAuthorityHost, name: str
) -> None:
    single.change_answer, reason = ANSWERS[name]
    assert refused(lambda: create(host)) == reason


HEADERS: dict[str, Callable[[wrapping.WrappedKeyHeader], wrapping.WrappedKeyHeader]] = {
    "another provider": lambda header: replace(header, provider="hr"),
    "another scope": lambda header: replace(header, scope="scope-2"),
    "another object": lambda header: replace(header, object_label="vm-2"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_signed_answer_for_something_else_is_not_taken(
    host: SoftwareHost, single: TrustAuthorityHost, name: str
) -> None:
    single.change_wrapping = HEADERS[name]
    assert refused(lambda: create(host)) == "answer_invalid"


def test_a_signed_answer_with_another_kek_than_asked_for_is_not_taken(
    host: SoftwareHost, single: TrustAuthorityHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = create(host), create(host)
    answer_of = single._answer

    def swap(action: str, provider: str, body: bytes, claims: Any, jti: str) -> KeyAnswer:
        answer = answer_of(action, provider, body, claims, jti)
        return single.signed(msgspec.structs.replace(answer, kek_id=second.kek_id), body, jti)

    monkeypatch.setattr(single, "_answer", swap)
    assert refused(lambda: unwrap(host, first.wrapped_key)) == "answer_invalid"


def test_a_signed_answer_in_another_services_name_is_not_taken(
    host: SoftwareHost, single: TrustAuthorityHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_of = single._answer

    def rename(action: str, provider: str, body: bytes, claims: Any, jti: str) -> KeyAnswer:
        answer = answer_of(action, provider, body, claims, jti)
        return single.signed(msgspec.structs.replace(answer, service_id="key-provider@ta2"), body, jti)

    monkeypatch.setattr(single, "_answer", rename)
    assert refused(lambda: create(host)) == "answer_invalid"


def test_an_answer_to_another_request_is_not_taken(host: SoftwareHost, single: TrustAuthorityHost) -> None:
    made = create(host)
    kept: list[KeyAnswer] = []

    def replay(answer: KeyAnswer, _request: bytes) -> KeyAnswer:
        kept.append(answer)
        return kept[0]

    single.change_answer = replay
    unwrap(host, made.wrapped_key)
    assert refused(lambda: unwrap(host, made.wrapped_key)) == "answer_invalid"


def test_a_key_sealed_in_another_context_does_not_open(
    host: SoftwareHost, single: TrustAuthorityHost
) -> None:
    single.change_context = lambda context: context + b"x"
    assert refused(lambda: create(host)) == "sealed_value_invalid"


def test_a_key_of_another_size_is_not_taken(host: SoftwareHost, single: TrustAuthorityHost) -> None:
    single.change_kek = lambda kek: kek[:16]
    assert refused(lambda: create(host)) == "answer_invalid"


def test_an_answer_without_the_wrapped_key_of_a_new_key_is_not_taken(
    host: SoftwareHost, single: TrustAuthorityHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_of = single._answer

    def without(action: str, provider: str, body: bytes, claims: Any, jti: str) -> KeyAnswer:
        answer = msgspec.structs.replace(answer_of(action, provider, body, claims, jti), wrapped_key=None)
        return single.signed(answer, body, jti)

    monkeypatch.setattr(single, "_answer", without)
    assert refused(lambda: create(host)) == "answer_invalid"


IDENTITIES: dict[str, tuple[Callable[[TrustAuthorityHost], tuple[bytes, str]], str]] = {
    "another CA": (
        lambda _service: SideAuthority().leaf("key-provider-service", "ta1"),
        "certificate_invalid",
    ),
    "another role": (
        lambda service: service.authority.leaf("attestation-service", "ta1"),
        "certificate_invalid",
    ),
    "an agent of the other side": (
        lambda service: service.authority.leaf("agent", "host2", side="workload"),
        "certificate_invalid",
    ),
    "another host": (
        lambda service: service.authority.leaf("key-provider-service", "ta9"),
        "key_set_invalid",
    ),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_answer_counts_only_up_to_the_anchor(
    host: SoftwareHost, single: TrustAuthorityHost, name: str
) -> None:
    identity, reason = IDENTITIES[name]
    single.identities["key-provider-service"] = identity(single)
    assert refused(lambda: create(host)) == reason


@pytest.mark.parametrize("wrapped_key", [b"", b"TIWK", b"x" * 200, b"x" * 10_000], ids=len)
def test_what_is_no_wrapped_key_is_not_sent(host: SoftwareHost, wrapped_key: bytes) -> None:
    assert refused(lambda: unwrap(host, wrapped_key)) == "wrapped_key_invalid"
    assert host.services[0].calls == []


# ---- rotation, failover, attesting again --------------------------------------------------------------


def test_a_rotated_response_key_is_read_again(host: SoftwareHost, single: TrustAuthorityHost) -> None:
    create(host)
    single.response_key = ec.generate_private_key(ec.SECP256R1())
    single.published["key-provider-service"].append(single.response_key.public_key())
    assert refused(lambda: create(host)) == "response_key_unknown"  # read a moment ago
    host.clock.now += 11
    create(host)
    assert single.calls.count("response keys") == 2


def test_made_up_key_ids_do_not_cause_a_request_each(host: SoftwareHost, single: TrustAuthorityHost) -> None:
    single.change_answer = change(key_id="x" * 43)
    for _attempt in range(5):
        refused(lambda: create(host))
    assert single.calls.count("response keys") == 1


def test_a_service_that_is_away_is_skipped_and_remembered(host: SoftwareHost) -> None:
    host.services[0].away = True
    create(host)
    create(host)
    assert [service.calls.count("create") for service in host.services] == [0, 2]
    host.services[0].away = False
    create(host)
    assert [service.calls.count("create") for service in host.services] == [0, 3]


FAULTS = [
    Unavailable("key_server_unreachable", "no key server answers"),
    Unavailable("primary_key_unavailable", "not read yet"),
    Refusal("rate_limited", "wait", status=429),
    Refusal("internal_error", "incident", status=500),
    Refusal("token_invalid", "unknown key", status=401),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_a_fault_of_one_service_is_not_the_end(host: SoftwareHost, fault: Refusal) -> None:
    host.services[0].refuse_key = fault
    create(host)
    assert [service.calls.count("create") for service in host.services] == [1, 1]


@pytest.mark.parametrize("fault", FAULTS[:4], ids=lambda fault: fault.code)
def test_a_fault_of_every_service_is_passed_on(host: SoftwareHost, fault: Refusal) -> None:
    for service in host.services:
        service.refuse_key = fault
    assert refused(lambda: create(host)) == fault.code
    assert host.state() == ("ATTESTED", None)


def test_an_answer_that_was_tampered_with_on_the_way_is_fetched_elsewhere(host: SoftwareHost) -> None:
    host.services[0].change_answer = change(signature=bytes(64))
    create(host)
    assert host.services[1].calls.count("create") == 1


DECISIONS = ["provider_denied", "provider_unknown", "scope_mismatch", "userspace_required", "proof_mismatch"]


@pytest.mark.parametrize("code", DECISIONS)
def test_a_decision_is_not_taken_elsewhere(host: SoftwareHost, code: str) -> None:
    host.services[0].refuse_key = Refusal(code, "no")
    assert refused(lambda: create(host)) == code
    assert host.services[1].calls == []


def test_a_denied_host_drops_its_tokens_and_keys(host: SoftwareHost) -> None:
    host.services[0].refuse_key = Refusal("host_denied", "removed")
    assert refused(lambda: create(host)) == "host_denied"
    assert host.agent.attestations.latest(NOW) is None
    assert host.state() == ("FAILED", "host_denied")
    assert refused(lambda: create(host)) == "not_attested"


@pytest.mark.parametrize("code", ["token_security_generation", "token_expired"])
def test_a_token_that_is_out_of_date_is_renewed_once(host: SoftwareHost, code: str) -> None:
    first = host.services[0]
    first.refuse_key = Refusal(code, "attest again", status=401)
    judge = first.judge

    def accept_afterwards(request: Any, evidence: Any, expected: bytes) -> None:
        judge(request, evidence, expected)
        first.refuse_key = None

    first.judge = accept_afterwards
    create(host)
    assert first.calls.count("evidence") == 1
    assert first.calls.count("create") == 2


def test_a_token_that_stays_out_of_date_is_renewed_only_once(host: SoftwareHost) -> None:
    host.services[0].refuse_key = Refusal("token_security_generation", "attest again", status=401)
    assert refused(lambda: create(host)) == "token_security_generation"
    assert host.services[0].calls.count("evidence") == 1
    assert host.services[0].calls.count("create") == 2


def test_without_a_token_nothing_is_sent(host: SoftwareHost) -> None:
    host.clock.now += 3600
    assert refused(lambda: create(host)) == "not_attested"
    assert host.services[0].calls == []


def test_a_token_of_another_group_is_not_shown(host: SoftwareHost) -> None:
    other = msgspec.structs.replace(host.registered("ta1"), group="group-2")
    host.publish(
        {
            ("kms_service", "kms-ta1"): other,
            ("kms_service", "kms-ta2"): None,
            ("trusted_key_provider", PROVIDER): None,
        }
    )
    asyncio.run(host.agent.refresh())
    assert refused(lambda: create(host)) == "not_attested"
    assert host.services[0].calls == []


def test_without_a_registered_service_the_configuration_is_named(host: SoftwareHost) -> None:
    host.publish({("kms_service", "kms-ta1"): None, ("kms_service", "kms-ta2"): None})
    asyncio.run(host.agent.refresh())
    assert refused(lambda: create(host)) == "configuration_unavailable"


def test_a_name_with_special_characters_is_one_path_segment(
    host: SoftwareHost, single: TrustAuthorityHost
) -> None:
    create(host)  # so that the response keys are known
    refused(lambda: create(host, "../a b/keys?x="))
    assert host.network.paths[-1] == "/kms/v1/providers/..%2Fa%20b%2Fkeys%3Fx%3D/keys?action=create"

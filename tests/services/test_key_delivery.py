# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages between workload manager and agent about keys: what is too much, too long or not understood."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from trusted_infrastructure import key_delivery, sealing
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.key_delivery import (
    KeyMessage,
    KeyRequests,
    NativeProviderPush,
    NativeProviderState,
    NativeProviderStates,
    RewrapKeys,
    StandardKeys,
)
from trusted_infrastructure.refusal import InvalidField

INSTANCE = "0" * 32
SEALED = base64.b64encode(b"x" * 100).decode()
KEY = {"provider": "p", "key_id": "1", "sealed_key": SEALED}
NATIVE_KEY = {"key_id": "1", "sealed_key": SEALED, "check_value": "0" * 64}
PUSH = {"instance": INSTANCE, "provider": "p", "key_id": "1", "tpm_required": False, "keys": [NATIVE_KEY]}
LONG = "x" * 256
STATE = {"provider": "p", "key_id": "1", "keys": {"1": "0" * 64}, "state": "AVAILABLE"}
STATE |= {"sealed": True, "tpm_required": False}

GOOD: list[tuple[type[KeyMessage], dict[str, Any]]] = [
    (StandardKeys, {"instance": INSTANCE}),
    (StandardKeys, {"instance": INSTANCE, "keys": [KEY], "answers": [{"id": "a", "key_id": "1"}]}),
    (NativeProviderPush, PUSH),
    (NativeProviderPush, PUSH | {"policy_reference": base64.b64encode(bytes(32)).decode(), "removed": ["2"]}),
    (NativeProviderState, STATE | {"keys": {f"{one:036}": "0" * 64 for one in range(256)}}),
    (RewrapKeys, {}),
    (RewrapKeys, {"provider": "p", "target": "q", "object_ids": ["a"], "replace": True, "dry_run": True}),
]


@pytest.mark.parametrize(("message", "content"), GOOD)
def test_messages(message: type[KeyMessage], content: dict[str, Any]) -> None:
    decode_json(msgspec.json.encode(content), message)


def keys(**changes: Any) -> dict[str, Any]:
    return {"instance": INSTANCE, "keys": [KEY | changes]}


def answers(**changes: Any) -> dict[str, Any]:
    return {"instance": INSTANCE, "answers": [{"id": "a"} | changes]}


def pushed(**changes: Any) -> dict[str, Any]:
    return PUSH | {"keys": [NATIVE_KEY | changes]}


LARGE = base64.b64encode(bytes(4097)).decode()
BAD: dict[str, tuple[type[KeyMessage], dict[str, Any], str]] = {
    "no instance": (StandardKeys, {}, "body"),
    "an instance in capitals": (StandardKeys, {"instance": "A" * 32}, "instance"),
    "an instance with a line end": (StandardKeys, {"instance": INSTANCE + "\n"}, "instance"),
    "an unknown field": (StandardKeys, {"instance": INSTANCE, "key": []}, "body"),
    "too many keys": (StandardKeys, {"instance": INSTANCE, "keys": [KEY] * 257}, "keys"),
    "too many answers": (StandardKeys, {"instance": INSTANCE, "answers": [{"id": "a"}] * 257}, "answers"),
    "an empty provider": (StandardKeys, keys(provider=""), "keys[0].provider"),
    "a long key id": (StandardKeys, keys(key_id=LONG), "keys[0].key_id"),
    "a sealed key that is none": (StandardKeys, keys(sealed_key=""), "keys[0].sealed_key"),
    "a large sealed key": (StandardKeys, keys(sealed_key=LARGE), "keys[0].sealed_key"),
    "a code in capitals": (StandardKeys, answers(code="NO"), "answers[0].code"),
    "a long message": (StandardKeys, answers(message="x" * 2049), "answers[0].message"),
    "no key": (NativeProviderPush, PUSH | {"keys": []}, "keys"),
    "too many previous keys": (NativeProviderPush, PUSH | {"keys": [NATIVE_KEY] * 66}, "keys"),
    "a short reference": (NativeProviderPush, PUSH | {"policy_reference": "AAAA"}, "policy_reference"),
    "too many removed keys": (NativeProviderPush, PUSH | {"removed": ["1"] * 257}, "removed"),
    "a short check value": (NativeProviderPush, pushed(check_value="00"), "keys[0].check_value"),
    "too many native keys": (
        NativeProviderState,
        STATE | {"keys": {str(one): "0" * 64 for one in range(257)}},
        "keys",
    ),
    "too many native providers": (NativeProviderStates, {"providers": [STATE] * 1025}, "providers"),
    "too many objects": (RewrapKeys, {"object_ids": ["a"] * 4097}, "object_ids"),
    "an empty object": (RewrapKeys, {"object_ids": [""]}, "object_ids[0]"),
    "a line end in a target": (RewrapKeys, {"target": "a\n"}, "target"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_messages_name_the_field(name: str) -> None:
    message, content, field = BAD[name]
    with pytest.raises(InvalidField) as caught:
        decode_json(msgspec.json.encode(content), message)
    assert caught.value.field == field


@pytest.mark.parametrize("keys", [{"x" * 37: "0" * 64}, {"": "0" * 64}, {"a\n": "0" * 64}, {"1": "00"}])
def test_what_is_no_native_key_of_a_host(keys: dict[str, str]) -> None:
    with pytest.raises(InvalidField):
        decode_json(msgspec.json.encode(STATE | {"keys": keys}), NativeProviderState)


def test_agents_of_earlier_releases_take_a_push_without_news() -> None:
    push = decode_json(msgspec.json.encode(PUSH), NativeProviderPush)
    assert msgspec.json.decode(msgspec.json.encode(push)).keys() == PUSH.keys()


@pytest.mark.parametrize("suite", sealing.SUITES)
def test_keys_of_every_suite_fit(suite: str) -> None:
    key = sealing.SealingKey.generate(suite)
    sealed = sealing.seal(suite, key.public_bytes(), bytes(32), b"")
    target = {"instance": INSTANCE, "suite": suite, "public_key": key.public_bytes(), "requests": []}
    decode_json(msgspec.json.encode(target), KeyRequests)
    decode_json(
        msgspec.json.encode({"instance": INSTANCE, "keys": [KEY | {"sealed_key": sealed}]}), StandardKeys
    )


def test_the_kinds_of_provider_are_those_of_the_documents() -> None:
    from trusted_infrastructure import data_keys
    from trusted_infrastructure.config.documents import KeyProviderType

    assert key_delivery.ProviderType == data_keys.ProviderType == KeyProviderType

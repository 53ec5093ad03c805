# SPDX-License-Identifier: GPL-3.0-or-later
"""Key servers that fail while they make and give keys of standard providers: never a wrong key, never a wait
that is longer than was configured, and the next server is asked."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kmip.core import enums
from kmip.core.attributes import UniqueIdentifier
from kmip.core.factories.payloads.request import RequestPayloadFactory
from kmip.core.messages import payloads
from services.hostile_key_server import KEY, Answers, HostileKeyServer, make_pair

from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, client_context
from trusted_infrastructure.kmip.servers import KeyServerGroup
from trusted_infrastructure.refusal import Refusal

SERVER = make_pair("kms.test")
CLIENT = make_pair("standard-key-provider.finance", address=None)
CREDENTIALS = ClientCredentials(CLIENT.certificate, CLIENT.private_key, "ti", "s3cret-passw0rd")
OTHER_KEY = bytes(range(100, 132))
VENDOR = {"x-Vendor": "trusted.infrastructure"}


@dataclass
class Making(Answers):
    """made: id of the key that is made; kind: of object. other_id: said in place of the id by an operation.
    drop_at: operation at which the connection ends without an answer. drip: a byte each half second."""

    made: str = "1001"
    kind: str = "SYMMETRIC_KEY"
    other_id: frozenset[str] = frozenset()
    drop_at: str = ""
    drip: bool = False
    operations: list[str] = field(default_factory=list)


class MakingServer(HostileKeyServer):
    """A hostile key server that makes keys, too."""

    answers: Making

    def _payload(self, operation: str) -> Any:
        self.answers.operations.append(operation)
        if operation == self.answers.drop_at:
            raise OSError("dropped by order")
        said = "7" if operation in self.answers.other_id else self.answers.made
        if operation == "CREATE":
            return payloads.CreateResponsePayload(enums.ObjectType[self.answers.kind], said)
        if operation == "ACTIVATE":
            return payloads.ActivateResponsePayload(UniqueIdentifier(said))
        if operation == "DESTROY":
            return payloads.DestroyResponsePayload(UniqueIdentifier(said))
        if operation in ("ADD_ATTRIBUTE", "MODIFY_ATTRIBUTE"):
            request = self.seen[-1].batch_items[0].request_payload
            return payloads.ModifyAttributeResponsePayload(said, request.attribute)
        if operation in ("GET", "GET_ATTRIBUTES"):
            self.answers.key_id = said
        return super()._payload(operation)

    def _answer(self, data: bytes) -> bytes:
        answer = super()._answer(data)
        if self.answers.drip:
            self.drip(answer)
        return answer

    def drip(self, answer: bytes) -> None:
        tls = self._open[-1]
        for position in range(len(answer)):
            tls.sendall(answer[position : position + 1])
            time.sleep(0.3)


@pytest.fixture(autouse=True)
def known_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyKMIP reads no requests of Add Attribute; in KMIP 1.x they have the fields of Modify Attribute."""
    monkeypatch.setattr(
        RequestPayloadFactory,
        "_create_add_attribute_payload",
        lambda _self: payloads.ModifyAttributeRequestPayload(),
        raising=False,
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[MakingServer, MakingServer]]:
    with contextlib.ExitStack() as stack:
        made = []
        for name, key in (("kms1", OTHER_KEY), ("kms2", KEY)):
            folder = tmp_path / name
            folder.mkdir()
            server = MakingServer(folder, SERVER, Making(key=key), client_ca=CLIENT.certificate)
            made.append(stack.enter_context(server))
        yield made[0], made[1]


def group_of(*servers: MakingServer, timeout: int = 1, withheld: tuple[str, ...] = ()) -> KeyServerGroup:
    named = [
        KeyServer(f"kms{number}", "127.0.0.1", server.port, timeout=timeout)
        for number, server in enumerate(servers, 1)
    ]
    context = client_context(CREDENTIALS, [SERVER.certificate])
    return KeyServerGroup(named, CREDENTIALS, context, withheld=withheld)


FAULTS = [
    {"drop_at": "DISCOVER_VERSIONS"},
    {"drop_at": "CREATE"},
    {"drop_at": "ACTIVATE"},
    {"drop_at": "GET_ATTRIBUTES"},
    {"drop_at": "GET"},
    {"kind": "SECRET_DATA"},
    {"made": ""},
    {"other_id": frozenset({"ACTIVATE"})},
    {"other_id": frozenset({"GET_ATTRIBUTES"})},
    {"other_id": frozenset({"GET"})},
    {"secret_data": True},
    {"wrapped": True},
    {"silent": True},
    {"raw": b"HTTP/1.1 400 Bad Request\r\n\r\n"},
    {"raw": b"\x42\x00\x7b\x01\x7f\xff\xff\xff"},
    {"raw": b"\x42\x00\x7b\x01\x00\x00\x00\x08notkmip!"},
    {"cut_after": 20},
    {"drip": True},
    {"refuse": {"CREATE": "PERMISSION_DENIED"}},
    {"refuse": {"CREATE": "OPERATION_NOT_SUPPORTED"}},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_server_that_fails_while_it_makes_a_key(pair, fault) -> None:
    first, _second = pair
    first.answers = Making(key=OTHER_KEY, **fault)
    group = group_of(*pair)
    begun = time.monotonic()
    made = group.create(VENDOR, {})
    assert time.monotonic() - begun < 2.0
    assert (made.server, made.material) == ("kms2", KEY)
    with pytest.raises(Refusal) as refused:
        group_of(first).create(VENDOR, {})
    assert KEY.hex() not in str(refused.value) and "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"state": "PRE_ACTIVE"}, "primary_key_state"),
        ({"state": "COMPROMISED"}, "key_compromised"),
        ({"state": "DESTROYED"}, "key_destroyed"),
        ({"state": "DESTROYED_COMPROMISED"}, "key_destroyed"),
        ({"algorithm": "TRIPLE_DES"}, "primary_key_unavailable"),
        ({"length": 128}, "primary_key_unavailable"),
        ({"usage": ["SIGN"]}, "primary_key_unavailable"),
        ({"key": KEY[:16]}, "primary_key_unavailable"),
    ],
    ids=str,
)
@pytest.mark.parametrize("use", [None, {"x-Name": "db1"}])
def test_who_knows_the_key_has_the_last_word(pair, change, code, use) -> None:
    """No other server is asked for a kinder answer."""
    first, second = pair
    first.answers = Making(**change)
    with pytest.raises(Refusal) as refused:
        group_of(*pair).get("1001", use)
    assert refused.value.code == code
    assert second.answers.operations == []


def test_a_deactivated_key_opens_and_is_put_to_no_use(pair) -> None:
    for server in pair:
        server.answers = Making(key=KEY, state="DEACTIVATED")
    for use in (None, {}, {"x-Name": "db1"}):
        got = group_of(*pair).get("1001", use)
        assert (got.state, got.material, bool(got.attributes_problem)) == ("DEACTIVATED", KEY, bool(use))
    assert "ADD_ATTRIBUTE" not in pair[0].answers.operations
    with pytest.raises(Refusal) as refused:
        group_of(*pair).create(VENDOR, {})
    assert refused.value.code == "key_deactivated"


def test_a_key_that_one_server_did_not_get_yet(pair) -> None:
    first, second = pair
    first.answers = Making(refuse={"GET_ATTRIBUTES": "ITEM_NOT_FOUND"})
    assert group_of(*pair).get("1001").server == "kms2"
    second.answers = Making(refuse={"GET_ATTRIBUTES": "ITEM_NOT_FOUND"})
    with pytest.raises(Refusal) as refused:
        group_of(*pair).get("1001")
    assert refused.value.code == "key_missing"
    second.answers = Making(drop_at="GET_ATTRIBUTES")
    with pytest.raises(Refusal) as refused:
        group_of(*pair).get("1001")
    assert refused.value.code == "key_server_unreachable"


def test_a_server_without_vendor_attributes_keeps_no_key_back(pair) -> None:
    first, _second = pair
    first.answers = Making(key=KEY, refuse={"ADD_ATTRIBUTE": "OPERATION_NOT_SUPPORTED"})
    got = group_of(*pair).get("1001", {"x-Name": "db1"})
    assert (got.server, got.material) == ("kms1", KEY)
    assert "operation_not_supported" in got.attributes_problem


def test_what_is_left_of_a_failed_creation_is_destroyed(pair) -> None:
    first, _second = pair
    group = group_of(*pair)
    first.answers = Making(drop_at="GET_ATTRIBUTES", made="orphan")
    group.create(VENDOR, {})
    first.answers = Making(key=OTHER_KEY, made="orphan")
    assert [status.problem for status in group.check()] == ["", ""]
    assert "DESTROY" in first.answers.operations
    destroyed = [seen.batch_items[0] for seen in first.seen][-1]
    assert destroyed.request_payload.unique_identifier.value == "orphan"
    first.answers.operations.clear()
    group.check()
    assert "DESTROY" not in first.answers.operations


def test_a_key_in_use_that_was_given_for_a_new_one_is_not_destroyed(pair) -> None:
    first, _second = pair
    group = group_of(*pair)
    first.answers = Making(drop_at="GET_ATTRIBUTES", made="in-use")
    group.create(VENDOR, {})
    first.answers = Making(key=OTHER_KEY, made="in-use")
    group.check({"in-use"})
    group.check()
    assert not {"DESTROY", "REVOKE"} & set(first.answers.operations)


def test_a_withheld_server_is_sent_nothing(pair) -> None:
    first, _second = pair
    group = group_of(*pair, withheld=("kms1",))
    assert group.create(VENDOR, {}).server == "kms2"
    assert "password was set for other" in group.check()[0].problem
    assert first.connections == 0


def test_the_first_server_is_looked_for_by_one_request_at_a_time(pair) -> None:
    first, _second = pair
    first.answers = Making(silent=True)
    group = group_of(*pair)
    assert group.get("1001").server == "kms2"
    looked_for = first.connections
    got: list[str] = []

    def get() -> None:
        got.append(group.get("1001").server)

    threads = [threading.Thread(target=get) for _index in range(5)]
    group._fail_back_after = 60
    group._tried_first -= 61
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["kms2"] * 5
    assert first.connections == 2 * looked_for


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = KeyServer("kms1", "127.0.0.1", port, timeout=1)
    group = KeyServerGroup([server], CREDENTIALS, client_context(CREDENTIALS, [SERVER.certificate]))
    with pytest.raises(Refusal) as refused:
        group.create(VENDOR, {})
    assert (refused.value.code, refused.value.status) == ("key_server_unreachable", 503)
    (status,) = group.check()
    assert (status.problem, status.client_trust_server) == ("Connection refused", None)


def test_who_trusts_whom(pair, tmp_path: Path) -> None:
    statuses = group_of(*pair).check()
    assert [(one.client_trust_server, one.server_trust_client) for one in statuses] == [(True, True)] * 2
    assert all(one.certificate_end is not None for one in statuses)
    pair[0].answers = Making(refuse={"DISCOVER_VERSIONS": "AUTHENTICATION_NOT_SUCCESSFUL"})
    status = group_of(*pair).check()[0]
    assert (status.client_trust_server, status.server_trust_client) == (True, False)


@pytest.mark.parametrize(
    ("answers", "problem", "trusted"),
    [
        ({"refuse": {"QUERY": "AUTHENTICATION_NOT_SUCCESSFUL"}}, "authentication_not_successful", False),
        ({"drop_at": "QUERY"}, "no answer in time", None),
        ({"silent": True}, "no answer in time", None),
        ({"raw": b"\x42\x00\x7b\x01\x00\x00\x00\x08notkmip!"}, "not the KMIP", None),
    ],
    ids=str,
)
def test_a_look_is_a_question_that_is_answered(pair, answers, problem, trusted) -> None:
    """Also where the server's version is known from before, and the handshake would do."""
    group = group_of(*pair)
    assert group.check()[0].problem == ""
    pair[0].answers = Making(**answers)
    status = group.check()[0]
    assert problem in status.problem
    assert (status.server_trust_client, status.vendor) == (trusted, "")


@pytest.mark.parametrize(
    ("answers", "vendor"),
    [
        ({"refuse": {"QUERY": "OPERATION_NOT_SUPPORTED"}}, ""),
        ({"refuse": {"QUERY": "PERMISSION_DENIED"}}, ""),
        ({"vendor": None}, ""),
        ({"vendor": "=a\nvendor\x1b[2J"}, "=avendor[2J"),
        ({"vendor": "v" * 1000}, "v" * 200),
        ({}, "a vendor"),
    ],
    ids=str,
)
def test_who_made_a_server(pair, answers, vendor) -> None:
    """A server that does not say it serves all the same."""
    pair[0].answers = Making(**answers)
    status = group_of(*pair).check()[0]
    assert (status.problem, status.vendor, status.server_trust_client) == ("", vendor, True)

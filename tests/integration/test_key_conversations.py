# SPDX-License-Identifier: GPL-3.0-or-later
"""Making keys and putting them to use, over KMIP 1.1 to 1.4, at a real key server; and at two of them."""

from __future__ import annotations

import contextlib
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from integration.software_key_server import SoftwareKeyServer, replicate, settle
from kmip.core import enums
from kmip.core.attributes import UniqueIdentifier
from kmip.core.messages import payloads
from kmip.core.objects import RevocationReason
from kmip.core.primitives import DateTime

from trusted_infrastructure.kmip import key_making
from trusted_infrastructure.kmip.client_certificates import self_signed
from trusted_infrastructure.kmip.connection import ClientCredentials, KeyServer, client_context, connect
from trusted_infrastructure.kmip.servers import KeyServerGroup
from trusted_infrastructure.kmip.session import VERSIONS, KeyServerRefusal, Session
from trusted_infrastructure.refusal import InvalidField, Refusal

KEY, CERTIFICATE = self_signed("standard-key-provider.finance", int(time.time()))
VENDOR = {"x-Vendor": "trusted.infrastructure", "x-Product": "workload manager", "x-Product_Version": "0.1.0"}
USE = {"x-Component": "Virtual Machine", "x-Name": "db1", "x-Identifier": "52d3-77"}
HEALTHY = 20.0  # of servers that only a slow machine keeps waiting for
TIMEOUT = 4.0  # of those that hang


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareKeyServer]:
    made = SoftwareKeyServer(tmp_path_factory.mktemp("kms") / "kms1", "kms1")
    made.trust("client", CERTIFICATE)
    with made:
        yield made


def credentials() -> ClientCredentials:
    return ClientCredentials(CERTIFICATE, KEY)


@pytest.fixture
def open_session(server: SoftwareKeyServer) -> Iterator[Callable[[tuple[int, int] | None], Session]]:
    sessions: list[Session] = []

    def opened(version: tuple[int, int] | None) -> Session:
        target = KeyServer(server.name, server.address, server.port)
        connection = connect(target, client_context(credentials(), [server.certificate]))
        sessions.append(Session(target, connection, credentials(), version))
        return sessions[-1]

    yield opened
    for session in sessions:
        session.close()


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_who_made_the_server(open_session, version) -> None:
    session = open_session(version)
    assert session.vendor().startswith("PyKMIP ")
    assert session.vendor() == session.vendor()


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_the_life_of_a_key(open_session, version) -> None:
    session = open_session(version)
    assert session.version == (version or VERSIONS[0])
    key_id = key_making.create_key(session, VENDOR)
    assert session.attributes(key_id).state == "PRE_ACTIVE"
    key_making.activate(session, key_id)
    key_making.set_vendor_attributes(session, key_id, USE)
    found = session.attributes(key_id, [*VENDOR, *USE])
    assert (found.state, found.algorithm, found.length) == ("ACTIVE", "AES", 256)
    assert found.vendor == {**VENDOR, **USE}
    material = session.material(key_id).material
    assert len(material) == 32
    assert session.material(key_id).material == material
    assert session.attributes(key_id).vendor == {}
    key_making.discard(session, key_id)
    assert session.attributes(key_id).state == "DESTROYED"
    with pytest.raises(KeyServerRefusal):
        session.material(key_id)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_key_is_put_to_use_for_something_else(open_session, version) -> None:
    session = open_session(version)
    key_id = key_making.create_key(session, VENDOR)
    key_making.activate(session, key_id)
    key_making.set_vendor_attributes(session, key_id, USE)
    key_making.set_vendor_attributes(session, key_id, {**USE, "x-Name": "db2"})
    assert session.attributes(key_id, ["x-Name", "x-Identifier"]).vendor == {
        "x-Name": "db2",
        "x-Identifier": USE["x-Identifier"],
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("State", "ACTIVE"), ("x-Name", ""), ("x-Name", "a\nb"), ("x-Name", "x" * 256), ("x-" + "n" * 300, "1")],
)
def test_what_is_no_vendor_attribute_is_not_sent(open_session, name, value) -> None:
    session = open_session(None)
    key_id = key_making.create_key(session, {})
    with pytest.raises(InvalidField):
        key_making.set_vendor_attributes(session, key_id, {name: value})


def test_keys_that_are_not_there(open_session) -> None:
    session = open_session(None)
    for ask in (
        lambda: session.attributes("999999999"),
        lambda: session.material("999999999"),
        lambda: key_making.activate(session, "999999999"),
        lambda: key_making.set_vendor_attributes(session, "999999999", USE),
    ):
        with pytest.raises(KeyServerRefusal) as refused:
            ask()
        assert (refused.value.code, refused.value.reason) == ("key_missing", "ITEM_NOT_FOUND")
    key_making.discard(session, "999999999")  # what is gone is discarded


# ---- two servers of one provider ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SoftwareKeyServer]]:
    folder = tmp_path_factory.mktemp("pair")
    servers = [SoftwareKeyServer(folder / name, name, authority=folder / "ca") for name in ("kms1", "kms2")]
    replicate(*servers)
    for one in servers:
        one.trust("client", CERTIFICATE)
        one.start()
    settle(*servers)
    yield servers
    for one in servers:
        one.stop()


@contextlib.contextmanager
def group_of(
    pair: list[SoftwareKeyServer], timeout: float = HEALTHY, **options: Any
) -> Iterator[KeyServerGroup]:
    servers = [KeyServer(one.name, one.address, one.port, timeout=timeout) for one in pair]
    context = client_context(credentials(), [one.certificate for one in pair])
    made = KeyServerGroup(servers, credentials(), context, **options)
    try:
        yield made
    finally:
        made.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def opened() -> list[str]:
    """Names of the servers of `group` that a connection was tried to, in order."""
    return []


@pytest.fixture
def group(pair: list[SoftwareKeyServer], opened: list[str]) -> Iterator[tuple[KeyServerGroup, Clock]]:
    def noting(server: KeyServer, context: ssl.SSLContext) -> ssl.SSLSocket:
        opened.append(server.name)
        return connect(server, context)

    clock = Clock()
    with group_of(pair, clock=clock, open_connection=noting) as made:
        yield made, clock


def test_what_one_server_made_the_other_gives(pair, group, opened) -> None:
    servers, clock = group
    made = servers.create(VENDOR, USE)
    assert (made.server, made.state, made.attributes_problem) == ("kms1", "ACTIVE", "")
    assert made.material.hex() not in repr(made)
    assert servers.attributes(made.key_id, [*VENDOR, *USE]).vendor == {**VENDOR, **USE}
    pair[0].stop(signal.SIGKILL)
    got = servers.get(made.key_id)
    assert (got.server, got.material) == ("kms2", made.material)
    opened.clear()
    second = servers.create(VENDOR, {})
    assert second.server == "kms2"
    assert opened == ["kms2"]  # the one that works is remembered
    assert [bool(one.problem) for one in servers.check()] == [True, False]

    pair[0].start()
    assert servers.get(made.key_id).server == "kms2"
    settle(*pair)
    clock.now += 31
    got = servers.get(second.key_id)
    assert (got.server, got.material) == ("kms1", second.material)


@pytest.fixture
def impatient(pair: list[SoftwareKeyServer]) -> Iterator[KeyServerGroup]:
    with group_of(pair, TIMEOUT) as made:
        yield made


def test_a_server_that_hangs_costs_its_timeout_and_no_more(pair, impatient) -> None:
    servers = impatient
    made = servers.create(VENDOR, {})
    pair[0].pause()
    try:
        begun = time.monotonic()
        assert servers.get(made.key_id).server == "kms2"
        assert time.monotonic() - begun < 2 * TIMEOUT
        pair[1].pause()
        try:
            begun = time.monotonic()
            with pytest.raises(Refusal) as refused:
                servers.create(VENDOR, {})
            assert time.monotonic() - begun < 3 * TIMEOUT
            assert refused.value.code == "key_server_unreachable"
            assert "kms1" in refused.value.message and "kms2" in refused.value.message
        finally:
            pair[1].pause(resume=True)
    finally:
        pair[0].pause(resume=True)
        settle(*pair)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (enums.RevocationReasonCode.CESSATION_OF_OPERATION, "key_deactivated"),
        (enums.RevocationReasonCode.KEY_COMPROMISE, "key_compromised"),
    ],
)
def test_the_state_of_a_key_decides(open_group_session, group, reason, code) -> None:
    servers, _clock = group
    made = servers.create(VENDOR, {})
    with open_group_session() as session:
        revoke = payloads.RevokeRequestPayload(
            UniqueIdentifier(made.key_id),
            RevocationReason(reason),
            None if code == "key_deactivated" else DateTime(1, enums.Tags.COMPROMISE_OCCURRENCE_DATE),
        )
        session.call(enums.Operation.REVOKE, revoke)
    if code == "key_deactivated":
        got = servers.get(made.key_id, USE)
        assert (got.state, got.material) == ("DEACTIVATED", made.material)
        assert servers.attributes(made.key_id, tuple(USE)).vendor == {}
    else:
        for use in (None, USE):
            with pytest.raises(Refusal) as refused:
                servers.get(made.key_id, use)
            assert refused.value.code == code
    with open_group_session() as session:
        session.call(enums.Operation.DESTROY, payloads.DestroyRequestPayload(UniqueIdentifier(made.key_id)))
    with pytest.raises(Refusal) as refused:
        servers.get(made.key_id)
    assert refused.value.code == "key_destroyed"


@pytest.fixture
def open_group_session(pair: list[SoftwareKeyServer]) -> Callable[[], Any]:
    @contextlib.contextmanager
    def opened() -> Iterator[Session]:
        target = KeyServer(pair[0].name, pair[0].address, pair[0].port)
        context = client_context(credentials(), [pair[0].certificate])
        session = Session(target, connect(target, context), credentials())
        yield session
        session.close()

    return opened


def test_a_key_that_no_server_has_is_missing(group) -> None:
    servers, _clock = group
    with pytest.raises(Refusal) as refused:
        servers.get("999999999")
    assert refused.value.code == "key_missing"
    assert "kms1" in refused.value.message and "kms2" in refused.value.message


def test_a_key_is_not_said_to_be_missing_while_a_server_is_away(pair, group) -> None:
    servers, _clock = group
    pair[1].stop()
    try:
        with pytest.raises(Refusal) as refused:
            servers.get("999999999")
        assert refused.value.code == "key_server_unreachable"
    finally:
        pair[1].start()
        settle(*pair)

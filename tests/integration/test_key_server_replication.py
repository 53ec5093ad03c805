# SPDX-License-Identifier: GPL-3.0-or-later
"""Two of the lab's key servers: what a client changes on one is on the other, under the same id."""

from __future__ import annotations

import importlib
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.software_key_server import FILES, SoftwareKeyServer, replicate
from kmip.core import enums
from kmip.core.messages.payloads import ModifyAttributeRequestPayload

sys.path.insert(0, str(FILES))
engine: Any = importlib.import_module("key_server.engine")
keys: Any = importlib.import_module("key_server.primary_keys")
certificates: Any = importlib.import_module("key_server.certificates")
errors: Any = importlib.import_module("key_server.errors")
journal: Any = importlib.import_module("key_server.journal")
replication: Any = importlib.import_module("key_server.replication")
endpoint: Any = importlib.import_module("key_server.endpoint")
vendor_attributes: Any = importlib.import_module("key_server.vendor_attributes")

vendor_attributes.know_add_attribute()

CLIENT = "standard-key-provider.finance"
Pair = tuple[SoftwareKeyServer, SoftwareKeyServer]
CESSATION = enums.RevocationReasonCode.CESSATION_OF_OPERATION
COMPROMISE = enums.RevocationReasonCode.KEY_COMPROMISE


def make_pair(folder: Path) -> Pair:
    first = SoftwareKeyServer(folder / "kms1", "kms1")
    second = SoftwareKeyServer(folder / "kms2", "kms2", authority=first.authority)
    replicate(first, second)
    for server in (first, second):
        server.allow({"primary-key-1": [CLIENT, "kms1", "kms2"]})
    return first, second


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    first, second = make_pair(tmp_path_factory.mktemp("servers"))
    with first, second:
        eventually(lambda: "same objects" in first.log() and "same objects" in second.log())
        yield first, second


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Client:
    """A client's work: what the workload manager does with a standard provider's keys."""

    def __init__(self, server: SoftwareKeyServer, name: str = CLIENT) -> None:
        folder = server.authority
        pem, key = folder / f"{name}.pem", folder / f"{name}.key"
        if not pem.exists():
            csr = certificates.request(pem, key, name, [], check=False)
            pem.write_text(certificates.sign(folder, csr, name, [], "", server=False))
        files = {"certificate": str(pem), "key": str(key)}
        self.kmip = keys.Client(keys.Endpoint(**{**server.endpoint(), **files}))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kmip.__exit__()

    def create(self, name: str, *, activate: bool = True) -> str:
        template = keys._attributes(keys.WantedKey(name, "0", "default"))
        template.attributes = [
            one for one in template.attributes if one.attribute_name.value != engine.REQUESTED_ID
        ]
        made = self.kmip._done(self.kmip._proxy.create(enums.ObjectType.SYMMETRIC_KEY, template))
        if activate:
            self.kmip.activate(made.uuid)
        return str(made.uuid)

    def put_to_use(self, key_id: str, name: str, value: str, *, modify: bool = False) -> None:
        attribute = vendor_attributes.kmip_attribute(name, value)
        if modify:
            payload, operation = (
                ModifyAttributeRequestPayload(key_id, attribute),
                enums.Operation.MODIFY_ATTRIBUTE,
            )
        else:
            payload = vendor_attributes.AddAttributeRequestPayload(key_id, attribute)
            operation = enums.Operation.ADD_ATTRIBUTE
        self.kmip._proxy.send_request_payload(operation, payload)

    def revoke(self, key_id: str, reason: Any = CESSATION) -> None:
        self.kmip._done(self.kmip._proxy.revoke(reason, key_id))

    def destroy(self, key_id: str) -> None:
        self.kmip._done(self.kmip._proxy.destroy(key_id))

    def state(self, key_id: str) -> Any:
        return self.kmip.state(key_id)

    def material(self, key_id: str) -> bytes:
        return bytes(self.kmip.material(key_id))

    def attributes(self, key_id: str) -> dict[str, Any]:
        answer = self.kmip._done(self.kmip._proxy.get_attributes(key_id))
        return {
            one.attribute_name.value: getattr(one.attribute_value, "value", None) for one in answer.attributes
        }


def test_what_one_answers_the_other_has(servers: Pair) -> None:
    """Without a wait between: the change is there when its answer is."""
    for here, there in (servers, servers[::-1]):
        with Client(here) as client, Client(there) as other:
            key_id = client.create("vm-1", activate=False)
            assert other.state(key_id) is enums.State.PRE_ACTIVE
            client.kmip.activate(key_id)
            assert other.state(key_id) is enums.State.ACTIVE
            assert other.material(key_id) == client.material(key_id)
            client.put_to_use(key_id, "x-Component", "Virtual Machine")
            other.put_to_use(key_id, "x-Identifier", "52d3-77")
            other.put_to_use(key_id, "x-Component", "Host", modify=True)
            found = client.attributes(key_id)
            assert found == other.attributes(key_id)
            assert (found["x-Component"], found["x-Identifier"], found["x-Name"]) == (
                "Host",
                "52d3-77",
                "vm-1",
            )
            other.revoke(key_id)
            assert client.state(key_id) is enums.State.DEACTIVATED
            client.destroy(key_id)
            assert other.state(key_id) is enums.State.DESTROYED


def test_ids_never_meet(servers: Pair) -> None:
    made: list[str] = []

    def work(server: SoftwareKeyServer) -> None:
        with Client(server) as client:
            made.extend(client.create(f"{server.name}-{number}") for number in range(20))

    with Client(servers[0]):  # makes the client's certificate
        threads = [threading.Thread(target=work, args=(server,)) for server in servers for _twice in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(made) == len(set(made)) == 80
    with Client(servers[0]) as first, Client(servers[1]) as second:

        def same() -> bool:
            return all(first.state(uid) is second.state(uid) is enums.State.ACTIVE for uid in made)

        eventually(same)
        assert all(first.material(uid) == second.material(uid) for uid in made)


def test_owner_and_policy_go_along(servers: Pair) -> None:
    with Client(servers[0]) as client, Client(servers[1], "standard-key-provider.other") as stranger:
        key_id = client.create("mine")
        assert stranger.state(key_id) is None
        with pytest.raises(errors.KeyServerError, match="Could not locate"):
            stranger.revoke(key_id)
    servers[0].ensure_keys([{"name": "primary", "id": "1", "policy": "primary-key-1"}])
    # The other has it by now, so there is nothing left to register.
    second = servers[1].ensure_keys([{"name": "primary", "id": "1", "policy": "primary-key-1"}], servers[0])
    assert second["changed"] is False
    with Client(servers[1]) as client:
        assert len(client.material("1")) == 32
        with pytest.raises(errors.KeyServerError, match="Could not locate"):
            client.revoke("1")


def test_a_server_that_was_away_catches_up(servers: Pair) -> None:
    first, second = servers
    with Client(first) as client:
        before = client.create("before")
        second.stop(signal.SIGKILL)
        made = [client.create(f"meanwhile-{number}") for number in range(5)]
        client.put_to_use(made[0], "x-Component", "Host")
        client.revoke(before, COMPROMISE)
        second.start()
        with Client(second) as other:
            # At its start it looks before it listens.
            assert [other.state(uid) for uid in made] == [enums.State.ACTIVE] * 5
            assert other.attributes(made[0])["x-Component"] == "Host"
            assert other.state(before) is enums.State.COMPROMISED
            first.stop()
            late = other.create("late")
            assert late not in made
            other.revoke(made[0])
    first.start()
    with Client(first) as client:
        assert client.state(late) is enums.State.ACTIVE
        assert client.state(made[0]) is enums.State.DEACTIVATED


def test_changes_on_both_sides_of_a_cut_come_together(servers: Pair) -> None:
    """The cut: each server is alone while the other is stopped."""
    first, second = servers
    with Client(first) as client:
        uid, doomed = client.create("shared"), client.create("doomed")
    second.stop()
    with Client(first) as client:
        client.put_to_use(uid, "x-Component", "Host")
        client.put_to_use(uid, "x-Identifier", "first")
        client.revoke(doomed, COMPROMISE)
    first.stop()
    second.peers, peers = [], second.peers
    second.start()
    with Client(second) as other:
        other.put_to_use(uid, "x-Name", "renamed", modify=True)
        other.put_to_use(uid, "x-Note", "second")
        other.revoke(doomed)
        other.destroy(doomed)
    second.stop()
    second.peers = peers
    first.start()
    second.start()
    with Client(first) as client, Client(second) as other:
        eventually(lambda: client.attributes(uid) == other.attributes(uid))
        eventually(lambda: client.state(doomed) is other.state(doomed))
        found = client.attributes(uid)
        assert (found["x-Component"], found["x-Identifier"], found["x-Note"]) == ("Host", "first", "second")
        assert client.state(doomed) is enums.State.DESTROYED_COMPROMISED


def test_a_server_that_lost_its_database_gets_it_back(servers: Pair) -> None:
    first, second = servers
    with Client(second) as client:
        made = [client.create(f"key-{number}") for number in range(3)]
    second.stop()
    (second.folder / "keys.db").unlink()
    second.start()
    with Client(second) as other, Client(first) as client:
        assert [other.material(uid) for uid in made] == [client.material(uid) for uid in made]
        assert other.create("new") not in made


def test_a_peer_that_hangs_delays_one_answer_by_a_second(servers: Pair) -> None:
    first, second = servers
    with Client(first) as client:
        client.create("warm")
        second.pause()
        try:
            began = time.monotonic()
            uid = client.create("while it hangs", activate=False)
            assert time.monotonic() - began < 2.5
            taken = []
            for _number in range(6):
                began = time.monotonic()
                client.create("and again", activate=False)
                taken.append(time.monotonic() - began)
            assert statistics.median(taken) < replication.PATIENCE  # a busy machine may delay one or two
        finally:
            second.pause(resume=True)
        with Client(second) as other:
            eventually(lambda: other.state(uid) is enums.State.PRE_ACTIVE)


def test_two_keys_under_one_id_stay_and_are_said(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path)
    wanted = [{"name": "primary", "id": "7", "policy": "primary-key-1"}]
    for server in (first, second):
        server.peers, peers = [], server.peers
        with server:
            server.ensure_keys(wanted)
        server.peers = peers
    with first, second:
        eventually(lambda: "different keys under id 7" in first.log() + second.log())
        with Client(first) as client, Client(second) as other:
            assert client.material("7") != other.material("7")
            uid = client.create("goes on")
            eventually(lambda: other.state(uid) is enums.State.ACTIVE)
            assert other.material(uid) == client.material(uid)


def test_a_database_from_before_is_taken_over(tmp_path: Path) -> None:
    import sqlite3

    first, second = make_pair(tmp_path)
    first.peers, peers = [], first.peers
    with first:
        first.ensure_keys([{"name": "old", "id": "5", "policy": "primary-key-1"}])
    with sqlite3.connect(first.folder / "keys.db") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DROP TABLE versions")
    first.peers = peers
    with first, second, Client(second) as client:
        eventually(lambda: client.state("5") is enums.State.ACTIVE)


@pytest.mark.parametrize("name", [CLIENT, "kms3"])
def test_only_key_servers_may_replicate(servers: Pair, name: str) -> None:
    with Client(servers[0]) as client:
        key_id = client.create("wanted")
    with Client(servers[0], name) as client:
        link = client.kmip._connection
        for message in ({"versions": {}}, {"summary": ""}, {"records": []}):
            answer = replication._exchange(link, message, time.monotonic() + 5)
            assert answer == {"error": f"{name} is not a key server"}
        record = {"uid": int(key_id), "version": 2**40, "rows": {}}
        replication._exchange(link, {"records": [record]}, time.monotonic() + 5)
    with Client(servers[0]) as client:
        assert client.state(key_id) is enums.State.ACTIVE


@pytest.mark.parametrize(
    "message",
    [
        {},
        [],
        {"versions": []},
        {"versions": {"a": 1}},
        {"records": [{}]},
        {"records": [{"uid": "x", "version": 1, "rows": {}}]},
        {"records": [{"uid": 9, "version": 16, "rows": []}]},
        {"records": [{"uid": 9, "version": 16, "rows": {"managed_objects": [1]}}]},
    ],
)
def test_messages_that_cannot_be_read_change_nothing(servers: Pair, message: Any) -> None:
    trusted = {"port": servers[0].port, "trusted": servers[0].endpoint()["trusted"]}
    link = endpoint.connected(keys.Endpoint(**servers[1].endpoint() | trusted), 5)
    logged = len(servers[0].log())
    with link:
        before = replication._exchange(link, {"versions": {}}, time.monotonic() + 5)
        answer = replication._exchange(link, message, time.monotonic() + 5)
        assert answer.get("error") or answer.get("problems"), answer
        assert replication._exchange(link, {"versions": {}}, time.monotonic() + 5) == before
    assert "Traceback" not in servers[0].log()[logged:]


def test_a_huge_announced_length_ends_the_connection(servers: Pair) -> None:
    for beginning in (b"\x42\x00\x78\x01", replication._BEGINNING):
        with endpoint.connected(keys.Endpoint(**servers[0].endpoint()), 5) as link:
            link.sendall(beginning + b"\xff\xff\xff\xff")
            assert link.recv(1) == b""


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    server = SoftwareKeyServer(tmp_path / "kms", "kms")
    server.number = 16
    with pytest.raises(TimeoutError, match="expected 0 to 15"):
        server.start()


def test_messages_are_ttlv() -> None:
    message = replication.encoded({"summary": "a"})
    assert len(message) % 8 == 0
    assert int.from_bytes(message[4:8], "big") == len(message) - 8
    assert json.loads(message[8:]) == {"summary": "a"}

# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server: what it adds to PyKMIP's, whom it lets in, and its certificates."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.software_key_server import FILES, SoftwareKeyServer
from kmip.core import enums
from kmip.core.exceptions import OperationFailure
from kmip.core.messages.payloads import DeleteAttributeRequestPayload, ModifyAttributeRequestPayload
from kmip.core.objects import Attribute
from services.hostile_key_server import make_pair

sys.path.insert(0, str(FILES))
engine: Any = importlib.import_module("key_server.engine")
vendor_attributes: Any = importlib.import_module("key_server.vendor_attributes")
keys: Any = importlib.import_module("key_server.primary_keys")
certificates: Any = importlib.import_module("key_server.certificates")
errors: Any = importlib.import_module("key_server.errors")

KEY = keys.WantedKey("finance", "1001", "default")
STRANGER = make_pair("stranger", address=None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareKeyServer]:
    made = SoftwareKeyServer(tmp_path_factory.mktemp("kms") / "kms1", "kms1")
    vendor_attributes.know_add_attribute()
    with made:
        yield made


@pytest.fixture(scope="module")
def client(server: SoftwareKeyServer) -> Iterator[Any]:
    """The administrator, who is the owner of key 1001."""
    with keys.Client(keys.Endpoint(**server.endpoint())) as connected:
        connected.make(KEY)
        yield connected


def client_of(server: SoftwareKeyServer, name: str) -> Any:
    """A client with a certificate of the key servers' CA."""
    folder = server.folder / name
    folder.mkdir()
    csr = certificates.request(folder / "c.pem", folder / "c.key", name, [], check=False)
    (folder / "c.pem").write_text(certificates.sign(server.authority, csr, name, [], "", server=False))
    endpoint = {**server.endpoint(), "certificate": str(folder / "c.pem"), "key": str(folder / "c.key")}
    return keys.Client(keys.Endpoint(**endpoint))


vendor = vendor_attributes.kmip_attribute


def add(client: Any, key_id: str, name: str, value: str) -> str:
    """AddAttribute; "" or what the server says against it."""
    payload = vendor_attributes.AddAttributeRequestPayload(key_id, vendor(name, value))
    return change(client, enums.Operation.ADD_ATTRIBUTE, payload)


def modify(client: Any, key_id: str, attribute: Any) -> str:
    """ModifyAttribute; "" or what the server says against it."""
    payload = ModifyAttributeRequestPayload(key_id, attribute)
    return change(client, enums.Operation.MODIFY_ATTRIBUTE, payload)


def change(client: Any, operation: Any, payload: Any) -> str:
    try:
        answer = client._proxy.send_request_payload(operation, payload)
    except OperationFailure as failure:
        return str(failure)
    assert answer.attribute == payload.attribute
    return ""


def attributes(client: Any, key_id: str, *names: str) -> dict[str, Any]:
    answer = client._done(client._proxy.get_attributes(key_id, list(names) or None))
    return {a.attribute_name.value: getattr(a.attribute_value, "value", None) for a in answer.attributes}


def test_vendor_attributes_of_a_new_key(client: Any) -> None:
    found = attributes(client, "1001")
    assert found["x-Vendor"] == "trusted.infrastructure"
    assert found["x-Name"] == "finance"
    assert found["State"] is enums.State.ACTIVE
    assert engine.REQUESTED_ID not in found
    assert attributes(client, "1001", "x-Product", "State").keys() == {"x-Product", "State"}


def test_add_attribute(client: Any) -> None:
    assert add(client, "1001", "x-Identifier", "52d3-77") == ""
    assert attributes(client, "1001", "x-Identifier") == {"x-Identifier": "52d3-77"}
    assert "has a value already" in add(client, "1001", "x-Identifier", "other")
    assert "not a short text" in add(client, "1001", "x-Long", "x" * 2000)
    assert "Could not locate" in add(client, "777", "x-Identifier", "1")


def test_modify_attribute(server: SoftwareKeyServer, client: Any) -> None:
    assert add(client, "1001", "x-Component", "Virtual Machine") == ""
    assert modify(client, "1001", vendor("x-Component", "Host")) == ""
    assert attributes(client, "1001", "x-Component") == {"x-Component": "Host"}
    assert "no value to modify" in modify(client, "1001", vendor("x-Unknown", "1"))
    assert "not a short text" in modify(client, "1001", vendor("x-Component", "x" * 2000))
    assert "Could not locate" in modify(client, "777", vendor("x-Component", "1"))
    second = vendor("x-Component", "second")
    second.attribute_index = Attribute.AttributeIndex(1)
    assert "index 0" in modify(client, "1001", second)
    with client_of(server, "somebody") as somebody:
        assert "Could not locate" in modify(somebody, "1001", vendor("x-Component", "theirs"))
    delete = DeleteAttributeRequestPayload(unique_identifier="1001", attribute_name="x-Component")
    assert "not deleted" in change(client, enums.Operation.DELETE_ATTRIBUTE, delete)
    assert attributes(client, "1001", "x-Component") == {"x-Component": "Host"}


@pytest.mark.parametrize("version", ["KMIP_1_1", "KMIP_1_2", "KMIP_1_3", "KMIP_1_4"])
def test_a_life_in_each_version_of_kmip(server: SoftwareKeyServer, version: str) -> None:
    """Create with vendor attributes, activate, put to use, look, deactivate, destroy; owner: the client."""
    with client_of(server, f"life.{version}") as client:
        client._proxy.kmip_version = enums.KMIPVersion[version]
        template = keys._attributes(keys.WantedKey(version, "0", "default"))
        template.attributes = [
            one for one in template.attributes if one.attribute_name.value != engine.REQUESTED_ID
        ]
        made = client._done(client._proxy.create(enums.ObjectType.SYMMETRIC_KEY, template)).uuid
        assert int(made) >= engine.FIRST_GIVEN_ID
        client.activate(made)
        assert add(client, made, "x-Component", "Host") == ""
        assert modify(client, made, vendor("x-Component", "Virtual Machine")) == ""
        found = attributes(client, made)
        assert found["x-Component"] == "Virtual Machine"
        assert found["x-Name"] == version
        assert found["State"] is enums.State.ACTIVE
        listed = client._done(client._proxy.get_attribute_list(made)).names
        assert {"x-Vendor", "x-Component", "State"} <= set(listed)
        assert len(client.material(made)) == 32
        client._done(client._proxy.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, made))
        assert client.state(made) is enums.State.DEACTIVATED
        client._done(client._proxy.destroy(made))
        assert client.state(made) is enums.State.DESTROYED


def test_locate_by_a_vendor_attribute_is_refused_and_not_answered_with_everything(client: Any) -> None:
    answer = client._proxy.locate(attributes=[vendor("x-Name", "finance")])
    assert answer.result_status.value is enums.ResultStatus.OPERATION_FAILED


def test_an_id_is_given_once_and_to_administrators_only(server: SoftwareKeyServer, client: Any) -> None:
    with pytest.raises(errors.KeyServerError, match="exists"):
        client.make(KEY)
    with client_of(server, "other") as other:
        with pytest.raises(errors.KeyServerError, match="Only an administrator"):
            other.make(keys.WantedKey("mine", "2001", "default"))
    for key_id in ("0", "-1", "1e3", "abc", ""):
        with pytest.raises(errors.KeyServerError):
            client.make(keys.WantedKey("bad", key_id, "default"))


def test_another_client_does_not_see_the_key(server: SoftwareKeyServer, client: Any) -> None:
    with client_of(server, "reader") as reader:
        assert reader.state("1001") is None
        with pytest.raises(errors.KeyServerError):
            reader.material("1001")
        assert "Could not locate" in add(reader, "1001", "x-Mine", "1")


def test_a_destroyed_key_is_gone_but_known_to_be(server: SoftwareKeyServer, client: Any) -> None:
    client.make(keys.WantedKey("short lived", "6001", "default"))
    material = client.material("6001")
    assert held(server, material)
    with pytest.raises(errors.KeyServerError, match="active"):
        client._done(client._proxy.destroy("6001"))
    client._done(client._proxy.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, "6001"))
    client._done(client._proxy.destroy("6001"))
    assert not held(server, material)
    assert client.state("6001") is enums.State.DESTROYED
    assert attributes(client, "6001", "x-Name") == {"x-Name": "short lived"}
    with pytest.raises(errors.KeyServerError, match="was destroyed"):
        client.material("6001")
    for refused in (client._proxy.destroy("6001"), client._proxy.activate("6001")):
        assert refused.result_status.value is enums.ResultStatus.OPERATION_FAILED
    with pytest.raises(errors.KeyServerError, match="exists"):
        client.make(keys.WantedKey("again", "6001", "default"))
    for _again in range(2):
        client._proxy.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, "6001")
        assert client.state("6001") is enums.State.DESTROYED_COMPROMISED


def held(server: SoftwareKeyServer, material: bytes) -> bool:
    """Whether a key's bytes are in any file of the server."""
    return any(material in path.read_bytes() for path in server.folder.rglob("*") if path.is_file())


def test_keys_are_for_the_server_alone(server: SoftwareKeyServer, tmp_path: Path) -> None:
    assert server.folder.stat().st_mode & 0o777 == 0o700
    for path in server.folder.glob("keys.db*"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert int(server.status("Umask"), 8) == 0o077


@pytest.mark.parametrize(("mode", "starts"), [(0o700, True), (0o710, False), (0o705, False), (0o755, False)])
def test_a_folder_that_others_can_reach_gets_no_keys(tmp_path: Path, mode: int, starts: bool) -> None:
    server = SoftwareKeyServer(tmp_path / "kms", "kms")
    (server.folder / "keys.db").touch(mode=0o644)
    server.folder.chmod(mode)
    if not starts:
        with pytest.raises(TimeoutError, match="nobody else"):
            server.start()
        return
    with server:
        assert (server.folder / "keys.db").stat().st_mode & 0o777 == 0o600


def test_a_certificate_that_nobody_knows_is_not_let_in(server: SoftwareKeyServer, tmp_path: Path) -> None:
    path = STRANGER.write(tmp_path / "stranger.pem")
    endpoint = {**server.endpoint(), "certificate": str(path), "key": str(path)}
    with pytest.raises(Exception, match=r"alert|reset|closed|EOF|No data"):
        with keys.Client(keys.Endpoint(**endpoint)) as stranger:
            stranger.state("1001")


def test_a_client_is_let_in_and_shut_out_without_a_restart(server: SoftwareKeyServer, tmp_path: Path) -> None:
    pair = make_pair("late", address=None)
    path = pair.write(tmp_path / "late.pem")
    endpoint = keys.Endpoint(**{**server.endpoint(), "certificate": str(path), "key": str(path)})
    server.trust("late", pair.certificate)
    with keys.Client(endpoint) as late:
        # Its certificate has no extended key usage for clients: known to TLS, refused by KMIP.
        with pytest.raises(errors.KeyServerError, match="client certificate"):
            late.state("1001")
    (server.clients / "late.pem").unlink()
    with pytest.raises(Exception, match=r"alert|reset|closed|EOF|No data"):
        with keys.Client(endpoint) as late:
            late.state("1001")


# ---- an administrator's commands ----


def test_an_administrator_ends_the_life_of_any_key(server: SoftwareKeyServer) -> None:
    with client_of(server, "owner") as owner:
        template = keys._attributes(keys.WantedKey("theirs", "0", "default"))
        del template.attributes[-1]  # the id
        key_id = owner._done(owner._proxy.create(enums.ObjectType.SYMMETRIC_KEY, template)).uuid
        owner.activate(key_id)
        for state in ("DEACTIVATED", "COMPROMISED", "DESTROYED"):
            wanted = {"here": server.endpoint(), "id": key_id, "state": state}
            assert server.command("key-state", wanted, "--check") == {"changed": True}
            assert server.command("key-state", wanted) == {"changed": True}
            assert server.command("key-state", wanted) == {"changed": False}
        assert owner.state(key_id) is enums.State.DESTROYED_COMPROMISED
    with pytest.raises(subprocess.CalledProcessError) as failed:
        server.command("key-state", wanted | {"state": "DEACTIVATED"})
    assert b"cannot become DEACTIVATED" in failed.value.stderr
    with keys.Client(keys.Endpoint(**server.endpoint())) as administrator:
        with pytest.raises(errors.KeyServerError, match="Could not locate"):
            administrator.material(key_id)


# ---- certificates ----


def test_certificates(tmp_path: Path) -> None:
    assert certificates.ensure_authority(tmp_path, "key servers", check=True)
    assert list(tmp_path.iterdir()) == []
    assert certificates.ensure_authority(tmp_path, "key servers", check=False)
    assert not certificates.ensure_authority(tmp_path, "another", check=False)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600

    pem, key = tmp_path / "server.pem", tmp_path / "server.key"
    assert certificates.request(pem, key, "kms1", ["192.0.2.1"], check=True) == "due"
    assert not key.exists()
    csr = certificates.request(pem, key, "kms1", ["192.0.2.1"], check=False)
    assert key.stat().st_mode & 0o777 == 0o600
    signed = certificates.sign(tmp_path, csr, "kms1", ["192.0.2.1"], "", server=True)
    assert certificates.install(pem, key, signed)
    assert not certificates.install(pem, key, signed)
    assert certificates.request(pem, key, "kms1", ["192.0.2.1"], check=False) == ""
    assert certificates.request(pem, key, "kms1", ["192.0.2.2"], check=False) != ""


def test_a_client_certificate_stays_while_it_fits(tmp_path: Path) -> None:
    certificates.ensure_authority(tmp_path, "key servers", check=False)
    csr = certificates.request(tmp_path / "c.pem", tmp_path / "c.key", "client", [], check=False)
    first = certificates.sign(tmp_path, csr, "client", [], "", server=False)
    assert certificates.sign(tmp_path, csr, "client", [], first, server=False) == first
    other = make_pair("client", address=None).certificate
    for current in (other, "junk"):
        assert certificates.sign(tmp_path, csr, "client", [], current, server=False) != current


@pytest.mark.parametrize(
    ("csr", "name", "words"),
    [("junk", "client", "not PEM"), (None, "somebody else", "not of CN=somebody else")],
)
def test_requests_that_are_not_signed(tmp_path: Path, csr: str | None, name: str, words: str) -> None:
    certificates.ensure_authority(tmp_path, "key servers", check=False)
    asked = csr or certificates.request(tmp_path / "c.pem", tmp_path / "c.key", "client", [], check=False)
    with pytest.raises(errors.KeyServerError, match=words):
        certificates.sign(tmp_path, asked, name, [], "", server=False)


def test_only_the_first_server_signs(tmp_path: Path) -> None:
    with pytest.raises(errors.KeyServerError, match="holds no CA"):
        certificates.sign(tmp_path, "", "client", [], "", server=False)
    csr = certificates.request(tmp_path / "a.pem", tmp_path / "a.key", "a", [], check=False)
    certificates.ensure_authority(tmp_path, "key servers", check=False)
    signed = certificates.sign(tmp_path, csr, "a", [], "", server=False)
    certificates.request(tmp_path / "b.pem", tmp_path / "b.key", "b", [], check=False)
    with pytest.raises(errors.KeyServerError, match="not for the key"):
        certificates.install(tmp_path / "b.pem", tmp_path / "b.key", signed)


@pytest.mark.parametrize(
    ("command", "wanted", "words"),
    [
        ("primary-keys", {}, b"the input lacks 'here'"),
        ("key-state", {"here": {}, "id": "1", "state": "DESTROYED"}, b"missing"),
        ("sign", {"directory": "/nonexistent"}, b"the input lacks 'csr'"),
        ("primary-keys", {"here": {}, "first": None, "keys": []}, b"missing"),
    ],
)
def test_wrong_input_is_one_sentence(
    server: SoftwareKeyServer, command: str, wanted: dict[str, Any], words: bytes
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        server.command(command, wanted)
    assert words in failed.value.stderr
    assert b"Traceback" not in failed.value.stderr

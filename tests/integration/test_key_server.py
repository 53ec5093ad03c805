# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server: what it adds to PyKMIP's, whom it lets in, and its certificates."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.software_key_server import FILES, SoftwareKeyServer
from kmip.core import enums
from kmip.core.attributes import CustomAttribute
from kmip.core.objects import Attribute
from services.hostile_key_server import make_pair

sys.path.insert(0, str(FILES))
engine: Any = importlib.import_module("key_server.engine")
keys: Any = importlib.import_module("key_server.primary_keys")
certificates: Any = importlib.import_module("key_server.certificates")
errors: Any = importlib.import_module("key_server.errors")

KEY = keys.WantedKey("finance", "1001", "default")
STRANGER = make_pair("stranger", address=None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareKeyServer]:
    made = SoftwareKeyServer(tmp_path_factory.mktemp("kms") / "kms1", "kms1")
    engine.know_add_attribute()
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


def vendor(name: str, value: str) -> Any:
    return Attribute(attribute_name=Attribute.AttributeName(name), attribute_value=CustomAttribute(value))


def add(client: Any, key_id: str, name: str, value: str) -> str:
    """AddAttribute; "" or what the server says against it."""
    payload = engine.AddAttributeRequestPayload(unique_identifier=key_id, attribute=vendor(name, value))
    try:
        client._proxy.send_request_payload(enums.Operation.ADD_ATTRIBUTE, payload)
    except Exception as error:
        return str(error)
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


def test_attributes_go_with_their_key_and_its_id_is_never_used_again(
    server: SoftwareKeyServer, client: Any
) -> None:
    client.make(keys.WantedKey("short lived", "6001", "default"))
    code = enums.RevocationReasonCode.CESSATION_OF_OPERATION
    client._done(client._proxy.revoke(code, "6001"))
    client._done(client._proxy.destroy("6001"))
    assert client.state("6001") is None
    with contextlib.closing(sqlite3.connect(server.folder / "keys.db")) as database:
        left = database.execute("SELECT count(*) FROM vendor_attributes WHERE uid = 6001").fetchone()
    assert left == (0,)
    with pytest.raises(errors.KeyServerError, match="was destroyed"):
        client.make(keys.WantedKey("again", "6001", "default"))


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

# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of objects on a host, by the real Key Provider Service; the agent has a process and a software TPM."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from integration.trusted_site import HOST, TrustedSite
from services.host.trust_authority import PROVIDER
from services.key_provider.harness import KEY_ID, PREVIOUS_ID, PREVIOUS_KEY, PRIMARY_KEY, provider, rotated

from trusted_infrastructure import data_keys, wrapping
from trusted_infrastructure.config.documents import content_of


def before() -> dict[str, Any]:
    """The provider's document with the first primary key."""
    value = wrapping.check_value(PREVIOUS_KEY, PREVIOUS_ID)
    return content_of(provider(master_key_id=PREVIOUS_ID, primary_key_check_value=value))


@pytest.fixture(scope="module")
def site() -> Iterator[TrustedSite]:
    with TrustedSite() as started:
        started.start_agent()
        started.documents["key_provider", PROVIDER] = before()
        started.enroll()
        yield started


@pytest.fixture
def attested(site: TrustedSite) -> Iterator[TrustedSite]:
    """Attested, with the first primary key, and without keys; put back to that after the test."""
    serve(site, before())
    assert site.attest()["state"] == "ATTESTED"
    yield site
    for one in asked(site, "GET", "keys")["keys"]:
        asked(site, "DELETE", f"keys/{one['key_id']}")


def serve(site: TrustedSite, document: dict[str, Any]) -> None:
    """Publish the provider's document, and wait until the service has taken it over."""
    site.documents["key_provider", PROVIDER] = document
    site.publish_trust_authority()
    wanted = document["master_key_id"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        made = asked(site, "POST", "generate", {"object_id": "probe"}, refusals=True)
        found = made.get("record", {})
        if found:
            asked(site, "DELETE", f"keys/{found['key_id']}")
        if found.get("primary_key_id") == wanted:
            return
        time.sleep(0.1)
    raise TimeoutError(f"the service does not wrap with {wanted}: {made}")


def asked(site: TrustedSite, method: str, path: str, body: Any = None, refusals: bool = False) -> Any:
    transport = httpx.HTTPTransport(uds=str(site.folder / "host/run/keys.sock"))
    with httpx.Client(transport=transport, base_url="http://agent", timeout=60) as client:
        answer = client.request(method, f"/agent/keys/v1/{path}", json=body)
    assert refusals or answer.is_success, answer.text
    return answer.json()


def managed(site: TrustedSite, method: str, path: str, body: Any = None) -> Any:
    """As the manager, through the proxy."""
    answer = site.ask(method, path, body, socket_name="management.sock")
    assert answer.is_success, answer.text
    return answer.json()


def test_a_key_is_made_and_comes_back_after_a_restart(attested: TrustedSite) -> None:
    made = asked(attested, "POST", "generate", {"object_id": "vm-1", "component": "Virtual Machine"})
    header = data_keys.parse(base64.b64decode(made["wrapped_key"])).header
    assert (header.type, header.provider, header.object_id) == ("TRUSTED", PROVIDER, "vm-1")
    assert wrapping.parse(header.kek_reference).header.object_label == "vm-1"
    # What the host keeps opens under the primary key of the key server, and nothing else.
    _header, kek = wrapping.unwrap(PREVIOUS_KEY, header.kek_reference)
    assert data_keys.unwrap(kek, data_keys.parse(base64.b64decode(made["wrapped_key"]))) == base64.b64decode(
        made["key"]
    )
    attested.stop_agent()
    attested.start_agent()
    refused = asked(attested, "POST", "get", {"key_id": made["record"]["key_id"]}, refusals=True)
    if "error" in refused:  # it had not attested yet
        assert refused["error"]["code"] in ("not_attested", "configuration_unavailable")
    attested.attest()
    assert asked(attested, "POST", "get", {"key_id": made["record"]["key_id"]})["key"] == made["key"]


def test_a_rotation_and_a_rewrap(attested: TrustedSite) -> None:
    made = [asked(attested, "POST", "generate", {"object_id": f"vm-{number}"}) for number in range(3)]
    serve(attested, content_of(rotated()))
    assert {one["primary_key_id"] for one in managed(attested, "GET", "keys")["keys"]} == {PREVIOUS_ID}
    assert asked(attested, "POST", "get", {"key_id": made[0]["record"]["key_id"]})["key"] == made[0]["key"]
    dry = managed(attested, "POST", "keys/rewrap", {"dry_run": True})
    assert [one["object_id"] for one in dry["rewrapped"]] == ["vm-0", "vm-1", "vm-2"]
    report = managed(attested, "POST", "keys/rewrap", {"provider": PROVIDER})
    assert (report["left"], report["deep_recrypt"]) == ([], [])
    assert {one["primary_key_id"] for one in report["rewrapped"]} == {KEY_ID}
    assert managed(attested, "POST", "keys/rewrap", {})["rewrapped"] == []
    # The old primary key is not needed any more.
    serve(attested, content_of(provider()))
    for one in made:
        assert asked(attested, "POST", "get", {"key_id": one["record"]["key_id"]})["key"] == one["key"]
        assert asked(attested, "POST", "get", {"wrapped_key": one["wrapped_key"]})["key"] == one["key"]


def test_a_compromise_makes_new_key_encryption_keys(attested: TrustedSite) -> None:
    made = asked(attested, "POST", "generate", {"object_id": "vm-1"})
    serve(attested, content_of(rotated(compromised=True)))
    report = managed(attested, "POST", "keys/rewrap", {})
    (record,) = report["rewrapped"]
    assert (record["primary_key_id"], record["deep_recrypt"]) == (KEY_ID, True)
    assert record["kek_id"] != made["record"]["kek_id"]
    assert report["deep_recrypt"] == [record]
    serve(attested, content_of(provider()))
    assert asked(attested, "POST", "get", {"key_id": record["key_id"]})["key"] == made["key"]


def test_the_services_are_told_what_is_kept(attested: TrustedSite) -> None:
    """A dry run asks with a report; the agent reports by itself after each change, too."""
    for number in range(2):
        asked(attested, "POST", "generate", {"object_id": f"vm-{number}"})
    managed(attested, "POST", "keys/rewrap", {"dry_run": True})
    (known,) = attested.key_provider.usage.of(PROVIDER)
    assert (known.host, known.keys) == (HOST, {PREVIOUS_ID: 2})


def test_the_command_line(attested: TrustedSite) -> None:
    socket = str(attested.folder / "host/run/keys.sock")
    program = "import sys; from trusted_infrastructure.cli import main; sys.exit(main())"

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", program, "keys", *arguments, "--socket", socket]
        environment = {"PYTHONPATH": ":".join(sys.path)}
        return subprocess.run(command, capture_output=True, check=True, env=environment)

    made = run("generate", "vm-1", "--output-fd", "1")
    record = msgspec.json.decode(made.stderr)["record"]
    assert len(made.stdout) == 32
    assert run("get", record["key_id"], "--output-fd", "1").stdout == made.stdout


def test_no_key_is_anywhere_but_with_the_caller(attested: TrustedSite) -> None:
    """A known data key, its key encryption key and the primary key, in every file of both machines."""
    made = asked(attested, "POST", "generate", {"object_id": "vm-secret"})
    asked(attested, "POST", "get", {"wrapped_key": made["wrapped_key"]})
    managed(attested, "POST", "keys/rewrap", {"replace": True})
    (kept,) = asked(attested, "GET", "keys")["keys"]
    header = data_keys.parse(base64.b64decode(kept["wrapped_key"])).header
    key = base64.b64decode(made["key"])
    _header, kek = wrapping.unwrap(PREVIOUS_KEY, header.kek_reference)
    listed = msgspec.json.encode([managed(attested, "GET", "keys"), kept, managed(attested, "GET", "status")])
    texts = [path.read_bytes() for path in attested.folder.rglob("*") if path.is_file()]
    assert any(b"vm-secret" in text for text in texts)
    for secret in (key, kek, PREVIOUS_KEY, PRIMARY_KEY):
        for spelling in (
            secret,
            secret.hex().encode(),
            base64.b64encode(secret),
            repr(secret)[2:-1].encode(),
        ):
            assert not any(spelling in text for text in [*texts, listed])


def test_the_sockets_are_for_whom_they_should(attested: TrustedSite) -> None:
    run_directory = attested.folder / "host/run"
    modes = {path.name: path.stat().st_mode & 0o777 for path in run_directory.iterdir()}
    assert modes == {"keys.sock": 0o666, "local.sock": 0o600, "management.sock": 0o660}
    if os.getuid() == 0:  # reach the socket as nobody does: the directory of the test is root's alone
        folder = os.open(run_directory, os.O_RDONLY)
        program = f"""
import os, socket
os.fchdir({folder})
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect("keys.sock")
try:
    connection.sendall(b"GET /agent/keys/v1/keys HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
    print(connection.recv(10))
except ConnectionError:
    print("closed")
"""
        run_directory.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, pass_fds=[folder], check=True
        )
        os.close(folder)
        assert done.stdout.strip() in (b"closed", b"b''")

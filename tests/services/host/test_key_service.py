# SPDX-License-Identifier: GPL-3.0-or-later
"""keys.sock and `trusted-infrastructure keys`: who may connect, what they see, and where a key goes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services.asgi_client import AsgiClient
from services.host.key_manager import KeyManager
from services.host.software_host import SoftwareHost
from services.host.test_object_keys import FIRST, KEY
from services.served import Served, serving

from trusted_infrastructure import cli, data_keys
from trusted_infrastructure.host import key_commands
from trusted_infrastructure.host.key_service import BODY_LIMIT, key_application

BASE = "/agent/keys/v1"
NOBODY = 65534
OTHER = 65533
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="becomes other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def manager(folder: Path) -> KeyManager:
    (folder / "host").mkdir(mode=0o700)
    manager = KeyManager(SoftwareHost(folder / "host"))
    manager.providers(default="local", local="NATIVE")
    asyncio.run(manager.push("local", (FIRST, KEY)))
    return manager


@pytest.fixture
def agent(folder: Path, manager: KeyManager) -> Iterator[Served]:
    """The agent's third socket, open to root and nobody."""
    app = key_application(manager.host.agent.host_keys)
    with serving(folder, {"keys.sock": app}, own_users={folder / "keys.sock": [NOBODY]}) as served:
        yield served


def as_user(uid: int, served: Served, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`trusted-infrastructure keys` of another user."""
    program = "import sys; from trusted_infrastructure.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        program,
        "keys",
        *arguments,
        "--socket",
        str(served.directory / "keys.sock"),
    ]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        command,
        capture_output=True,
        check=False,
        env=environment,
        user=uid,
        group=uid,
        extra_groups=[],
        **options,
    )


def asked(served: Served, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    with served.client("keys.sock") as client:
        answer = client.request(method, BASE + path, json=body)
        return answer.status_code, answer.json()


# ---- who may connect ----------------------------------------------------------------------------------


@ROOT
def test_only_root_and_the_users_of_the_setting_may_connect(agent: Served) -> None:
    assert as_user(NOBODY, agent, "list").returncode == 0
    done = as_user(OTHER, agent, "list")
    assert done.returncode == 1
    answer = json.loads(done.stdout)["error"]
    assert (answer["code"], "key_users" in answer["remedy"]) == ("peer_unreachable", True)
    assert "port" not in answer["remedy"]
    assert [line["uid"] for line in agent.log() if line["event"] == "peer_refused"] == [OTHER]
    assert asked(agent, "GET", "/keys") == (200, {"keys": []})


def test_the_socket_is_open_to_connect_to_and_the_others_are_not(agent: Served, folder: Path) -> None:
    assert (folder / "keys.sock").stat().st_mode & 0o777 == 0o666


def traced(served: Served) -> list[tuple[str, str, str, str, str]]:
    """(operation, key_id, object_id, provider, outcome) of what root did, as the log has it."""
    lines = [line for line in served.log() if line["event"] == "key_operation"]
    assert {line["uid"] for line in lines} <= {os.getuid()}
    names = ("operation", "key_id", "object_id", "provider", "outcome")
    return [tuple(line[name] for name in names) for line in lines]


def test_what_is_done_with_a_key_is_in_the_log_and_the_key_is_not(agent: Served) -> None:
    generate = {"object_id": "vm-1"}
    assert asked(agent, "POST", "/generate", generate | {"provider": "nowhere"})[0] == 404
    assert asked(agent, "POST", "/get", {"key_id": "unknown" * 30})[0] == 404
    assert asked(agent, "POST", "/rewrap", {"target": "nowhere"})[0] == 404
    refused = [
        ("generate", "", "vm-1", "nowhere", "provider_unknown"),
        ("get", ("unknown" * 30)[:64], "", "", "key_unknown"),
        ("rewrap", "", "", "nowhere", "provider_unknown"),
    ]
    assert traced(agent) == refused
    _status, made = asked(agent, "POST", "/generate", generate)
    key_id = made["record"]["key_id"]
    asked(agent, "POST", "/get", {"key_id": key_id})
    _status, found = asked(agent, "POST", "/get", {"wrapped_key": made["wrapped_key"]})
    asked(agent, "POST", "/rewrap", {"replace": True, "dry_run": True})
    asked(agent, "POST", "/rewrap", {"replace": True})
    asked(agent, "DELETE", f"/keys/{key_id}")
    asked(agent, "GET", "/keys")
    steps = ("generate", "get", "get", "rewrap", "forget")
    done = [(operation, key_id, "vm-1", "local", "OK") for operation in steps]
    assert traced(agent) == refused + done
    secret = base64.b64decode(found["key"])
    log = (agent.directory / "log").read_bytes()
    assert secret.hex().encode() not in log and found["key"].encode() not in log


@ROOT
def test_who_reaches_for_the_key_of_another_is_in_the_log(agent: Served) -> None:
    _status, made = asked(agent, "POST", "/generate", {"object_id": "vm-1"})
    for command in ("get", "forget", "rewrap"):
        as_user(NOBODY, agent, command, made["record"]["key_id"])
        line = [line for line in agent.log() if line["event"] == "key_operation"][-1]
        assert (line["uid"], line["operation"], line["outcome"]) == (NOBODY, command, "key_unknown")
        assert (line["object_id"], line["provider"]) == ("vm-1", "local")


@ROOT
def test_users_see_their_own_keys(agent: Served) -> None:
    made = json.loads(as_user(NOBODY, agent, "generate", "vm-1").stdout)
    assert made["record"]["object_id"] == "vm-1"
    _status, of_root = asked(agent, "POST", "/generate", {"object_id": "vm-2"})
    mine = json.loads(as_user(NOBODY, agent, "list").stdout)["keys"]
    assert [(one["object_id"], one["owner"]) for one in mine] == [("vm-1", NOBODY)]
    _status, every = asked(agent, "GET", "/keys")
    assert {(one["object_id"], one["owner"]) for one in every["keys"]} == {("vm-1", NOBODY), ("vm-2", 0)}
    of_both = [mine[0]["key_id"], of_root["record"]["key_id"]]
    for command in (["get", of_both[1]], ["forget", of_both[1]], ["rewrap", "--replace", *of_both]):
        done = as_user(NOBODY, agent, *command)
        assert json.loads(done.stdout)["error"]["code"] == "key_unknown"
    assert asked(agent, "GET", "/keys") == (200, every)
    done = as_user(NOBODY, agent, "rewrap", "--replace")
    assert [one["object_id"] for one in json.loads(done.stdout)["rewrapped"]] == ["vm-1"]


def test_without_the_kernels_word_nobody_is_anybody(manager: KeyManager) -> None:
    """The application is of use only where a server says who calls."""
    client = AsgiClient(key_application(manager.host.agent.host_keys))
    answer = client.get(f"{BASE}/keys")
    assert answer.status_code == 500
    assert "keys" not in answer.json()


# ---- requests -----------------------------------------------------------------------------------------

BODIES: dict[str, tuple[str, Any, str]] = {
    "no object": ("/generate", {}, "body"),
    "an empty object": ("/generate", {"object_id": ""}, "object_id"),
    "a long object": ("/generate", {"object_id": "x" * 256}, "object_id"),
    "a line end": ("/generate", {"object_id": "a\nb"}, "object_id"),
    "an unknown field": ("/generate", {"object_id": "a", "uid": 0}, "body"),
    "neither": ("/get", {}, "key_id"),
    "both": ("/get", {"key_id": "a", "wrapped_key": "YQ=="}, "key_id"),
    "no base64": ("/get", {"wrapped_key": "*"}, "wrapped_key"),
    "a key id that is none": ("/get", {"key_id": 1}, "key_id"),
    "another user's": ("/rewrap", {"owner": 0}, "body"),
    "no list": ("/rewrap", {"key_ids": "a"}, "key_ids"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies_name_the_field(agent: Served, name: str) -> None:
    path, body, field = BODIES[name]
    status, answer = asked(agent, "POST", path, body)
    assert (status, answer["error"]["code"]) == (400, "malformed_request")
    assert answer["error"]["message"].startswith(f"{field}:") or field == "body"


def test_what_is_no_wrapped_key(agent: Served) -> None:
    status, answer = asked(agent, "POST", "/get", {"wrapped_key": "YWJj"})
    assert (status, answer["error"]["code"]) == (403, "wrapped_key_invalid")


def test_a_large_body_is_refused(agent: Served) -> None:
    with agent.client("keys.sock") as client:
        answer = client.post(f"{BASE}/generate", content=b" " * (BODY_LIMIT + 1))
    assert answer.status_code == 413


def test_the_managers_paths_are_not_here(agent: Served) -> None:
    for path in ("/agent/manage/v1/keys", "/agent/manage/v1/standard-keys", "/agent/local/v1/token"):
        with agent.client("keys.sock") as client:
            assert client.get(path).status_code == 404


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1e3", "99999"])
def test_what_is_no_page_for_the_manager_is_refused(manager: KeyManager, limit: str) -> None:
    answer = asyncio.run(manager.call("GET", f"keys?limit={limit}"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_request")
    assert answer.json()["error"]["message"].startswith("limit:")


def test_the_manager_reads_page_by_page(manager: KeyManager) -> None:
    objects = manager.host.agent.host_keys.objects
    made = sorted(asyncio.run(objects.generate(_use(f"vm-{number}"))).record.key_id for number in range(5))

    def page(query: str) -> list[str]:
        return [key["key_id"] for key in asyncio.run(manager.call("GET", f"keys{query}")).json()["keys"]]

    assert page("?limit=2") == made[:2]
    assert page(f"?limit=2&after={made[1]}") == made[2:4]
    assert page(f"?limit=1000&after={made[3]}") == made[4:]
    assert page(f"?limit=2&after={made[4]}") == []
    assert sorted(page("")) == made


@pytest.mark.parametrize("limit", ["0", "1001", "x", ""])
def test_what_is_no_page_for_users_is_refused(agent: Served, limit: str) -> None:
    status, answer = asked(agent, "GET", f"/keys?limit={limit}")
    assert (status, answer["error"]["message"].partition(":")[0]) == (400, "limit")


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_command_lists_all_pages(
    agent: Served, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """And reads no more at once than a page."""
    sizes: list[int] = []
    given = key_commands._ask

    def counted(*arguments: Any) -> dict[str, Any]:
        answer = given(*arguments)
        sizes.append(len(answer["keys"]))
        return answer

    monkeypatch.setattr(key_commands, "PAGE", 2)
    monkeypatch.setattr(key_commands, "_ask", counted)
    made = [
        asked(agent, "POST", "/generate", {"object_id": f"vm-{number}"})[1]["record"]
        for number in range(count)
    ]
    assert run(agent, "list") == 0
    listed = json.loads(capfd.readouterr().out)["keys"]
    assert [key["key_id"] for key in listed] == sorted(key["key_id"] for key in made)
    assert sizes == {3: [2, 1], 4: [2, 2, 0], 5: [2, 2, 1]}[count]


def test_the_managers_socket_hands_out_no_key(manager: KeyManager) -> None:
    made = asyncio.run(manager.host.agent.host_keys.objects.generate(_use("vm-1")))
    listed = asyncio.run(manager.call("GET", "keys"))
    assert [one["key_id"] for one in listed.json()["keys"]] == [made.record.key_id]
    assert bytes(made.key).hex() not in listed.text
    for path in ("keys/generate", "keys/get"):
        assert asyncio.run(manager.call("POST", path, {})).status_code in (404, 405)
    assert asyncio.run(manager.call("DELETE", f"keys/{made.record.key_id}")).status_code == 200
    assert asyncio.run(manager.call("DELETE", f"keys/{made.record.key_id}")).status_code == 404


def _use(object_id: str) -> Any:
    from trusted_infrastructure.host.key_encryption_keys import ObjectOfKey

    return ObjectOfKey(object_id)


# ---- the command line ---------------------------------------------------------------------------------


def run(served: Served, *arguments: str) -> int:
    return cli.main(["keys", *arguments, "--socket", str(served.directory / "keys.sock")])


def test_a_key_goes_to_the_named_descriptor_and_nowhere_else(
    agent: Served, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (folder / "key").open("wb") as file:
        assert run(agent, "generate", "vm-1", "--name", "web", "--output-fd", str(file.fileno())) == 0
    key, out = (folder / "key").read_bytes(), capfd.readouterr()
    made = json.loads(out.out)
    assert len(key) == 32 and sorted(made) == ["record", "wrapped_key"]
    assert made["record"]["name"] == "web"
    (folder / "wrapped").write_bytes(base64.b64decode(made["wrapped_key"]))
    (folder / "text").write_text(made["wrapped_key"] + "\n")
    ways = [(made["record"]["key_id"],), ("--wrapped-key", str(folder / "wrapped"))]
    for arguments in [*ways, ("--wrapped-key", str(folder / "text"))]:
        with (folder / "again").open("wb") as file:
            assert run(agent, "get", *arguments, "--output-fd", str(file.fileno())) == 0
        assert (folder / "again").read_bytes() == key
    capfd.readouterr()
    assert run(agent, "get", made["record"]["key_id"]) == 0
    said = capfd.readouterr()
    assert sorted(json.loads(said.out)) == ["record", "wrapped_key"]
    for text in (out.out, out.err, said.out, said.err):
        assert key.hex() not in text and base64.b64encode(key).decode() not in text


def piped(agent: Served, *command: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, whose key goes to standard output."""
    arguments = ["keys", *command, "--output-fd", "1", "--socket", str(agent.directory / "keys.sock")]
    program = "import sys; from trusted_infrastructure.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )


def test_a_refusal_is_never_where_a_key_was_to_be(agent: Served) -> None:
    with open("/dev/full", "wb") as full:
        found = piped(agent, "generate", "vm-1", stdout=full)
    assert found.returncode == 1 and b"Traceback" not in found.stderr
    assert b"--output-fd: cannot write key" in found.stderr
    found = piped(agent, "get", "no-key")
    assert (found.returncode, found.stdout) == (1, b"")
    assert b"key_unknown" in found.stderr and b"Traceback" not in found.stderr


def test_the_key_may_go_down_a_pipe(agent: Served) -> None:
    done = piped(agent, "generate", "vm-1")
    assert len(done.stdout) == 32
    assert json.loads(done.stderr)["record"]["object_id"] == "vm-1"


def test_a_terminal_is_refused_before_a_key_is_made(agent: Served, capfd: pytest.CaptureFixture[str]) -> None:
    master, terminal = os.openpty()
    with open("/dev/null", "rb") as readable:
        for descriptor in (terminal, readable.fileno(), 999, -1, 2**40):
            assert run(agent, "generate", "vm-1", "--output-fd", str(descriptor)) == 1
            assert "--output-fd" in json.loads(capfd.readouterr().out)["error"]["message"]
    os.close(master)
    os.close(terminal)
    assert asked(agent, "GET", "/keys") == (200, {"keys": []})


def test_a_descriptor_that_takes_no_key_is_said(agent: Served, capfd: pytest.CaptureFixture[str]) -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb", buffering=0) as full:
        for descriptor, reason in ((full.fileno(), "No space left"), (pipe, "Broken pipe")):
            assert run(agent, "generate", "vm-1", "--output-fd", str(descriptor)) == 1
            message = json.loads(capfd.readouterr().out)["error"]["message"]
            assert message.startswith("--output-fd") and reason in message
            assert run(agent, "list") == 0
            (kept,) = json.loads(capfd.readouterr().out)["keys"]
            assert kept["key_id"] in message  # so that the key can be had again, or forgotten
            assert run(agent, "forget", kept["key_id"]) == 0
            capfd.readouterr()
    os.close(pipe)


def test_the_other_commands(agent: Served, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(agent, "generate", "vm-1", "--component", "Virtual Machine") == 0
    made = json.loads(capfd.readouterr().out)["record"]
    assert run(agent, "list") == 0
    (listed,) = json.loads(capfd.readouterr().out)["keys"]
    assert {name: listed[name] for name in made} == made
    header = data_keys.parse(base64.b64decode(listed["wrapped_key"])).header
    assert (header.component, header.key_id) == ("Virtual Machine", made["key_id"])
    assert run(agent, "rewrap", "--replace", "--check") == 0
    assert [one["kek_id"] for one in json.loads(capfd.readouterr().out)["rewrapped"]] == [made["kek_id"]]
    assert run(agent, "rewrap", made["key_id"], "--replace") == 0
    (moved,) = json.loads(capfd.readouterr().out)["rewrapped"]
    assert moved["kek_id"] != made["kek_id"]
    assert run(agent, "rewrap", "--target", "hr") == 1
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "provider_unknown"
    assert run(agent, "forget", made["key_id"]) == 0
    assert json.loads(capfd.readouterr().out)["record"]["key_id"] == made["key_id"]
    assert run(agent, "forget", made["key_id"]) == 1
    capfd.readouterr()
    assert run(agent, "get", "--wrapped-key", "/nonexistent") == 1
    assert "--wrapped-key" in json.loads(capfd.readouterr().out)["error"]["message"]

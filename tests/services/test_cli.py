# SPDX-License-Identifier: GPL-3.0-or-later
"""The command: JSON in and out, exit codes, and that secrets stay out of sight."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from services.served import serving
from services.side_authority import SideAuthority
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure import cli
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.transport import Application, JSONAnswer


class Command:
    """Runs the command in this process: (exit code, parsed stdout, stderr)."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def text(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(stdin)))
        code = cli.main(arguments)
        output = self._capsys.readouterr()
        return code, output.out, output.err

    def __call__(self, *arguments: str, send: Any = None, stdin: bytes | None = None) -> tuple[int, Any, str]:
        body = json.dumps(send).encode() if stdin is None else stdin
        code, out, err = self.text(*arguments, stdin=body)
        return code, json.loads(out), err


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


# ---- identity and authority ----


def _wanted(directory: Path) -> dict[str, Any]:
    leaf = {"name": "server", "role": "server", "host": "ta1", "side": "trust_authority", "dns": ["ta1"]}
    return {"directory": str(directory), "leaves": [leaf]}


@pytest.fixture
def unowned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not run as root: keys stay with who runs them."""
    from trusted_infrastructure.identity import files

    monkeypatch.setattr(files, "_ids", lambda _leaf: (files.os.getuid(), files.os.getgid()))


def test_the_whole_way_of_a_certificate(command: Command, tmp_path: Path, unowned: None) -> None:
    tls, ca = tmp_path / "tls", tmp_path / "ca"
    tls.mkdir()
    ca.mkdir()
    authority = {"directory": str(ca), "side": "trust_authority", "common_name": "CA"}
    assert command("authority", "ensure", "--check", send=authority)[1]["changed"] is True
    assert command("authority", "ensure", send=authority)[1]["changed"] is True
    assert command("authority", "ensure", send=authority)[1]["changed"] is False
    ensured = command("identity", "ensure", send=_wanted(tls))[1]
    signed = command("authority", "sign", send={"directory": str(ca), "requests": ensured["requests"]})[1]
    install = {"directory": str(tls), "certificates": signed["certificates"], "side_ca": signed["side_ca"]}
    assert command("identity", "install", "--check", send=install)[1]["changed"] is True
    assert command("identity", "install", send=install)[1]["changed"] is True
    assert command("identity", "install", send=install)[1]["changed"] is False
    code, answer, _err = command("identity", "ensure", send=_wanted(tls))
    assert (code, answer["changed"], answer["requests"]) == (0, False, [])


INPUTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "stdin"),
    "empty": (b"", "stdin"),
    "not UTF-8": (b'{"directory":"\xff"}', "stdin"),
    "a list": (b"[]", "stdin"),
    "missing field": (b"{}", "stdin"),
    "unknown field": (b'{"directory":"/tmp","leaves":[],"requests":[],"x":1}', "stdin"),
    "wrong type": (b'{"directory":7}', "directory"),
    "no directory": (
        b'{"directory":"/no/such","leaves":[],"requests":[],"side":"workload","common_name":"x"}',
        "",
    ),
}


@pytest.mark.parametrize(("stdin", "field"), INPUTS.values(), ids=INPUTS.keys())
@pytest.mark.parametrize(
    "name", [("identity", "ensure"), ("identity", "install"), ("authority", "ensure"), ("authority", "sign")]
)
def test_bad_input_is_an_error_object(
    command: Command, name: tuple[str, str], stdin: bytes, field: str
) -> None:
    code, answer, err = command(*name, stdin=stdin)
    assert code == 1
    assert answer["error"]["code"] == "malformed_request"
    assert answer["error"]["message"].startswith(field)
    assert err.startswith("trusted-infrastructure: malformed_request")
    assert "Traceback" not in err


def test_too_much_input_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "INPUT_LIMIT", 10)
    code, answer, _err = command("identity", "ensure", stdin=b" " * 11)
    assert (code, answer["error"]["message"]) == (1, "stdin: larger than 10 bytes")


def test_a_key_that_is_given_does_not_come_back(command: Command, tmp_path: Path) -> None:
    brought = SideAuthority()
    secret = brought.key.decode().splitlines()[1]
    send = {
        "directory": str(tmp_path),
        "side": "trust_authority",
        "common_name": "CA",
        "certificate": SideAuthority().certificate,
        "private_key": brought.key.decode(),
    }
    code, answer, err = command("authority", "ensure", send=send)
    assert (code, answer["error"]["code"]) == (1, "malformed_request")
    assert secret not in json.dumps(answer) + err


# ---- passwords ----


@pytest.mark.parametrize("stdin", [b"correct horse", b"correct horse\n", b"correct horse\r\n"])
def test_a_password_is_hashed_without_its_line_end(command: Command, stdin: bytes) -> None:
    code, out, _err = command.text("user", "hash-password", stdin=stdin)
    assert code == 0
    assert out.startswith("$argon2id$")
    assert PasswordHasher().verify(out.strip(), b"correct horse")


@pytest.mark.parametrize("stdin", [b"", b"\n", b"x" * 4097])
def test_no_password_and_too_long_ones_are_refused(command: Command, stdin: bytes) -> None:
    code, out, err = command.text("user", "hash-password", stdin=stdin)
    assert (code, out) == (1, "")
    assert "password" in err


# ---- serve ----


@pytest.fixture
def hardened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What serve does to the process, without doing it to this one."""
    done: list[str] = []
    monkeypatch.setattr(cli, "forbid_dumps", lambda: done.append("forbid_dumps"))
    monkeypatch.setattr(cli, "lock_memory", lambda: done.append("lock_memory"))
    return done


@pytest.mark.parametrize(
    ("service", "settings", "locked"),
    [
        ("attestation", "{}", True),
        ("key-provider", "{}", True),
        ("agent", "{}", True),
        ("config", "{}", False),
        ("manager", "{}", True),
        ("agent", '{"lock_memory": true}', True),
        ("agent", '{"lock_memory": "false"}', True),
        ("agent", '{"lock_memory": 0}', True),
        ("agent", "broken", True),
        ("agent", '{"lock_memory": false}', False),
    ],
)
def test_services_with_keys_lock_their_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hardened: list[str],
    service: str,
    settings: str,
    locked: bool,
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(settings)
    module = types.ModuleType("fake")
    module.run = lambda given: hardened.append(f"run {given}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, cli.SERVICES[service].module, module)
    assert cli.main(["serve", service, "--settings", str(path)]) == 0
    assert hardened == ["forbid_dumps", *(["lock_memory"] if locked else []), f"run {path}"]


def test_memory_that_cannot_be_locked_stops_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise Refusal("hardening_failed", "mlockall: no", "set LimitMEMLOCK")

    module = types.ModuleType("fake")
    module.run = lambda _path: hardened.append("run")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, cli.SERVICES["agent"].module, module)
    monkeypatch.setattr(cli, "lock_memory", refuse)
    assert cli.main(["serve", "agent", "--settings", str(tmp_path / "x")]) == 1
    assert hardened == ["forbid_dumps"]
    assert "hardening_failed" in capsys.readouterr().err


def test_bad_settings_end_a_service_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"host":"ta1"}')
    command = [sys.executable, "-m", "trusted_infrastructure.cli", "serve", "config"]
    done = subprocess.run(
        [*command, "--settings", str(tmp_path / "config.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "settings_invalid" in done.stderr and "config.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["serve"], ["serve", "other"], ["identity"], ["agent", "other"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


# ---- agent ----


async def _status(_request: Request) -> Response:
    return JSONAnswer({"host_id": "host1"})


async def _key_check(request: Request) -> Response:
    return JSONAnswer({"asked": await request.json()})


async def _attest(_request: Request) -> Response:
    raise Refusal("no_base_image", "no image fits", "capture one")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[list[str]]:
    """A stand-in for the agent; the arguments that name its socket."""
    routes = [
        Route("/agent/manage/v1/status", _status),
        Route("/agent/manage/v1/attest", _attest, methods=["POST"]),
        Route("/agent/manage/v1/key-check", _key_check, methods=["POST"]),
    ]
    with serving(tmp_path, {"local.sock": Application(routes)}):
        yield ["--socket", str(tmp_path / "local.sock")]


def test_the_agent_is_asked_on_its_socket(command: Command, agent: list[str]) -> None:
    assert command("agent", "status", *agent)[:2] == (0, {"host_id": "host1"})
    assert command("agent", "key-check", *agent)[:2] == (0, {"asked": {"provider": None}})
    answer = command("agent", "key-check", "--provider", "p1", *agent)
    assert answer[:2] == (0, {"asked": {"provider": "p1"}})
    code, refused, err = command("agent", "attest", *agent)
    assert code == 1
    assert refused == {
        "error": {"code": "no_base_image", "message": "no image fits", "remedy": "capture one"}
    }
    assert "capture one" in err


def test_an_agent_that_is_not_there_is_said(command: Command, tmp_path: Path) -> None:
    code, answer, _err = command("agent", "status", "--socket", str(tmp_path / "none.sock"))
    assert (code, answer["error"]["code"]) == (1, "peer_unreachable")
    assert "ti-agent.service" in answer["error"]["remedy"] and "port" not in answer["error"]["remedy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "generate", "vm\udcff"),
        ("keys", "generate", "vm", "--name", "a\udcff"),
        ("keys", "get", "\udcff"),
        ("keys", "get", "--wrapped-key", "\udcff"),
        ("keys", "forget", "\udcff"),
        ("keys", "rewrap", "\udcff"),
        ("keys", "list", "--socket", "\udcff"),
        ("agent", "key-check", "--provider", "\udcff"),
    ],
)
def test_what_is_not_utf_8_is_refused(command: Command, arguments: tuple[str, ...]) -> None:
    """So Python gives the byte 0xFF of a command line."""
    code, answer, err = command(*arguments)
    assert (code, answer["error"]["code"]) == (1, "malformed_request")
    assert "\\udcff" in answer["error"]["message"] and "\\udcff" in err


def test_the_command_starts_without_the_services() -> None:
    """Ansible runs `identity` on every host: it must not import web servers, TPM or KMIP."""
    program = """
import sys
from trusted_infrastructure import cli
from trusted_infrastructure.identity import files
print(sorted({"uvicorn", "starlette", "httpx", "kmip", "tpm2_pytss"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

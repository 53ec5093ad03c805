# SPDX-License-Identifier: GPL-3.0-or-later
"""Known keys are put through the agent, and looked for everywhere but in its memory: logs, state, sockets'
answers, core dumps, what the kernel shows of the process."""

from __future__ import annotations

import base64
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.key_host import NATIVE, STANDARD, KeyHost, allow_dumps
from integration.key_traces import forms, traces, traces_below, traces_of_process

from trusted_infrastructure import data_keys, wrapping

KDK_ID, OLD_KDK_ID = "6f1e0c2a-1d7b-4a51-9a53-0d8f5f0f6f01", "0c9d6a55-7b0e-4c67-8a0c-2f7d4c0b8e02"
KDKS = {key_id: os.urandom(32) for key_id in (KDK_ID, OLD_KDK_ID)}
KEKS = {f"kek-{number}": os.urandom(32) for number in range(4)}


@pytest.fixture
def host() -> Iterator[KeyHost]:
    with KeyHost(KEKS) as started:
        yield started


def used(host: KeyHost) -> dict[str, bytes]:
    """Put all keys to use; name -> key, for those of providers, of objects, and in between."""
    assert host.push(KDKS).json()["sealed"] is True
    made = [
        host.use("POST", "generate", {"object_id": "web1", "provider": NATIVE}),
        *host.with_manager(("POST", "generate", {"object_id": "web2", "provider": STANDARD})),
    ]
    again = [host.use("POST", "get", {"key_id": one["record"]["key_id"]}) for one in made]
    keys = {f"KDK {key_id}": key for key_id, key in KDKS.items()}
    for one, same in zip(made, again, strict=True):
        assert one["key"] == same["key"]
        keys[f"DEK of {one['record']['object_id']}"] = base64.b64decode(one["key"])
    native = data_keys.parse(base64.b64decode(made[0]["wrapped_key"]))
    keys["native KEK"] = wrapping.unwrap(KDKS[KDK_ID], native.header.kek_reference)[1]
    assert data_keys.unwrap(keys["native KEK"], native) == keys["DEK of web1"]
    standard = data_keys.parse(base64.b64decode(made[1]["wrapped_key"]))
    keys["standard KEK"] = KEKS[standard.header.kek_id]
    assert data_keys.unwrap(keys["standard KEK"], standard) == keys["DEK of web2"]
    return keys


def provoked(host: KeyHost) -> set[str]:
    """Refusals, whose messages must not tell either; their codes."""
    refused = [
        host.push(KDKS, check_value="0" * 64),
        host.push({KDK_ID: bytes(reversed(KDKS[KDK_ID]))}),
        host.push(KDKS, instance="0" * 32),
        host.push(KDKS, provider="another"),
        host.manage("DELETE", "standard-keys/nobody?key_id=none"),
    ]
    stolen = base64.b64encode(KDKS[KDK_ID]).decode()
    answers = [
        host.use("POST", "get", {"wrapped_key": stolen}),
        host.use("POST", "get", {"key_id": stolen, "key": stolen}),
        host.use("POST", "generate", {"object_id": "x", "provider": "nobody"}),
    ]
    codes = {answer.json()["error"]["code"] for answer in refused if answer.is_error}
    return codes | {answer["error"]["code"] for answer in answers}


def found(host: KeyHost, keys: dict[str, bytes]) -> list[str]:
    answers = traces(b"\n".join(host.answers), keys)
    return traces_below([host.folder], keys) + [f"answers to the manager: {one}" for one in answers]


def test_known_keys_are_nowhere(host: KeyHost) -> None:
    keys = used(host)
    assert {"key_mismatch", "delivery_stale", "sealed_value_invalid", "provider_unknown"} <= provoked(host)
    assert found(host, keys) == []
    assert traces_of_process(host.process.pid, keys) == []
    # It ran: there is a log, and what is stored is the wrapped keys and the sealed provider.
    assert "native_provider_received" in (host.folder / "log").read_text()
    stored = {path.parent.name for path in (host.folder / "state").rglob("*.json")}
    assert {"keys", "native_providers"} <= stored
    for path in (host.folder / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("death", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_dies_leaves_no_key(host: KeyHost, death: signal.Signals) -> None:
    keys = used(host)
    limits = Path(f"/proc/{host.process.pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    host.process.send_signal(death)
    host.process.wait(timeout=20)
    assert list((host.folder / "working").iterdir()) == []
    assert found(host, keys) == []
    # What is stored is enough: started again, with the manager silent, the native provider serves.
    host.start()
    kept = {one["object_id"]: one["key_id"] for one in host.use("GET", "keys")["keys"]}
    again = opened(host, kept["web1"])
    assert again == keys["DEK of web1"]
    assert found(host, keys) == []


def opened(host: KeyHost, key_id: str) -> bytes:
    """The key, which comes when the agent has unsealed the provider."""
    end = time.monotonic() + 20
    while "key" not in (answer := host.use("POST", "get", {"key_id": key_id})):
        assert answer["error"]["code"] == "native_provider_locked", answer
        assert time.monotonic() < end, answer
        time.sleep(0.02)
    return base64.b64decode(answer["key"])


# ---- the search finds what is there -----------------------------------------------------------------------


@pytest.mark.parametrize("form", forms(bytes(32)))
def test_every_form_is_found(tmp_path: Path, form: str) -> None:
    key = KDKS[KDK_ID]
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/file").write_bytes(b"before" + forms(key)[form] + b"after")
    assert any(f"known as {form}" in one for one in traces_below([tmp_path], {"known": key}))


@pytest.mark.parametrize("before", range(3))
def test_base64_is_found_wherever_it_begins(before: int) -> None:
    text = base64.b64encode(b"abcdef"[:before] + KDKS[KDK_ID] + b"and more")
    assert traces(text, {"known": KDKS[KDK_ID]}) != []
    assert traces(text, {"known": KDKS[OLD_KDK_ID]}) == []


def test_a_process_that_is_not_hardened_leaves_its_key(tmp_path: Path) -> None:
    """What a core dump shows, where this machine writes one: so the tests above can fail."""
    key = KDKS[KDK_ID]
    program = "import os, sys; key = bytearray.fromhex(sys.stdin.read()); print(flush=True); os.abort()"
    subprocess.run(
        [sys.executable, "-c", program],
        input=key.hex(),
        text=True,
        cwd=tmp_path,
        capture_output=True,
        preexec_fn=allow_dumps,
        timeout=30,
        check=False,
    )
    here = not Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/"))
    allowed = resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
    if here and allowed:
        assert traces_below([tmp_path], {"known": key}) != []

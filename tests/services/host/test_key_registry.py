# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of wrapped data keys: a crash at any moment, files that were changed; no key is in them."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from services.host.key_manager import KeyManager
from services.host.software_host import SoftwareHost
from services.host.test_object_keys import FIRST, KEY, KINDS, USE, generate, get, rewrap, rotate, served

from trusted_infrastructure import state_files
from trusted_infrastructure.host import key_registry
from trusted_infrastructure.host.key_registry import KeptKey, KeyRegistry
from trusted_infrastructure.refusal import Refusal, Unavailable


@pytest.fixture
def manager(tmp_path: Path) -> KeyManager:
    manager = KeyManager(SoftwareHost(tmp_path))
    manager.providers(default="local", **KINDS)
    asyncio.run(manager.host.agent.attest())
    asyncio.run(manager.push("local", (FIRST, KEY)))
    return manager


def files(manager: KeyManager) -> list[Path]:
    return sorted((manager.host.folder / "state/keys").iterdir())


def reopened(manager: KeyManager) -> KeyRegistry:
    return KeyRegistry(manager.host.folder / "state/keys")


class Crash(BaseException):
    """The process ends here."""


def crash(*_arguments: Any, **_options: Any) -> Any:
    raise Crash


STEPS = {
    "before the file is opened": "open",
    "before the file is on the disk": "fsync",
    "before the file has its name": "replace",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_old_form_readable(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = generate(manager, "local")
    with monkeypatch.context() as patched:
        patched.setattr(state_files.os, STEPS[step], crash)
        with pytest.raises(Crash):
            asyncio.run(manager.host.agent.host_keys.objects.rewrap(made.record.key_id, replace=True))
    (kept,) = reopened(manager).all()
    assert (kept.record, kept.wrapped_key) == (made.record, made.wrapped_key)
    assert not [path for path in files(manager) if path.name.startswith(".")]
    manager.host.agent.host_keys.registry._kept = {kept.record.key_id: kept}
    assert get(manager, made.record.key_id).key == made.key


def test_a_crash_after_the_file_has_its_name_leaves_the_new_form_readable(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generate(manager, "local")
    replace = os.replace

    def replace_and_crash(*arguments: Any) -> None:
        replace(*arguments)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(state_files.os, "replace", replace_and_crash)
        with pytest.raises(Crash):
            asyncio.run(manager.host.agent.host_keys.objects.rewrap(made.record.key_id, replace=True))
    (kept,) = reopened(manager).all()
    assert kept.record.kek_id != made.record.kek_id
    manager.host.agent.host_keys.registry._kept = {kept.record.key_id: kept}
    assert get(manager, made.record.key_id).key == made.key


def test_a_key_that_is_not_on_the_disk_is_not_handed_out(
    manager: KeyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise Unavailable("state_unusable", "no space left")

    monkeypatch.setattr(key_registry, "write_state", full)
    for provider in ("local", "store"):
        with pytest.raises(Unavailable):
            generate(manager, provider)
    assert manager.host.agent.host_keys.registry.all() == []
    assert manager.host.agent.host_keys.standard.names().keys == []


def test_who_asked_may_go_away(manager: KeyManager) -> None:
    """A request that is cancelled while it writes leaves memory and disk the same."""

    async def run() -> None:
        objects = manager.host.agent.host_keys.objects
        task = asyncio.create_task(objects.generate(USE, "local"))
        while not files(manager):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(20):
            while not objects.registry.all():
                await asyncio.sleep(0.001)

    asyncio.run(run())
    assert manager.host.agent.host_keys.registry.all() == reopened(manager).all() != []


def change(**fields: Any) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        kept = msgspec.json.decode(data, type=KeptKey)
        return msgspec.json.encode(msgspec.structs.replace(kept, **fields))

    return changed


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "cut": lambda data: data[:-10],
    "no JSON": lambda _data: b"\xff\xfe",
    "another field": lambda data: data.replace(b'"owner"', b'"ownr"'),
    "no wrapped key": change(wrapped_key=b"TIDK"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_was_changed_is_left_alone_and_the_others_are_used(
    manager: KeyManager, name: str
) -> None:
    broken, whole = generate(manager, "local"), generate(manager, "local")
    path = manager.host.folder / f"state/keys/{broken.record.key_id}.json"
    path.write_bytes(CHANGES[name](path.read_bytes()))
    before = path.read_bytes()
    assert [kept.record.key_id for kept in reopened(manager).all()] == [whole.record.key_id]
    assert path.read_bytes() == before


def test_a_file_under_another_name_is_not_used(manager: KeyManager) -> None:
    made = generate(manager, "local")
    directory = manager.host.folder / "state/keys"
    (directory / f"{made.record.key_id}.json").rename(directory / f"{FIRST}.json")
    assert reopened(manager).all() == []


def test_a_file_that_others_can_read_is_not_used(manager: KeyManager) -> None:
    generate(manager, "local")
    files(manager)[0].chmod(0o644)
    assert reopened(manager).all() == []


def test_modes_and_leftovers(manager: KeyManager) -> None:
    generate(manager, "local")
    directory = manager.host.folder / "state/keys"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files(manager)] == [0o600]
    (directory / ".x.json.0123").write_bytes(b"half")
    assert len(reopened(manager).all()) == 1
    assert len(files(manager)) == 1


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(Unavailable) as caught:
        KeyRegistry(tmp_path / "keys")
    assert caught.value.code == "state_unusable"


def test_there_is_an_end(manager: KeyManager, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generate(manager, "local")
    monkeypatch.setattr(key_registry, "MAX_KEYS", 1)
    with pytest.raises(Refusal) as caught:
        generate(manager, "local")
    assert caught.value.code == "too_many_keys"
    with pytest.raises(Refusal, match="too_many_keys"):
        generate(manager, "store")
    assert manager.keys == {}  # no key server made a key for nothing
    assert len(rewrap(manager, replace=True).rewrapped) == 1  # what is there can still be changed
    asyncio.run(manager.host.agent.host_keys.objects.forget(made.record.key_id))
    generate(manager, "local")


# ---- no key anywhere ----------------------------------------------------------------------------------


def spellings(key: bytes) -> list[bytes]:
    """How a key would look in a file, a log line or a representation."""
    plain = base64.b64encode(key).rstrip(b"=")
    return [
        key,
        key.hex().encode(),
        plain[:-1],
        plain[:-1].replace(b"+", b"-").replace(b"/", b"_"),
        repr(key)[2:-1].encode(),
        repr(list(key))[1:-1].encode(),
    ]


@pytest.mark.parametrize("provider", KINDS)
def test_no_key_is_in_a_file_a_log_line_or_a_representation(
    manager: KeyManager, provider: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(
        key_registry, "log", structlog.wrap_logger(structlog.PrintLogger(lines), processors=[repr_processor])
    )
    logging.getLogger().addHandler(logging.StreamHandler(lines))
    keks: list[bytes] = []
    kinds = manager.host.agent.host_keys.objects.kinds
    kind = next(kind for name, kind in kinds.items() if name == KINDS[provider])
    create = kind.create

    async def seen(*arguments: Any) -> Any:
        made = await create(*arguments)
        keks.append(bytes(made.key))
        return made

    monkeypatch.setattr(kind, "create", seen)
    made = generate(manager, provider)
    again = get(manager, made.record.key_id)
    rotate(manager, "key-2")
    moved = rewrap(manager, replace=True)
    objects = manager.host.agent.host_keys
    said = [
        repr(one) for one in (made, again, moved, objects.registry.all(), objects.standard, objects.native)
    ]
    said += [repr(vars(objects)), repr(vars(made)).replace(repr(made.key), "")]
    with pytest.raises(Refusal) as caught:
        served(manager, objects.objects.get_wrapped(made.wrapped_key[:-1] + b"\0"))
        served(manager, objects.objects.get("unknown"))
    said += [str(caught.value), repr(caught.value.as_dict())]
    captured = capfd.readouterr()
    said += [lines.getvalue(), captured.out, captured.err]
    stored = [path.read_bytes() for path in manager.host.folder.rglob("*") if path.is_file()]
    assert len(keks) == 2 and len(stored) > 3
    for key in [bytes(made.key), *keks, KEY]:
        for spelling in spellings(key):
            for place in [*stored, *(text.encode() for text in said)]:
                assert spelling not in place
    assert spellings(bytes(made.key))[1] in repr(made.key.hex()).encode()  # the search can find


def repr_processor(_logger: Any, _name: str, event: Any) -> str:
    return repr(event)

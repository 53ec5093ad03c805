# SPDX-License-Identifier: GPL-3.0-or-later
"""The event source of Event-Driven Ansible with a real manager, over HTTPS on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import argon2
import pytest
import yaml
from collection_tree import ROOT
from integration.served_manager import Site, until
from services.manager.harness import PASSWORD, write_users
from services.side_authority import SideAuthority

from trusted_infrastructure.manager import users

SOURCE = ROOT / "extensions" / "eda" / "plugins" / "event_source" / "events.py"


def load() -> Any:
    """The plugin, as ansible-rulebook loads it: by its file."""
    spec = importlib.util.spec_from_file_location("events_source", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


source = load()


class Rules:
    """What the source gives."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.seen: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[str]:
        """Of the events so far."""
        while not self.queue.empty():
            self.seen.append(self.queue.get_nowait())
        return [event["message"] for event in self.seen]

    async def expect(self, *messages: str) -> None:
        """Waits for exactly these, in this order."""
        await until(lambda: len(self.messages) >= len(messages))
        assert self.messages == list(messages)


@contextlib.asynccontextmanager
async def following(arguments: dict[str, Any], rules: Rules) -> AsyncIterator[asyncio.Task[None]]:
    """The source, running."""
    task = asyncio.create_task(source.main(rules.queue, arguments))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least cost of passwords, and short pauses."""
    monkeypatch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    monkeypatch.setattr(source, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(source, "LONGEST_PAUSE", 0.2)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def kept(arguments: dict[str, Any]) -> int | None:
    """The last event of the state file; None where there is no file yet."""
    path = Path(arguments["state_file"])
    return json.loads(path.read_text())["last"] if path.exists() else None


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs a scene, which may not hang."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scene()

    asyncio.run(bounded())


# ---- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hostname": None}, "hostname"),
        ({"username": ""}, "username"),
        ({"password": 5}, "password"),
        ({"port": "https"}, "port"),
        ({"port": 0}, "port"),
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"after": -1}, "after"),
        ({"types": "one"}, "types"),
        ({"types": [1]}, "types"),
        ({"validate_certs": "no"}, "validate_certs"),
        ({"feedback": "no"}, "feedback"),
        ({"ca_path": "/nonexistent/ca.pem"}, "ca_path"),
        ({"state_file": "/proc/1/mem"}, "state_file"),
        ({"delay": 5}, "delay"),
    ],
)
def test_a_wrong_argument_ends_it_and_is_named(site: Site, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: ") as refused:
        asyncio.run(source.main(asyncio.Queue(), site.arguments(**changes)))
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"manager": "elsewhere:443", "last": 1}', '{"manager": "127.0.0.1:PORT", "last": "1"}'],
)
def test_a_state_file_of_something_else_ends_it(site: Site, content: str) -> None:
    path = site.directory / "state.json"
    path.write_text(content.replace("PORT", str(site.port)))
    with pytest.raises(ValueError, match="^state_file: "):
        asyncio.run(source.main(asyncio.Queue(), site.arguments(state_file=str(path))))
    assert path.read_text() == content.replace("PORT", str(site.port))


def test_a_wrong_password_ends_it_after_one_try(site: Site) -> None:
    async def scene() -> None:
        async with site.served():
            with pytest.raises(source.Refused) as refused:
                await source.main(asyncio.Queue(), site.arguments(password="not this one"))
            assert refused.value.status == 401
            assert "not this one" not in str(refused.value)
        assert site.requests == ["POST /api/session"]

    play(scene)


def test_a_user_without_the_privilege_ends_it(site: Site) -> None:
    async def scene() -> None:
        write_users(site.directory / "users.json", [{"name": "events", "privileges": []}])
        async with site.served():
            with pytest.raises(source.Refused) as refused:
                await source.main(asyncio.Queue(), site.arguments())
            assert refused.value.status == 403
        assert site.requests[-1] == "DELETE /api/session"

    play(scene)


@pytest.mark.parametrize("wrong", ["name", "issuer"])
def test_another_servers_certificate_gets_no_password(site: Site, wrong: str) -> None:
    async def scene() -> None:
        if wrong == "name":
            site.present("127.0.0.2")
        else:
            (site.directory / "ca.pem").write_text(SideAuthority(side="workload").certificate)
        rules = Rules()
        async with site.served(), following(site.arguments(after=0), rules) as task:
            site.happen("one")
            await asyncio.sleep(0.5)
            assert not task.done()
            assert rules.messages == site.requests == []
        async with site.served(), following(site.arguments(after=0, validate_certs=False), rules):
            await rules.expect("one")

    play(scene)


def test_no_redirect_is_followed(site: Site) -> None:
    async def scene() -> None:
        site.answer = lambda _path: 302
        async with site.served():
            with pytest.raises(source.Refused) as refused:
                await source.main(asyncio.Queue(), site.arguments())
            assert refused.value.status == 302

    play(scene)


# ---- events ------------------------------------------------------------------------------------------------


def test_events_come_once_in_order_and_with_plain_fields(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        async with site.served():
            site.happen("before")
            async with following(site.arguments(), rules):
                await until(lambda: len(site.requests) >= 4)
                fields = {"user": "ada", "object": "vm-1", "key_id": "k", "operation": "create"}
                site.happen("one", host="host1", details={"a": [1]}, **fields)
                site.happen("two")
                await rules.expect("one", "two")
                await asyncio.sleep(0.3)
                assert rules.messages == ["one", "two"]
        assert rules.seen[0] == {
            "id": 2,
            "time": "1970-01-01T00:00:01.000Z",
            "type": "t",
            "message": "one",
            "host": "host1",
            "details": {"a": [1]},
            **fields,
        }
        assert rules.seen[1]["details"] == {}
        assert not any("meta" in event for event in rules.seen)
        assert site.requests[-1] == "DELETE /api/session"

    play(scene)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{{ 1 + 1 }}{% if x %}{#", "{ { 1 + 1 }}{ % if x %}{ #"),
        ("{{{%", "{ { { %"),
        ("ends in {", "ends in { "),
        ("ends in {\n", "ends in {\n"),
        (
            "#jinja2: variable_start_string:'[['\n[[ 1 + 1 ]]",
            "# jinja2: variable_start_string:'[['\n[[ 1 + 1 ]]",
        ),
        ("a {brace}, a 50 % and a #", "a {brace}, a 50 % and a #"),
    ],
)
def test_no_text_of_an_event_is_a_template(site: Site, text: str, given: str) -> None:
    async def scene() -> None:
        rules = Rules()
        async with site.served(), following(site.arguments(after=0), rules):
            site.happen(text, host=text, details={text: [text, {"a": text}], "number": 1})
            await rules.expect(given)
        assert rules.seen[0]["host"] == given
        assert rules.seen[0]["details"] == {given: [given, {"a": given}], "number": 1}

    play(scene)


def test_more_than_a_page_and_types(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PAGE", 10)

    async def scene() -> None:
        rules = Rules()
        async with site.served():
            wanted = [str(number) for number in range(25)]
            for message in wanted:
                site.happen("other", type="u")
                site.happen(message)
            # No second question has to wait for the interval.
            async with following(site.arguments(after=0, types=["t"], interval=60), rules):
                await rules.expect(*wanted)

    play(scene)


def test_a_manager_that_is_away_and_back_loses_and_repeats_nothing(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        async with following(site.arguments(after=0), rules) as task:
            await asyncio.sleep(0.3)
            assert not task.done(), "it is not there yet"
            async with site.served():
                site.happen("one")
                await rules.expect("one")
            await asyncio.sleep(0.2)
            async with site.served():
                site.happen("two")
                await rules.expect("one", "two")
                site.answer = lambda _path: 503
                site.happen("three")
                await asyncio.sleep(0.3)
                assert rules.messages == ["one", "two"]
                site.answer = lambda _path: None
                await rules.expect("one", "two", "three")

    play(scene)


def test_an_answer_that_is_none_is_asked_again(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        site.answer = lambda path: 200 if path.endswith("/events") else None
        async with site.served(), following(site.arguments(after=0), rules) as task:
            site.happen("one")
            await asyncio.sleep(0.3)
            assert rules.messages == [] and not task.done()
            site.answer = lambda _path: None
            await rules.expect("one")

    play(scene)


def test_a_session_that_ends_is_renewed(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        async with site.served() as manager, following(site.arguments(after=0), rules):
            site.happen("one")
            await rules.expect("one")
            with manager.database.transaction() as connection:
                connection.exec_driver_sql("DELETE FROM sessions")
            site.happen("two")
            await rules.expect("one", "two")
        assert site.requests.count("POST /api/session") == 2

    play(scene)


def test_a_password_that_changes_ends_it(site: Site) -> None:
    async def scene() -> None:
        async with site.served(), following(site.arguments(), Rules()) as task:
            await until(lambda: len(site.requests) >= 3)
            changed = {"name": "events", "privileges": ["System.View"]}
            changed["password"] = users.hash_password("another")
            write_users(site.directory / "users.json", [changed])
            with pytest.raises(source.Refused):
                await task

    play(scene)


def test_a_state_file_reads_on_after_a_restart(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        arguments = site.arguments(after=0, state_file=str(site.directory / "state.json"))
        async with site.served():
            site.happen("one")
            async with following(arguments, rules):
                await rules.expect("one")
                await until(lambda: kept(arguments) == 1)
            site.happen("two", "three")
            async with following(arguments, rules):
                await rules.expect("one", "two", "three")
                await until(lambda: kept(arguments) == 3)
        state = json.loads((site.directory / "state.json").read_text())
        assert state == {"manager": f"127.0.0.1:{site.port}", "last": 3}

    play(scene)


def test_a_new_database_is_read_from_its_first_event(site: Site) -> None:
    async def scene() -> None:
        path = site.directory / "state.json"
        path.write_text(json.dumps({"manager": f"127.0.0.1:{site.port}", "last": 500}))
        rules = Rules()
        async with site.served():
            site.happen("one", "two")
            async with following(site.arguments(state_file=str(path)), rules):
                await rules.expect("one", "two")

    play(scene)


def test_rules_that_are_slow_are_waited_for(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        rules.queue = asyncio.Queue(maxsize=1)
        arguments = site.arguments(after=0, state_file=str(site.directory / "state.json"))
        async with site.served():
            site.happen("one", "two", "three")
            async with following(arguments, rules):
                await until(rules.queue.full)
                await until(lambda: kept(arguments) == 1)
                await asyncio.sleep(0.2)
            # Only what was given counts as given.
            assert json.loads((site.directory / "state.json").read_text())["last"] == 1
            assert rules.messages == ["one"]
            rules.queue = asyncio.Queue()
            async with following(arguments, rules):
                await rules.expect("one", "two", "three")

    play(scene)


def test_what_the_rules_have_not_kept_does_not_count_as_given(site: Site) -> None:
    async def scene() -> None:
        rules = Rules()
        kept: asyncio.Queue[Any] = asyncio.Queue()
        state = site.directory / "state.json"
        arguments = site.arguments(after=0, state_file=str(state), feedback=True, eda_feedback_queue=kept)
        async with site.served():
            site.happen("one", "two")
            async with following(arguments, rules):
                await rules.expect("one")
                await asyncio.sleep(0.2)
                assert rules.messages == ["one"] and not state.exists()
                kept.put_nowait(rules.seen[0])
                await rules.expect("one", "two")
                assert json.loads(state.read_text())["last"] == 1

    play(scene)


def test_by_itself_it_prints_events(site: Site) -> None:
    async def scene() -> None:
        async with site.served():
            site.happen("one", "Grüße\n🔑")
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                str(SOURCE),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(site.arguments(after=0)).encode())
            child.stdin.close()
            lines = [json.loads(await child.stdout.readline()) for _line in range(2)]
            child.terminate()
            await child.wait()
            assert [line["message"] for line in lines] == ["one", "Grüße\n🔑"]

    play(scene)


# ---- the file ----------------------------------------------------------------------------------------------


def test_every_argument_is_documented_and_none_else() -> None:
    documented = yaml.safe_load(source.DOCUMENTATION)["options"]
    assert set(documented) == set(source.Settings.__dataclass_fields__)
    for name, item in source.Settings.__dataclass_fields__.items():
        required = documented[name].get("required", False)
        assert required is (name in {"hostname", "username", "password"})
        if not required and documented[name].get("default") is not None:
            default = item.default if item.default != () else []
            assert documented[name]["default"] == default
    (example,) = yaml.safe_load(source.EXAMPLES)
    assert set(example["trusted.infrastructure.events"]) <= set(documented)


def test_it_needs_the_standard_library_only() -> None:
    imported = [
        line.split()[1].partition(".")[0]
        for line in SOURCE.read_text().splitlines()
        if line.startswith(("import ", "from "))
    ]
    assert set(imported) <= sys.stdlib_module_names


def test_an_address_of_either_kind_is_a_place() -> None:
    given = {"username": "u", "password": "the password", "port": "8443"}
    for address in ("192.0.2.1", "2001:db8::1"):
        settings = source.settings_of({**given, "hostname": address})
        assert settings.place == f"{address}:8443"
        assert "the password" not in repr(settings)

# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Event source of Event-Driven Ansible: the events of a manager, each once and in their order.

It needs nothing but Python's standard library. By itself it prints events as JSON lines:

    echo '{"hostname": "manager.example", "username": "events", "password": "..."}' | python events.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import logging
import os
import random
import re
import ssl
import sys
import typing as t
from dataclasses import dataclass, field, fields
from urllib.parse import urlencode

DOCUMENTATION = r"""
---
short_description: Events of a manager of a trusted infrastructure
description:
  - Asks a manager again and again for its new events, and gives each to the rules once, in their order.
  - An event has C(id), C(time), C(type), C(message) and C(details), and C(host), C(object), C(user),
    C(operation) and C(key_id) where it is about them.
  - When the manager cannot be reached or has a fault, it is asked again, after longer and longer times. What
    cannot mend by itself, such as a wrong password, ends the source.
  - Names and messages come from users and hosts, and in playbooks that a rule runs Ansible renders them as
    templates. So where a template could begin, a space is put in, C({ {) for example.
options:
  hostname:
    description: Name or address of the manager.
    type: str
    required: true
  username:
    description: User of the management API. It needs the privilege C(System.View).
    type: str
    required: true
  password:
    description:
      - Password of the user. As C({{ password | pprint }}), if it is in a variable; without the filter,
        ansible-rulebook takes digits for a number, and quotes away.
    type: str
    required: true
  port:
    description: TCP port of the management API.
    type: int
    default: 443
  ca_path:
    description:
      - File with the CA certificates that the manager's certificate must chain to. Without it, those of the
        system.
    type: str
  validate_certs:
    description: Whether the manager's certificate is verified. Turn it off for experiments only.
    type: bool
    default: true
  types:
    description: Event ids. Without it, all types.
    type: list
    elements: str
    default: []
  interval:
    description: Seconds between two questions.
    type: float
    default: 5
  timeout:
    description: Seconds for one answer.
    type: float
    default: 30
  after:
    description:
      - The id after which to begin; V(0) for all events that the manager has. Without it, with those to come.
    type: int
  state_file:
    description:
      - File in which the source keeps how far it is. A source that is started again reads on there, and
        O(after) does not count.
      - What the rules were given counts, also where ansible-rulebook ended before their actions did. See
        O(feedback).
    type: str
  feedback:
    description:
      - Whether an event counts as given only after the rules have kept it. ansible-rulebook needs
        C(--persistence-id) and a database for that; it does then, after a restart, what it had not.
    type: bool
    default: false
"""

EXAMPLES = r"""
- trusted.infrastructure.events:
    hostname: workload-manager.example
    username: events
    password: "{{ events_password | pprint }}"
    ca_path: /etc/trusted/workload_ca.pem
    types:
      - com.vmware.vc.TaHostAttestFailEvent
      - com.vmware.vc.kms.crypto.Unreachable
    state_file: /var/lib/rulebook/workload.json
"""

PAGE = 1000
LONGEST_ANSWER = 64 * 1024 * 1024
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
SESSION_HEADER = "vmware-api-session-id"
# What these say may be over in a while, like every status from 500 on.
TEMPORARY = frozenset({408, 429})
# Where a template begins, also one put together of two texts: `{{`, `{%`, `{#`, and Ansible's `#jinja2:`.
TEMPLATE = re.compile(r"\{(?=[{%#]|\Z)|\A#")

DICE = random.SystemRandom()
log = logging.getLogger("trusted.infrastructure.events")


class Refused(Exception):
    """The manager says no, and will again. status: of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Faulty(Exception):
    """The manager cannot be reached, or does not answer as it should: it may later."""


@dataclass(frozen=True)
class Settings:
    """The arguments of the source: see DOCUMENTATION."""

    hostname: str
    username: str
    password: str = field(repr=False)
    port: int = 443
    ca_path: str | None = None
    validate_certs: bool = True
    types: tuple[str, ...] = ()
    interval: float = 5.0
    timeout: float = 30.0
    after: int | None = None
    state_file: str | None = None
    feedback: bool = False

    @property
    def place(self) -> str:
        """Which manager this is."""
        return f"{self.hostname}:{self.port}"


def settings_of(given: t.Mapping[str, t.Any]) -> Settings:
    """The arguments, checked. Raises ValueError naming the one that is wrong."""
    known = {item.name for item in fields(Settings)}
    for name in given:
        if name not in known:
            raise ValueError(f"{name}: is no argument of this source; there are {', '.join(sorted(known))}")
    for name in ("hostname", "username", "password"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise ValueError(f"{name}: is required, as text; from a variable as {{{{ variable | pprint }}}}")
    values = {name: value for name, value in given.items() if value is not None}
    types = values.get("types", [])
    if not isinstance(types, (list, tuple)) or not all(isinstance(item, str) for item in types):
        raise ValueError("types: must be a list of event ids")
    values["types"] = tuple(types)
    for name, kind, least in (
        ("port", int, 1),
        ("after", int, 0),
        ("interval", float, 0.1),
        ("timeout", float, 0.1),
    ):
        if name in values:
            values[name] = number(name, values[name], kind, least)
    for name in ("validate_certs", "feedback"):
        if not isinstance(values.get(name, True), bool):
            raise ValueError(f"{name}: must be true or false")
    return Settings(**values)


def number(name: str, value: t.Any, kind: type[int] | type[float], least: float) -> int | float:
    """A number, also as text. Raises ValueError."""
    try:
        found = kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: must be a number, not {value!r}") from None
    if not found >= least:
        raise ValueError(f"{name}: must be at least {least}")
    return found


class Manager:
    """A session with a manager. Every call blocks, so it runs in a thread. No redirect is followed, and no
    proxy used: they would carry the password elsewhere."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError for CA certificates that cannot be read."""
        self._settings = settings
        self._session = ""
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_path)
        except OSError as error:
            raise ValueError(f"ca_path: {settings.ca_path}: {error.strerror or error}") from None
        if not settings.validate_certs:
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE

    @property
    def has_session(self) -> bool:
        """Whether it is logged in, as far as it knows."""
        return bool(self._session)

    def forget_session(self) -> None:
        """It has ended."""
        self._session = ""

    def login(self) -> None:
        """A new session. Raises Refused, Faulty."""
        self._session = ""
        plain = f"{self._settings.username}:{self._settings.password}".encode()
        basic = {"Authorization": "Basic " + base64.b64encode(plain).decode()}
        session = self._request("POST", "/session", basic)
        if not isinstance(session, str) or not session:
            raise Faulty(f"{self._settings.place} did not give a session: is it a manager?")
        self._session = session

    def logout(self) -> None:
        """Ends the session, if it can."""
        if self._session:
            with contextlib.suppress(Refused, Faulty):
                self._request("DELETE", "/session", {SESSION_HEADER: self._session})
            self._session = ""

    def events(self, **query: t.Any) -> list[dict[str, t.Any]]:
        """Events in the order of their ids. Raises Refused (401: log in again), Faulty."""
        path = "/trust/events?" + urlencode(query, doseq=True)
        found = self._request("GET", path, {SESSION_HEADER: self._session})
        if not isinstance(found, list) or not all(
            isinstance(event, dict) and isinstance(event.get("id"), int) for event in found
        ):
            raise Faulty(f"{self._settings.place} did not answer with events")
        return found

    def _request(self, method: str, path: str, headers: dict[str, str]) -> t.Any:
        connection = http.client.HTTPSConnection(
            self._settings.hostname,
            self._settings.port,
            timeout=self._settings.timeout,
            context=self._tls,
        )
        try:
            connection.request(method, "/api" + path, headers={"Accept": "application/json", **headers})
            response = connection.getresponse()
            body = response.read(LONGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Faulty(f"{self._settings.place} does not answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if response.status >= 500 or response.status in TEMPORARY or len(body) > LONGEST_ANSWER:
            raise Faulty(f"{self._settings.place}: {method} {path.partition('?')[0]}: {said(response, body)}")
        if response.status >= 300:
            raise Refused(f"{self._settings.place}: {said(response, body)}", response.status)
        try:
            return json.loads(body) if body else None
        except ValueError:
            raise Faulty(f"{self._settings.place}: the answer is not JSON") from None


def said(response: http.client.HTTPResponse, body: bytes) -> str:
    """What the manager says of an error."""
    try:
        return " ".join(str(row["default_message"]) for row in json.loads(body)["messages"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {response.status} {response.reason}"


class Position:
    """How far the source is: the id of the last event that the rules were given; None before it is known."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError for a state file that cannot be used."""
        self._settings = settings
        self.last = settings.after
        if settings.state_file is not None:
            kept = self._read(settings.state_file)
            self.last = self.last if kept is None else kept

    def _read(self, path: str) -> int | None:
        try:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
            place, last = state["manager"], state["last"]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"state_file: {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"state_file: {path} was not written by this source; remove it") from None
        if place != self._settings.place or not isinstance(last, int):
            raise ValueError(f"state_file: {path} is of {place}, not of {self._settings.place}")
        return last

    def move(self, last: int) -> None:
        """Up to this event everything was given. Raises OSError."""
        self.last = last
        path = self._settings.state_file
        if path is None:
            return
        # In one step: who is killed leaves the old one or the new one.
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump({"manager": self._settings.place, "last": last}, file)
        os.replace(f"{path}.new", path)


async def begin(manager: Manager, position: Position) -> None:
    """Logs in, and makes sure that the position is one of this manager. Raises Refused, Faulty."""
    await asyncio.to_thread(manager.login)
    newest = await asyncio.to_thread(manager.events, limit=1)
    latest = newest[-1]["id"] if newest else 0
    if position.last is None:
        position.move(latest)
    elif newest and latest < position.last:
        # Ids never go back, so this is another database: all that is in it is new.
        log.warning("the manager has begun its events anew; reading them from the first")
        position.move(0)


def inert(value: t.Any) -> t.Any:
    """The same without templates. ansible-rulebook passes events on as extra variables, and Ansible renders
    those: who chooses a name would run what he likes on the control node."""
    if isinstance(value, str):
        return TEMPLATE.sub(r"\g<0> ", value)
    if isinstance(value, dict):
        return {inert(key): inert(item) for key, item in value.items()}
    return [inert(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Rules:
    """Where events go. feedback: what ansible-rulebook has kept comes back here."""

    queue: asyncio.Queue[t.Any]
    feedback: asyncio.Queue[t.Any] | None = None

    async def give(self, event: dict[str, t.Any]) -> None:
        """Returns when the event may count as given."""
        await self.queue.put(inert({"details": {}, **event}))
        if self.feedback is not None:
            await self.feedback.get()


async def read_on(manager: Manager, position: Position, types: t.Sequence[str], rules: Rules) -> None:
    """Gives all events that are there to the rules. Raises Refused, Faulty."""
    more = True
    while more:
        found = await asyncio.to_thread(manager.events, after=position.last, limit=PAGE, types=list(types))
        for event in found:
            await rules.give(event)
            position.move(event["id"])
        more = len(found) == PAGE


async def follow(manager: Manager, position: Position, settings: Settings, rules: Rules) -> None:
    """Asks without end. Raises Refused."""
    pause = FIRST_PAUSE
    while True:
        try:
            if not manager.has_session:
                await begin(manager, position)
            await read_on(manager, position, settings.types, rules)
            pause = FIRST_PAUSE
            await asyncio.sleep(settings.interval)
        except Refused as error:
            if error.status != 401 or not manager.has_session:
                raise
            log.info("the session has ended; logging in again")
            manager.forget_session()
            await asyncio.sleep(pause)
        except Faulty as error:
            log.warning("%s; asking again", error)
            # Not all sources of a site at once, after a manager was away.
            await asyncio.sleep(pause * (0.5 + DICE.random() / 2))
            pause = min(pause * 2, LONGEST_PAUSE)


async def main(queue: asyncio.Queue[t.Any], args: dict[str, t.Any]) -> None:
    """The source, as ansible-rulebook runs it.

    Raises ValueError naming an argument that is wrong, Refused for what does not mend by itself."""
    given = dict(args)
    rules = Rules(queue, given.pop("eda_feedback_queue", None))
    settings = settings_of(given)
    manager, position = Manager(settings), Position(settings)
    try:
        await follow(manager, position, settings, rules)
    finally:
        await asyncio.to_thread(manager.logout)


if __name__ == "__main__":

    class PrintingQueue(asyncio.Queue[t.Any]):
        """Prints what would go to the rules."""

        async def put(self, item: t.Any) -> None:
            print(json.dumps(item), flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(PrintingQueue(), json.load(sys.stdin)))

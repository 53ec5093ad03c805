# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mutation is: a good message, one lie or fault in it, and what the service must say.

The rows are in `request_mutations` (enrolment, attestation key) and `evidence_mutations` (quote, freshness,
event log, base image, session keys); `test_mutations` sends each of them through the ASGI application.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from services.attestation.world import EVIDENCE, Host, World
from services.tpm import software_keys

from trusted_infrastructure.messages import encode

Prepare = Callable[[World], bytes]


@dataclass(frozen=True)
class Mutation:
    """One row. code: the reason code that is expected; reason: words of its message.

    path, prepare: where what is sent goes, and how it is made in a world where all is right. status: 0 for
    any 4xx. vouched: a principal vouches for the host, so its last result becomes FAILED. uses_challenge:
    the challenge is used up, as docs/protocol.md 3.4 says.
    """

    code: str
    path: str
    prepare: Prepare
    vouched: bool = False
    uses_challenge: bool = False
    status: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Fault:
    """A row of evidence.

    attest: changes of what is signed. bound: changes of the message that the quote is made for. message:
    changes of the message after the quote. boot: what the host boots instead. signing_key: instead of the
    AK's. before: what changes in the world before the challenge is asked for; after: once it is there.
    host: that attests, instead of the world's. vouched: see Mutation.
    """

    code: str
    attest: dict[str, Any] = field(default_factory=dict)
    bound: dict[str, Any] = field(default_factory=dict)
    message: Callable[[World, Any], dict[str, Any]] | None = None
    boot: Any = None
    signing_key: str | None = None
    before: Callable[[World], object] | None = None
    after: Callable[[World], object] | None = None
    host: Callable[[World], Host] | None = None
    vouched: bool = True
    status: int = 0
    reason: str = ""

    def mutation(self) -> Mutation:
        return Mutation(self.code, EVIDENCE, self.evidence, self.vouched, True, self.status, self.reason)

    def _change(self, attest: Any) -> Any:
        """A value that is a function is given what is genuine."""
        fields = {
            name: value(getattr(attest, name)) if callable(value) else value
            for name, value in self.attest.items()
        }
        return replace(attest, **fields)

    def evidence(self, world: World) -> bytes:
        if self.boot is not None:
            world.host.start(self.boot)
        if self.before is not None:
            self.before(world)
        host = world.host if self.host is None else self.host(world)
        request = world.request(host)
        challenge = world.challenge(request)
        key = software_keys.private_key(self.signing_key) if self.signing_key else None
        evidence = host.evidence(
            request,
            challenge,
            change_attest=self._change,
            signing_key=key,
            **self.bound,
        )
        if self.message is not None:
            evidence = msgspec.structs.replace(evidence, **self.message(world, evidence))
        if self.after is not None:
            self.after(world)
        return encode(evidence)


@dataclass(frozen=True)
class Stored:
    """Everything that a request could change."""

    snapshot: bytes
    state: dict[str, list[tuple[Any, ...]]]
    used: int

    @staticmethod
    def of(world: World) -> Stored:
        return Stored(
            world.settings.snapshot.read_bytes(),
            tables(world.settings.state_directory),
            sum(len(rows) for rows in tables(world.settings.run_directory).values()),
        )


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of the databases in a folder."""
    found = {}
    for path in sorted(folder.glob("*.db")):
        database = sqlite3.connect(path)
        names = database.execute(_TABLES).fetchall()
        for (name,) in names:
            rows = database.execute(f"SELECT * FROM {name}").fetchall()
            found[f"{path.name}/{name}"] = sorted(rows, key=repr)
        database.close()
    return found

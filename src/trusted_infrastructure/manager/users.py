# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of the management API: a file from the inventory, and how their passwords are checked."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import argon2
import msgspec

from trusted_infrastructure.manager.authorization import TRUSTED_ADMINS
from trusted_infrastructure.manager.privileges import ALL_PRIVILEGES, TRUST_CHANGING
from trusted_infrastructure.manager.vapi.errors import ServiceUnavailable, Unauthenticated

HASH = argon2.PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)
# Two at a time: each needs 64 MiB, and logins must not take the machine from the API.
PARALLEL_CHECKS = 2
WAITING_LIMIT = 64

Result = TypeVar("Result")


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user. password: argon2 hash. The other fields come from the inventory alone.

    privileges: privilege ids, or "*" for all, which no permission takes away. cluster: name or id of the only
    cluster on which they hold; None for everywhere. groups: names of groups that the inventory puts him in.
    None: in TrustedAdmins if his privileges change the trusted infrastructure, as it was before there were
    groups; an empty list keeps him out.
    """

    name: str
    password: str
    privileges: list[str]
    cluster: str | None = None
    groups: list[str] | None = None

    def __repr__(self) -> str:
        return f"User({self.name!r})"

    @property
    def fixed_groups(self) -> frozenset[str]:
        """Groups that he is in by the inventory."""
        if self.groups is not None:
            return frozenset(self.groups)
        changes_trust = TRUST_CHANGING.intersection(self.privileges) or ALL_PRIVILEGES in self.privileges
        return frozenset({TRUSTED_ADMINS} if changes_trust else ())


class UsersFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: {"users": [User, ...]}."""

    users: list[User]


def hash_password(password: str) -> str:
    """Argon2id hash for the users file."""
    return HASH.hash(password)


class Users:
    """The users file, read again when it changes. A file that cannot be read lets nobody in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], dict[str, User]] | None = None
        self._checks = asyncio.Semaphore(PARALLEL_CHECKS)
        self._waiting = 0
        # Unknown names cost what known ones cost, so that the time of an answer does not tell them apart.
        self._nobody = HASH.hash("nobody's password")

    def get(self, name: str) -> User | None:
        """The user of that name. Raises ServiceUnavailable when the file cannot be used."""
        return self.of_inventory().get(name)

    def of_inventory(self) -> dict[str, User]:
        """All users of the file. Raises ServiceUnavailable when it cannot be used."""
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._read is None or self._read[0] != version:
                content = msgspec.json.decode(self._path.read_bytes(), type=UsersFile)
                self._read = (version, {user.name: user for user in content.users})
            return self._read[1]
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            kind = error.strerror if isinstance(error, OSError) else "is not a users file"
            raise ServiceUnavailable(
                f"The users file {self._path} cannot be read ({kind}); nobody can log in until it can.",
                reason="users_unavailable",
            ) from None

    async def check(self, name: str, password: str) -> User | None:
        """The user when the password is right, otherwise None. Raises ServiceUnavailable under a flood."""
        user = self.get(name)
        right = await self._in_turn(verify, user.password if user else self._nobody, password)
        return user if right and user else None

    async def hash(self, password: str) -> str:
        """Argon2id hash of a new password. Raises ServiceUnavailable under a flood."""
        return await self._in_turn(hash_password, password)

    async def _in_turn(self, work: Callable[..., Result], *arguments: str) -> Result:
        """Runs work on passwords beside the event loop, a few at a time."""
        if self._waiting >= WAITING_LIMIT:
            raise ServiceUnavailable("Too many logins at once; try again.", reason="too_many_logins")
        self._waiting += 1
        try:
            async with self._checks:
                return await asyncio.to_thread(work, *arguments)
        finally:
            self._waiting -= 1


def verify(hashed: str, password: str) -> bool:
    """Whether the password has this argon2 hash."""
    try:
        return HASH.verify(hashed, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class LoginLimiter:
    """Slows down guessing: after `allowed` failures of one user from one address, each further attempt within
    `window` seconds is refused unread, a correct one too."""

    def __init__(
        self, clock: Callable[[], float], allowed: int = 5, window: float = 60, size: int = 10000
    ) -> None:
        self._clock = clock
        self._allowed = allowed
        self._window = window
        self._size = size
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        """Raises Unauthenticated when this user has to wait at this address."""
        recent = self._recent((name, address))
        if len(recent) >= self._allowed:
            wait = max(1, round(recent[0] + self._window - self._clock()))
            raise Unauthenticated(
                f"Too many failed logins of this user from this address; try again in {wait} seconds.",
                str(wait),
                reason="rate_limited",
            )

    def failed(self, name: str, address: str) -> None:
        """Counts a failure. Attempts are counted before their passwords are read: many may run at once."""
        key = (name, address)
        self._failures[key] = [*self._recent(key), self._clock()]
        self._failures.move_to_end(key)
        while len(self._failures) > self._size:
            self._failures.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Forgets the failures."""
        self._failures.pop((name, address), None)

    def _recent(self, key: tuple[str, str]) -> list[float]:
        start = self._clock() - self._window
        return [moment for moment in self._failures.get(key, []) if moment > start]

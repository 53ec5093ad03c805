# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions of the management API. The database holds digests: a copy of it gives nobody a session."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sql

from trusted_infrastructure.manager.database import Database, sessions
from trusted_infrastructure.manager.users import User, Users
from trusted_infrastructure.manager.vapi.errors import Unauthenticated

# Writing each access would cost a durable transaction per request.
ACCESS_RESOLUTION = 10.0


@dataclass(frozen=True)
class Session:
    """A live session."""

    digest: str
    user: User
    created: float
    last_accessed: float


class Sessions:
    """Creates, finds and ends sessions. idle, lifetime: seconds."""

    def __init__(
        self, database: Database, users: Users, clock: Callable[[], float], idle: int, lifetime: int
    ) -> None:
        self._database = database
        self._users = users
        self._clock = clock
        self._idle = idle
        self._lifetime = lifetime

    def create(self, user: User) -> str:
        """A new session's id, which is a secret."""
        identifier = secrets.token_hex(32)
        now = self._clock()
        with self._database.transaction() as connection:
            connection.execute(
                sessions.insert().values(
                    digest=digest(identifier),
                    user=user.name,
                    password=digest(user.password),
                    created=now,
                    last_accessed=now,
                )
            )
        return identifier

    def find(self, identifier: str | None) -> Session:
        """The session, which counts as accessed. Raises Unauthenticated when it is missing, has expired, or
        its user was removed or has another password."""
        if not identifier:
            raise Unauthenticated(
                "This operation needs a session: log in with POST /api/session and send its id in the header "
                "vmware-api-session-id.",
                reason="no_session",
            )
        now = self._clock()
        key = digest(identifier)
        with self._database.transaction() as connection:
            row = connection.execute(sql.select(sessions).where(sessions.c.digest == key)).one_or_none()
            if row is None or now - row.last_accessed > self._idle or now - row.created > self._lifetime:
                raise expired()
            if now - row.last_accessed > ACCESS_RESOLUTION:
                connection.execute(
                    sessions.update().where(sessions.c.digest == key).values(last_accessed=now)
                )
        user = self._users.get(row.user)
        if user is None or digest(user.password) != row.password:
            raise expired()
        return Session(key, user, row.created, now)

    def end(self, session: Session) -> None:
        """Ends a session."""
        with self._database.transaction() as connection:
            connection.execute(sessions.delete().where(sessions.c.digest == session.digest))

    def forget_expired(self) -> None:
        """Removes sessions that nobody can use any more."""
        now = self._clock()
        with self._database.transaction() as connection:
            connection.execute(
                sessions.delete().where(
                    (sessions.c.last_accessed < now - self._idle)
                    | (sessions.c.created < now - self._lifetime)
                )
            )


def end_sessions(connection: sql.Connection, user: str, keep: str = "", password: str = "") -> None:
    """Ends a user's sessions, but that with the digest `keep`, which goes on with the new password (hash)."""
    own = sessions.c.user == user
    connection.execute(sessions.delete().where(own & (sessions.c.digest != keep)))
    connection.execute(sessions.update().where(own).values(password=digest(password)))


def digest(secret: str) -> str:
    """SHA-256, hex. Session ids are 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def expired() -> Unauthenticated:
    """One answer for unknown and expired sessions."""
    return Unauthenticated(
        "The session does not exist or has expired; log in again.", reason="session_expired"
    )

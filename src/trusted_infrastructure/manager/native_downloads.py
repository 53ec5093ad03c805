# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of native providers on their way out: each waits, encrypted, to be fetched once with its token.

A backup is fetched by who has its token, within LIFETIME, once: the first use of the token ends it, whatever
comes of the transfer. Only a transfer that left this manager in full makes the provider backed up, and only
where the backup has the key that is current then. Whether it arrived is for the client to say, by its digest.
The database has the token's digest, and the file under the key that is not in the database; with its
download, or its end, the file is gone.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

import sqlalchemy as sql

from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.database import native_downloads
from trusted_infrastructure.manager.sessions import digest
from trusted_infrastructure.manager.vapi.errors import Unauthenticated

LIFETIME = 600  # seconds
MAXIMUM = 32  # that wait at once


@dataclass(frozen=True)
class Offer:
    """Where a backup waits. download: public id. token: secret. expires: Unix seconds."""

    download: str
    token: str = field(repr=False)
    expires: int


@dataclass(frozen=True)
class Backup:
    """A backup that was fetched. user: who exported it."""

    provider: str
    key_id: str
    user: str
    content: bytes = field(repr=False)


class TokenRefused(Unauthenticated):
    """No token, a wrong one, or one that was used or has expired: one answer for all."""

    headers = {"WWW-Authenticate": 'Bearer realm="native key provider backup"'}

    def __init__(self) -> None:
        super().__init__(
            "There is no backup to be fetched with this token: it is of one use and ends after "
            f"{LIFETIME // 60} minutes. Export the provider again.",
            reason="download_token_invalid",
        )


def offer(manager: Manager, backup: Backup) -> Offer:
    """Keeps a backup until it is fetched. Of too many, the oldest go."""
    now = int(manager.clock())
    made = Offer(secrets.token_hex(16), secrets.token_urlsafe(32), now + LIFETIME)
    table = native_downloads
    with manager.database.transaction() as connection:
        latest = sql.select(table.c.download).order_by(table.c.expires.desc()).limit(MAXIMUM - 1)
        kept = list(connection.execute(latest).scalars())
        connection.execute(table.delete().where(table.c.download.not_in(kept)))
        connection.execute(
            table.insert().values(
                download=made.download,
                token=digest(made.token),
                provider=backup.provider,
                key_id=backup.key_id,
                user=backup.user,
                expires=made.expires,
                secret=manager.secrets.encrypt(purpose(made.download), backup.content),
            )
        )
    return made


def take(manager: Manager, download: str, token: str | None) -> Backup:
    """The backup, once. Raises TokenRefused, Unavailable `state_unusable`."""
    table = native_downloads
    with manager.database.transaction() as connection:
        row = connection.execute(sql.select(table).where(table.c.download == download)).one_or_none()
        if row is None or token is None or not hmac.compare_digest(digest(token), row.token):
            raise TokenRefused
        connection.execute(table.delete().where(table.c.download == download))
    if row.expires <= manager.clock():
        raise TokenRefused
    return Backup(row.provider, row.key_id, row.user, manager.secrets.decrypt(purpose(download), row.secret))


def forget_expired(manager: Manager) -> None:
    """Removes what nobody can fetch any more."""
    with manager.database.transaction() as connection:
        connection.execute(native_downloads.delete().where(native_downloads.c.expires <= manager.clock()))


def forget_provider(connection: sql.Connection, name: str) -> None:
    """Removes what waits of a provider that is no more."""
    connection.execute(native_downloads.delete().where(native_downloads.c.provider == name))


def purpose(download: str) -> str:
    """What the file is encrypted for in the database."""
    return f"native_download/{download}"

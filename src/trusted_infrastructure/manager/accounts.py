# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of the management API: those of the inventory's file, and those that were made through the API.

The file comes first: a name that it has means its user, and the API changes nothing about him. So whoever
deploys a manager can always log in and repair what was done through the API.
"""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sql

from trusted_infrastructure.manager.database import Database, accounts, group_members, permissions
from trusted_infrastructure.manager.sessions import end_sessions
from trusted_infrastructure.manager.users import User, Users
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotAllowedInCurrentState, NotFound

USER = "USER"
PASSWORD_LENGTH = (12, 256)
# A colon would end the name in an HTTP Basic header; names that only look the same are nobody's friend.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")


class Accounts(Users):
    """All users. Passwords are checked as those of the file are."""

    def __init__(self, path: Path, database: Database) -> None:
        super().__init__(path)
        self._database = database

    def get(self, name: str) -> User | None:
        """The user of that name. Raises ServiceUnavailable when the file cannot be used."""
        fixed = self.of_inventory().get(name)
        if fixed is not None:
            return fixed
        with self._database.transaction() as connection:
            row = connection.execute(sql.select(accounts).where(accounts.c.name == name)).one_or_none()
        return None if row is None else user_of_row(row)

    def everybody(self, connection: sql.Connection) -> dict[str, User]:
        """All users by name, sorted."""
        made = [user_of_row(row) for row in connection.execute(sql.select(accounts))]
        found = {user.name: user for user in made} | self.of_inventory()
        return dict(sorted(found.items()))

    def find(self, connection: sql.Connection, name: str) -> User:
        """A user. Raises NotFound."""
        found = self.everybody(connection).get(name)
        if found is None:
            raise no_user(name)
        return found

    def refuse_fixed(self, name: str) -> None:
        """Raises NotAllowedInCurrentState for a user of the inventory."""
        if name in self.of_inventory():
            raise NotAllowedInCurrentState(
                f"The user {name!r} comes from the inventory (manager_administrator_name, manager_users): "
                "change him there and deploy the manager again.",
                name,
                reason="inventory_user",
            )


def user_of_row(row: sql.Row[tuple[object, ...]]) -> User:
    """A row of `accounts`: what he may do, permissions say."""
    return User(name=row.name, password=row.password, privileges=[], groups=[])


def no_user(name: str) -> NotFound:
    """The error for a name that nobody has."""
    return NotFound(f"There is no user {name[:200]!r} on this manager.", name[:200], reason="no_user")


def create_account(
    connection: sql.Connection, users: Accounts, name: str, password: str, description: str
) -> None:
    """A new user without any rights. password: argon2 hash. Raises AlreadyExists; names that differ in case
    alone are the same."""
    same = next((other for other in users.everybody(connection) if other.casefold() == name.casefold()), None)
    if same is not None:
        raise AlreadyExists(f"A user named {same!r} exists.", same)
    # What an earlier user of the inventory had by this name is not for the new one.
    forget_principal(connection, name)
    connection.execute(accounts.insert().values(name=name, password=password, description=description))


def update_account(
    connection: sql.Connection,
    name: str,
    password: str | None,
    description: str | None = None,
    keep: str = "",
) -> None:
    """Changes what is not None. password: argon2 hash; it ends the user's sessions but `keep` (digest)."""
    values: dict[str, str] = {}
    if password is not None:
        values["password"] = password
        end_sessions(connection, name, keep, password)
    if description is not None:
        values["description"] = description
    if values:
        connection.execute(accounts.update().where(accounts.c.name == name).values(**values))


def delete_account(connection: sql.Connection, name: str) -> None:
    """Removes a user, what he could, and his sessions. Raises NotFound."""
    if connection.execute(accounts.delete().where(accounts.c.name == name)).rowcount == 0:
        raise no_user(name)
    forget_principal(connection, name)
    end_sessions(connection, name)


def forget_principal(connection: sql.Connection, name: str) -> None:
    """Removes permissions and memberships of a user."""
    of_user = (permissions.c.principal_type == USER) & (permissions.c.principal == name)
    connection.execute(permissions.delete().where(of_user))
    connection.execute(group_members.delete().where(group_members.c.user == name))


def description_of(connection: sql.Connection, name: str) -> str | None:
    """What is written about a user that was made through the API; None for others."""
    query = sql.select(accounts.c.description).where(accounts.c.name == name)
    return connection.execute(query).scalar_one_or_none()

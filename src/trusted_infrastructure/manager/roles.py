# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles: named sets of privileges. Five are built in; others are made through the API."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import msgspec
import sqlalchemy as sql

from trusted_infrastructure.manager import privileges
from trusted_infrastructure.manager.database import permissions, roles
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    NotAllowedInCurrentState,
    NotFound,
    ResourceBusy,
)

ADMINISTRATOR = "Administrator"
NO_CRYPTO_ADMIN = "NoCryptoAdmin"
TRUSTED_ADMIN = "TrustedAdmin"
READ_ONLY = "ReadOnly"
NO_ACCESS = "NoAccess"


@dataclass(frozen=True)
class Role:
    """A role. name: its id. label: as people read it. system: built in, so that nobody changes it."""

    name: str
    label: str
    description: str
    privileges: frozenset[str]
    system: bool = False

    @property
    def listed(self) -> list[str]:
        """The privileges by id, sorted; all known ones for "*"."""
        return sorted(privileges.IDS if privileges.ALL_PRIVILEGES in self.privileges else self.privileges)


SYSTEM_ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            ADMINISTRATOR,
            "Administrator",
            "All privileges, those of later releases too.",
            frozenset({privileges.ALL_PRIVILEGES}),
            True,
        ),
        Role(
            NO_CRYPTO_ADMIN,
            "No cryptography administrator",
            "All privileges but the cryptographic operations and four that lead to them.",
            privileges.IDS - privileges.CRYPTOGRAPHIC - privileges.NOT_WITHOUT_CRYPTOGRAPHY,
            True,
        ),
        Role(
            TRUSTED_ADMIN,
            "Trusted infrastructure administrator",
            "All privileges of the trusted infrastructure. Changes need membership in TrustedAdmins too.",
            privileges.TRUSTED | privileges.SYSTEM,
            True,
        ),
        Role(READ_ONLY, "Read only", "Sees objects, and changes nothing.", privileges.SYSTEM, True),
        Role(NO_ACCESS, "No access", "Takes what is held above.", frozenset(), True),
    )
}


def all_roles(connection: sql.Connection) -> dict[str, Role]:
    """All roles by name, those that are built in first."""
    rows = connection.execute(sql.select(roles).order_by(roles.c.name))
    return SYSTEM_ROLES | {row.name: role_of_row(row) for row in rows}


def role_of_row(row: sql.Row[tuple[object, ...]]) -> Role:
    """A row of `roles`."""
    return Role(row.name, row.name, row.description, stored(row.privileges))


def stored(text: str) -> frozenset[str]:
    """Privileges of a column. Ids that this release does not know are kept; nothing asks for them."""
    return frozenset(msgspec.json.decode(text, type=list[str]))


def find_role(connection: sql.Connection, name: str) -> Role:
    """A role. Raises NotFound."""
    found = all_roles(connection).get(name)
    if found is None:
        raise NotFound(f"There is no role {name[:200]!r} on this manager.", name[:200], reason="no_role")
    return found


def complete(wanted: Iterable[str]) -> frozenset[str]:
    """With the System privileges, which vSphere puts into every role that somebody makes."""
    return frozenset(wanted) | privileges.SYSTEM


def create_role(connection: sql.Connection, name: str, description: str, wanted: Collection[str]) -> None:
    """A new role. Raises AlreadyExists; names that differ in case alone are the same."""
    same = next((other for other in all_roles(connection) if other.casefold() == name.casefold()), None)
    if same is not None:
        raise AlreadyExists(f"A role named {same!r} exists.", same)
    text = msgspec.json.encode(sorted(complete(wanted))).decode()
    connection.execute(roles.insert().values(name=name, description=description, privileges=text))


def update_role(
    connection: sql.Connection, role: Role, description: str | None, wanted: Collection[str] | None
) -> None:
    """Changes what is not None. Raises NotAllowedInCurrentState for a role that is built in."""
    refuse_system(role)
    values: dict[str, str] = {}
    if description is not None:
        values["description"] = description
    if wanted is not None:
        values["privileges"] = msgspec.json.encode(sorted(complete(wanted))).decode()
    if values:
        connection.execute(roles.update().where(roles.c.name == role.name).values(**values))


def delete_role(connection: sql.Connection, role: Role) -> None:
    """Removes a role that no permission uses. Raises NotAllowedInCurrentState, ResourceBusy."""
    refuse_system(role)
    used = connection.execute(
        sql.select(permissions.c.principal).where(permissions.c.role == role.name)
    ).scalars()
    names = sorted(set(used))
    if names:
        raise ResourceBusy(
            f"The role {role.name!r} is in use; remove the permissions of these first: {', '.join(names)}.",
            role.name,
            reason="role_in_use",
        )
    connection.execute(roles.delete().where(roles.c.name == role.name))


def refuse_system(role: Role) -> None:
    """Raises NotAllowedInCurrentState for a role that is built in."""
    if role.system:
        raise NotAllowedInCurrentState(
            f"The role {role.name!r} is built in: it cannot be changed or removed. Make a role of your own.",
            role.name,
            reason="system_role",
        )

# SPDX-License-Identifier: GPL-3.0-or-later
"""Permissions: a user or group, a role, and the root or a cluster; and what they make of each user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import sqlalchemy as sql

from trusted_infrastructure.manager.accounts import USER, Accounts
from trusted_infrastructure.manager.authorization import TRUSTED_ADMINS, Grant, Rights
from trusted_infrastructure.manager.database import permissions
from trusted_infrastructure.manager.delegation import check_delegation
from trusted_infrastructure.manager.groups import groups_of
from trusted_infrastructure.manager.inventory import find_cluster, inserted
from trusted_infrastructure.manager.roles import Role, all_roles
from trusted_infrastructure.manager.users import User
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotFound

PREFIX = "permission-"
ROOT_NUMBER = 0  # of the column `cluster`: a NULL would not be unique
NO_CLUSTER = -1
PrincipalType: TypeAlias = Literal["USER", "GROUP"]


@dataclass(frozen=True)
class Permission:
    """cluster: number, None for the root. propagate: it counts below its object, too."""

    number: int
    type: PrincipalType
    principal: str
    role: str
    cluster: int | None
    propagate: bool

    @property
    def id(self) -> str:
        """Id in the API."""
        return f"{PREFIX}{self.number}"


def permission_of_row(row: sql.Row[tuple[object, ...]]) -> Permission:
    """A row of `permissions`."""
    cluster = None if row.cluster == ROOT_NUMBER else row.cluster
    return Permission(row.number, row.principal_type, row.principal, row.role, cluster, row.propagate)


def all_permissions(connection: sql.Connection) -> list[Permission]:
    """All permissions, in the order in which they were made."""
    rows = connection.execute(sql.select(permissions).order_by(permissions.c.number))
    return [permission_of_row(row) for row in rows]


def find_permission(connection: sql.Connection, identifier: str) -> Permission:
    """A permission by its id. Raises NotFound."""
    for permission in all_permissions(connection):
        if permission.id == identifier:
            return permission
    raise no_permission(identifier)


def no_permission(identifier: str) -> NotFound:
    """The error for an id that no permission has."""
    return NotFound(
        f"There is no permission {identifier[:200]!r} on this manager.",
        identifier[:200],
        reason="no_permission",
    )


def create_permission(
    connection: sql.Connection,
    principal_type: PrincipalType,
    principal: str,
    role: str,
    cluster: int | None,
    propagate: bool,
) -> str:
    """A new permission; its id. Raises AlreadyExists: a principal has one for each object."""
    number = ROOT_NUMBER if cluster is None else cluster
    same = (
        (permissions.c.principal_type == principal_type)
        & (permissions.c.principal == principal)
        & (permissions.c.cluster == number)
    )
    found = connection.execute(sql.select(permissions).where(same)).one_or_none()
    if found is not None:
        raise AlreadyExists(
            f"{principal!r} has a role on this object by {PREFIX}{found.number}; change that.",
            f"{PREFIX}{found.number}",
        )
    result = connection.execute(
        permissions.insert().values(
            principal_type=principal_type,
            principal=principal,
            role=role,
            cluster=number,
            propagate=propagate,
        )
    )
    return f"{PREFIX}{inserted(result)}"


def update_permission(
    connection: sql.Connection, permission: Permission, role: str | None, propagate: bool | None
) -> None:
    """Changes what is not None."""
    values: dict[str, object] = {} if role is None else {"role": role}
    if propagate is not None:
        values["propagate"] = propagate
    if values:
        same = permissions.c.number == permission.number
        connection.execute(permissions.update().where(same).values(**values))


def delete_permission(connection: sql.Connection, permission: Permission) -> None:
    """Removes a permission."""
    connection.execute(permissions.delete().where(permissions.c.number == permission.number))


def permissions_of(
    connection: sql.Connection, principal_type: PrincipalType, principal: str
) -> list[tuple[Permission, Role]]:
    """What a user or group was given himself, with the roles."""
    roles = all_roles(connection)
    return [
        (item, roles[item.role])
        for item in all_permissions(connection)
        if (item.type, item.principal) == (principal_type, principal) and item.role in roles
    ]


def rights_of(connection: sql.Connection, user: User) -> Rights:
    """What a user may do, as it stands now."""
    return assembled(connection, user, all_permissions(connection), all_roles(connection))


def assembled(
    connection: sql.Connection, user: User, found: list[Permission], roles: Mapping[str, Role]
) -> Rights:
    """From the user, permissions and roles. A role that is gone gives nothing, and overrides all the same."""
    groups = groups_of(connection, user)
    grants = tuple(
        Grant(
            roles[item.role].privileges if item.role in roles else frozenset(),
            item.cluster,
            own=item.type == USER,
            propagate=item.propagate,
        )
        for item in found
        if (item.principal == user.name if item.type == USER else item.principal in groups)
    )
    return Rights(
        name=user.name,
        fixed=frozenset(user.privileges),
        fixed_cluster=None if user.cluster is None else number_of_cluster(connection, user.cluster),
        grants=grants,
        trusted_admin=TRUSTED_ADMINS in groups,
    )


def number_of_cluster(connection: sql.Connection, identifier: str) -> int:
    """Number of a cluster by id or name; one that no cluster has where there is none."""
    try:
        return find_cluster(connection, identifier).number
    except NotFound:
        return NO_CLUSTER


def everybody(connection: sql.Connection, users: Accounts) -> dict[str, Rights]:
    """What each user may do."""
    found, roles = all_permissions(connection), all_roles(connection)
    people = users.everybody(connection)
    return {name: assembled(connection, user, found, roles) for name, user in people.items()}


@contextmanager
def delegating(connection: sql.Connection, users: Accounts, caller: str) -> Iterator[Rights]:
    """Around a change of users, groups, roles or permissions, in its transaction; gives the caller's rights.

    Raises Unauthorized when afterwards anybody holds what he did not hold before and the caller does not
    hold, and NotAllowedInCurrentState when no administrator is left; the transaction is rolled back then."""
    before = everybody(connection, users)
    rights = before.get(caller, Rights(name=caller))
    yield rights
    check_delegation(before, everybody(connection, users), rights)

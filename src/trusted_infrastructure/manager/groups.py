# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of users. TrustedAdmins is built in: its members alone change the trusted infrastructure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sql

from trusted_infrastructure.manager.authorization import TRUSTED_ADMINS
from trusted_infrastructure.manager.database import group_members, groups, permissions
from trusted_infrastructure.manager.users import User
from trusted_infrastructure.manager.vapi.errors import AlreadyExists, NotAllowedInCurrentState, NotFound

GROUP: Literal["GROUP"] = "GROUP"


@dataclass(frozen=True)
class Group:
    """A group. members: those that the API knows; inventory: those that the inventory puts in."""

    name: str
    description: str
    members: tuple[str, ...] = ()
    inventory: tuple[str, ...] = ()
    system: bool = False


SYSTEM_GROUPS = {
    TRUSTED_ADMINS: Group(
        TRUSTED_ADMINS,
        "Its members alone change the trusted infrastructure; what each may do, his privileges say.",
        system=True,
    )
}


def all_groups(connection: sql.Connection, fixed: Mapping[str, User]) -> dict[str, Group]:
    """All groups by name, that which is built in first. fixed: users of the inventory."""
    rows = connection.execute(sql.select(groups).order_by(groups.c.name)).all()
    found = SYSTEM_GROUPS | {row.name: Group(row.name, row.description) for row in rows}
    members: dict[str, list[str]] = {name: [] for name in found}
    for row in connection.execute(sql.select(group_members).order_by(group_members.c.user)):
        members.setdefault(row.group, []).append(row.user)
    return {
        name: Group(
            name,
            group.description,
            tuple(members[name]),
            tuple(sorted(user.name for user in fixed.values() if name in user.fixed_groups)),
            group.system,
        )
        for name, group in found.items()
    }


def find_group(connection: sql.Connection, fixed: Mapping[str, User], name: str) -> Group:
    """A group. Raises NotFound."""
    found = all_groups(connection, fixed).get(name)
    if found is None:
        raise NotFound(f"There is no group {name[:200]!r} on this manager.", name[:200], reason="no_group")
    return found


def groups_of(connection: sql.Connection, user: User) -> frozenset[str]:
    """Names of the groups that a user is in."""
    query = sql.select(group_members.c.group).where(group_members.c.user == user.name)
    return user.fixed_groups | frozenset(connection.execute(query).scalars())


def create_group(connection: sql.Connection, name: str, description: str) -> None:
    """A new group without members. Raises AlreadyExists; names that differ in case alone are the same."""
    names = [*SYSTEM_GROUPS, *connection.execute(sql.select(groups.c.name)).scalars()]
    same = next((other for other in names if other.casefold() == name.casefold()), None)
    if same is not None:
        raise AlreadyExists(f"A group named {same!r} exists.", same)
    connection.execute(groups.insert().values(name=name, description=description))


def update_group(connection: sql.Connection, group: Group, description: str) -> None:
    """Another description. Raises NotAllowedInCurrentState for a group that is built in."""
    refuse_system(group)
    connection.execute(groups.update().where(groups.c.name == group.name).values(description=description))


def delete_group(connection: sql.Connection, group: Group) -> None:
    """Removes a group, its memberships and permissions. Raises NotAllowedInCurrentState."""
    refuse_system(group)
    of_group = (permissions.c.principal_type == GROUP) & (permissions.c.principal == group.name)
    connection.execute(permissions.delete().where(of_group))
    connection.execute(group_members.delete().where(group_members.c.group == group.name))
    connection.execute(groups.delete().where(groups.c.name == group.name))


def add_member(connection: sql.Connection, group: Group, user: str) -> None:
    """Puts a user into a group; one who is in it stays."""
    if user not in (*group.members, *group.inventory):
        connection.execute(group_members.insert().values(group=group.name, user=user))


def remove_member(connection: sql.Connection, group: Group, user: str) -> None:
    """Takes a user out of a group. Raises NotFound, NotAllowedInCurrentState for one of the inventory."""
    if user in group.inventory:
        raise NotAllowedInCurrentState(
            f"The inventory puts {user!r} into the group {group.name!r} (groups of manager_users): change it "
            "there and deploy the manager again.",
            user,
            reason="inventory_user",
        )
    if user not in group.members:
        raise NotFound(
            f"The user {user[:200]!r} is not in the group {group.name!r}.", user[:200], reason="no_member"
        )
    same = (group_members.c.group == group.name) & (group_members.c.user == user)
    connection.execute(group_members.delete().where(same))


def refuse_system(group: Group) -> None:
    """Raises NotAllowedInCurrentState for a group that is built in."""
    if group.system:
        raise NotAllowedInCurrentState(
            f"The group {group.name!r} is built in: only its members can be changed.",
            group.name,
            reason="system_group",
        )

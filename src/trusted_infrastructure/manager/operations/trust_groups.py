# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/groups: groups of users; members of TrustedAdmins alone change the trusted infrastructure."""

from __future__ import annotations

from typing import Literal

from trusted_infrastructure.manager import groups
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.delegation import check_grant
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.operations.trust_roles import Description
from trusted_infrastructure.manager.permissions import delegating, permissions_of
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    Unauthorized,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Nothing, Structure, check_name

SERVICE = f"{TRUST}.groups"
PATH = f"{TRUST_PATH}/groups"


class CreateSpec(Structure, frozen=True):
    """A group, without members."""

    group: str
    description: Description = ""

    def __post_init__(self) -> None:
        check_name("group", self.group)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    description: Description | None = None


class GroupInput(Structure, frozen=True):
    """Input that is a group alone."""

    group: Identifier


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    group: Identifier
    spec: UpdateSpec


class MemberInput(Structure, frozen=True):
    """A group and a user."""

    group: Identifier
    user: Identifier


class Member(Structure, frozen=True, omit_defaults=False):
    """A member. source: INVENTORY, which alone takes him out again, or API."""

    user: str
    source: Literal["INVENTORY", "API"]


class Info(Structure, frozen=True, omit_defaults=False):
    """A group. system: built in."""

    group: str
    description: str
    system: bool
    members: list[Member]


def members_of(group: groups.Group) -> list[Member]:
    """As the API gives them: sorted by name; the inventory counts where both say it."""
    return [
        Member(user=user, source="INVENTORY" if user in group.inventory else "API")
        for user in sorted({*group.members, *group.inventory})
    ]


def info_of(group: groups.Group) -> Info:
    """As the API gives it."""
    return Info(
        group=group.name, description=group.description, system=group.system, members=members_of(group)
    )


async def list_groups(context: Context, _given: Nothing) -> list[Info]:
    with context.manager.database.transaction() as connection:
        found = groups.all_groups(connection, context.manager.users.of_inventory())
        return [info_of(group) for group in found.values()]


async def get(context: Context, given: GroupInput) -> Info:
    with context.manager.database.transaction() as connection:
        return info_of(groups.find_group(connection, context.manager.users.of_inventory(), given.group))


async def list_members(context: Context, given: GroupInput) -> list[Member]:
    return (await get(context, given)).members


async def create(context: Context, given: CreateInput) -> None:
    manager, spec = context.manager, given.spec
    context.audit_detail["group"] = spec.group
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        groups.create_group(connection, spec.group, spec.description)


async def update(context: Context, given: UpdateInput) -> None:
    manager = context.manager
    with manager.database.transaction() as connection:
        group = groups.find_group(connection, manager.users.of_inventory(), given.group)
        if given.spec.description is not None:
            groups.update_group(connection, group, given.spec.description)


async def delete(context: Context, given: GroupInput) -> None:
    manager = context.manager
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        group = groups.find_group(connection, manager.users.of_inventory(), given.group)
        groups.delete_group(connection, group)


async def add(context: Context, given: MemberInput) -> None:
    manager = context.manager
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name) as rights,
    ):
        group = groups.find_group(connection, manager.users.of_inventory(), given.group)
        for permission, role in permissions_of(connection, groups.GROUP, group.name):
            check_grant(role.privileges, rights, permission.cluster, permission.propagate)
        groups.add_member(connection, group, manager.users.find(connection, given.user).name)


async def remove(context: Context, given: MemberInput) -> None:
    manager = context.manager
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        group = groups.find_group(connection, manager.users.of_inventory(), given.group)
        groups.remove_member(connection, group, given.user)


READ = privileges("System.View")
MANAGE = privileges("Authorization.ModifyPermissions")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Groups of this manager",
        input=Nothing,
        output=list[Info],
        handler=list_groups,
        privileges=READ,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{group}}",
        summary="A group and its members",
        input=GroupInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a group without members",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{group}}",
        summary="Change a group's description",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, NotAllowedInCurrentState),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{group}}",
        summary="Remove a group and its permissions",
        input=GroupInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, NotAllowedInCurrentState, Unauthorized),
    ),
    Operation(
        service=f"{SERVICE}.members",
        operation="list",
        method="GET",
        path=f"{PATH}/{{group}}/members",
        summary="Members of a group",
        input=GroupInput,
        output=list[Member],
        handler=list_members,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=f"{SERVICE}.members",
        operation="add",
        method="PUT",
        path=f"{PATH}/{{group}}/members/{{user}}",
        summary="Put a user into a group",
        input=MemberInput,
        output=None,
        handler=add,
        privileges=MANAGE,
        errors=(NotFound, Unauthorized),
    ),
    Operation(
        service=f"{SERVICE}.members",
        operation="remove",
        method="DELETE",
        path=f"{PATH}/{{group}}/members/{{user}}",
        summary="Take a user out of a group",
        input=MemberInput,
        output=None,
        handler=remove,
        privileges=MANAGE,
        errors=(NotFound, NotAllowedInCurrentState, Unauthorized),
    ),
)

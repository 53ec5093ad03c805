# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/privileges and trust/roles: what can be held, and named sets of it.

vSphere has this outside of the trusted infrastructure's API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from trusted_infrastructure.manager import privileges as known
from trusted_infrastructure.manager import roles
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.delegation import check_given
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.permissions import delegating
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    ResourceBusy,
    Unauthorized,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import (
    FieldError,
    Identifier,
    Nothing,
    Structure,
    check_name,
)

SERVICE = f"{TRUST}.roles"
PATH = f"{TRUST_PATH}/roles"
Description = Annotated[str, msgspec.Meta(max_length=1000)]


class PrivilegeInfo(Structure, frozen=True):
    """A privilege: id, name as vSphere shows it, group by id and name, and what it permits."""

    privilege: str
    name: str
    group: str
    group_name: str
    purpose: str


class CreateSpec(Structure, frozen=True):
    """A role. privileges: ids. The System privileges are in every role, named or not."""

    role: str
    privileges: list[str]
    description: Description = ""

    def __post_init__(self) -> None:
        check_name("role", self.role)
        check_privileges(self.privileges)


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. privileges: all that the role is to have."""

    privileges: list[str] | None = None
    description: Description | None = None

    def __post_init__(self) -> None:
        check_privileges(self.privileges or [])


class RoleInput(Structure, frozen=True):
    """Input that is a role alone."""

    role: Identifier


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    role: Identifier
    spec: UpdateSpec


class Info(Structure, frozen=True, omit_defaults=False):
    """A role. label: as people read it. system: built in. privileges: ids, sorted."""

    role: str
    label: str
    description: str
    system: bool
    privileges: list[str]


def check_privileges(wanted: Sequence[str]) -> None:
    """Raises FieldError for an id that is not known."""
    for index, identifier in enumerate(wanted):
        if identifier not in known.IDS:
            hint = "; the role Administrator has all" if identifier == known.ALL_PRIVILEGES else ""
            raise FieldError(f"privileges[{index}]", f"is not a known privilege: {identifier[:80]!r}{hint}")


def info_of(role: roles.Role) -> Info:
    """As the API gives it."""
    return Info(
        role=role.name,
        label=role.label,
        description=role.description,
        system=role.system,
        privileges=role.listed,
    )


async def list_privileges(_context: Context, _given: Nothing) -> list[PrivilegeInfo]:
    return [
        PrivilegeInfo(
            privilege=item.id,
            name=item.name,
            group=item.group,
            group_name=known.GROUP_NAMES[item.group],
            purpose=item.purpose,
        )
        for item in known.KNOWN
    ]


async def list_roles(context: Context, _given: Nothing) -> list[Info]:
    with context.manager.database.transaction() as connection:
        return [info_of(role) for role in roles.all_roles(connection).values()]


async def get(context: Context, given: RoleInput) -> Info:
    with context.manager.database.transaction() as connection:
        return info_of(roles.find_role(connection, given.role))


async def create(context: Context, given: CreateInput) -> None:
    context.audit_detail["role"] = given.spec.role
    with context.manager.database.transaction() as connection:
        check_given(roles.complete(given.spec.privileges), context.caller_rights)
        roles.create_role(connection, given.spec.role, given.spec.description, given.spec.privileges)


async def update(context: Context, given: UpdateInput) -> None:
    manager, spec = context.manager, given.spec
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name) as rights,
    ):
        role = roles.find_role(connection, given.role)
        if spec.privileges is not None:
            check_given(roles.complete(spec.privileges) - role.privileges, rights)
        roles.update_role(connection, role, spec.description, spec.privileges)


async def delete(context: Context, given: RoleInput) -> None:
    with context.manager.database.transaction() as connection:
        roles.delete_role(connection, roles.find_role(connection, given.role))


READ = privileges("System.View")
MANAGE = privileges("Authorization.ModifyRoles")

OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.privileges",
        operation="list",
        method="GET",
        path=f"{TRUST_PATH}/privileges",
        summary="All privileges",
        input=Nothing,
        output=list[PrivilegeInfo],
        handler=list_privileges,
        privileges=READ,
    ),
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Roles: those that are built in, and own ones",
        input=Nothing,
        output=list[Info],
        handler=list_roles,
        privileges=READ,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{role}}",
        summary="A role",
        input=RoleInput,
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
        summary="Make a role of privileges that the caller holds",
        input=CreateInput,
        output=None,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, Unauthorized),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{role}}",
        summary="Change a role",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, NotAllowedInCurrentState, Unauthorized),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{role}}",
        summary="Remove a role that no permission uses",
        input=RoleInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, NotAllowedInCurrentState, ResourceBusy),
    ),
)

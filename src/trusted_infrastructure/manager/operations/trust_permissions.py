# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/permissions: which user or group has which role on the root or on a cluster.

vSphere has this outside of the trusted infrastructure's API. The rules are those of `authorization`.
"""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sql

from trusted_infrastructure.manager import permissions
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.delegation import check_grant
from trusted_infrastructure.manager.groups import find_group
from trusted_infrastructure.manager.inventory import CLUSTER_PREFIX, find_cluster
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.permissions import PREFIX, Permission, delegating
from trusted_infrastructure.manager.roles import find_role
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    Unauthorized,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Identifier, Structure

SERVICE = f"{TRUST}.permissions"
PATH = f"{TRUST_PATH}/permissions"
PrincipalType = Literal["USER", "GROUP"]


class CreateSpec(Structure, frozen=True):
    """A permission. cluster: id or name; unset: the root, which is this manager. propagate: it counts on what
    is below, too: on clusters and hosts, or on the hosts of the cluster."""

    principal_type: PrincipalType
    principal: Identifier
    role: Identifier
    cluster: Identifier | None = None
    propagate: bool = True


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged."""

    role: Identifier | None = None
    propagate: bool | None = None


class PermissionInput(Structure, frozen=True):
    """Input that is a permission alone."""

    permission: Identifier


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    permission: Identifier
    spec: UpdateSpec


class ListInput(Structure, frozen=True):
    """Those of one of the principals (names), with one of the roles, on one of the clusters (ids or names),
    where given."""

    principals: list[str] | None = None
    roles: list[str] | None = None
    clusters: list[str] | None = None


class Info(Structure, frozen=True):
    """A permission. cluster: id; unset for the root."""

    permission: str
    principal_type: PrincipalType
    principal: str
    role: str
    propagate: bool
    cluster: str | None = None


def info_of(permission: Permission) -> Info:
    """As the API gives it."""
    return Info(
        permission=permission.id,
        principal_type=permission.type,
        principal=permission.principal,
        role=permission.role,
        propagate=permission.propagate,
        cluster=None if permission.cluster is None else f"{CLUSTER_PREFIX}{permission.cluster}",
    )


async def list_permissions(context: Context, given: ListInput) -> list[Info]:
    visible = context.clusters()
    named = None
    if given.clusters:
        named = {item.number for item in visible if {item.id, item.name} & set(given.clusters)}
    numbers = {cluster.number for cluster in visible}
    with context.manager.database.transaction() as connection:
        found = permissions.all_permissions(connection)
    return [
        info_of(item)
        for item in found
        if (item.cluster is None or item.cluster in numbers)
        and (named is None or item.cluster in named)
        and (not given.principals or item.principal in given.principals)
        and (not given.roles or item.role in given.roles)
    ]


async def get(context: Context, given: PermissionInput) -> Info:
    for info in await list_permissions(context, ListInput()):
        if info.permission == given.permission:
            return info
    raise permissions.no_permission(given.permission)


async def create(context: Context, given: CreateInput) -> str:
    manager, spec = context.manager, given.spec
    note(context, spec.principal_type, spec.principal, spec.role, spec.cluster or "")
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name) as rights,
    ):
        cluster = None if spec.cluster is None else find_cluster(connection, spec.cluster).number
        role = find_role(connection, spec.role)
        check_principal(context, connection, spec)
        check_grant(role.privileges, rights, cluster, spec.propagate)
        return permissions.create_permission(
            connection, spec.principal_type, spec.principal, role.name, cluster, spec.propagate
        )


async def update(context: Context, given: UpdateInput) -> None:
    manager, spec = context.manager, given.spec
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name) as rights,
    ):
        found = permissions.find_permission(connection, given.permission)
        role = find_role(connection, spec.role or found.role)
        propagate = found.propagate if spec.propagate is None else spec.propagate
        note(context, found.type, found.principal, role.name, info_of(found).cluster or "")
        if (role.name, propagate) != (found.role, found.propagate):
            check_grant(role.privileges, rights, found.cluster, propagate)
        permissions.update_permission(connection, found, role.name, propagate)


async def delete(context: Context, given: PermissionInput) -> None:
    manager = context.manager
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        found = permissions.find_permission(connection, given.permission)
        note(context, found.type, found.principal, found.role, info_of(found).cluster or "")
        permissions.delete_permission(connection, found)


def check_principal(context: Context, connection: sql.Connection, spec: CreateSpec) -> None:
    """There is such a user or group. Raises NotFound."""
    users = context.manager.users
    if spec.principal_type == "USER":
        users.find(connection, spec.principal)
    else:
        find_group(connection, users.of_inventory(), spec.principal)


def note(context: Context, principal_type: str, principal: str, role: str, cluster: str) -> None:
    """What the audit record says beside the permission's id."""
    detail = {"principal": f"{principal_type}:{principal}", "role": role, "cluster": cluster}
    context.audit_detail.update(detail)


READ = privileges("System.View")
MANAGE = privileges("Authorization.ModifyPermissions")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Permissions on the root, and on the clusters that the caller may see",
        input=ListInput,
        output=list[Info],
        handler=list_permissions,
        privileges=READ,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{permission}}",
        summary="A permission",
        input=PermissionInput,
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
        summary=f"Give a user or group a role; the answer is the permission's id ({PREFIX}1)",
        input=CreateInput,
        output=str,
        handler=create,
        privileges=MANAGE,
        errors=(AlreadyExists, InvalidArgument, NotFound, Unauthorized),
        body="spec",
        success=201,
    ),
    Operation(
        service=SERVICE,
        operation="update",
        method="PATCH",
        path=f"{PATH}/{{permission}}",
        summary="Another role, or whether it propagates",
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
        path=f"{PATH}/{{permission}}",
        summary="Take a role from a user or group",
        input=PermissionInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, NotAllowedInCurrentState, Unauthorized),
    ),
)

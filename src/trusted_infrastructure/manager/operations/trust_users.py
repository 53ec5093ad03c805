# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/users: users that were made through the API, beside those of the inventory.

Passwords are write-only, and kept as argon2id hashes that no answer has. vSphere has users in its identity
service.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trusted_infrastructure.manager import accounts
from trusted_infrastructure.manager.authorization import Place, Rights
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.delegation import check_power_over
from trusted_infrastructure.manager.groups import groups_of
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.operations.trust_roles import Description
from trusted_infrastructure.manager.permissions import delegating, everybody, rights_of
from trusted_infrastructure.manager.privileges import ALL_PRIVILEGES, IDS
from trusted_infrastructure.manager.vapi.errors import (
    AlreadyExists,
    InvalidArgument,
    NotAllowedInCurrentState,
    NotFound,
    Unauthorized,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import FieldError, Identifier, Nothing, Structure

SERVICE = f"{TRUST}.users"
PATH = f"{TRUST_PATH}/users"
Password = Annotated[
    str, msgspec.Meta(min_length=accounts.PASSWORD_LENGTH[0], max_length=accounts.PASSWORD_LENGTH[1])
]


class CreateSpec(Structure, frozen=True):
    """A user. password: 12 to 256 characters, without control characters; not his name."""

    user: str
    password: Password
    description: Description = ""

    def __post_init__(self) -> None:
        if not accounts.NAME.fullmatch(self.user):
            raise FieldError(
                "user", "must have up to 200 letters, digits and . _ @ + -, the first a letter or digit"
            )
        check_password("password", self.password, self.user)

    def __repr__(self) -> str:
        return f"CreateSpec({self.user!r})"


class CreateInput(Structure, frozen=True):
    """Input of create."""

    spec: CreateSpec


class UpdateSpec(Structure, frozen=True):
    """Unset: unchanged. Another password ends the user's sessions."""

    password: Password | None = None
    description: Description | None = None

    def __post_init__(self) -> None:
        if self.password is not None:
            check_password("password", self.password)

    def __repr__(self) -> str:
        return "UpdateSpec()"


class UserInput(Structure, frozen=True):
    """Input that is a user alone."""

    user: Identifier


class UpdateInput(Structure, frozen=True):
    """Input of update."""

    user: Identifier
    spec: UpdateSpec


class PasswordSpec(Structure, frozen=True):
    """Another password of the caller."""

    current_password: Annotated[str, msgspec.Meta(max_length=1000)]
    password: Password

    def __post_init__(self) -> None:
        check_password("password", self.password)

    def __repr__(self) -> str:
        return "PasswordSpec()"


class PasswordInput(Structure, frozen=True):
    """Input of change_password."""

    spec: PasswordSpec


class PrivilegesInput(Structure, frozen=True):
    """cluster: id or name; unset: the root."""

    user: Identifier
    cluster: Identifier | None = None


class Info(Structure, frozen=True, omit_defaults=False):
    """A user. source: INVENTORY, where the API changes nothing, or API. groups: in which he is."""

    user: str
    source: Literal["INVENTORY", "API"]
    description: str
    groups: list[str]


class Held(Structure, frozen=True, omit_defaults=False):
    """What a user holds on the root, or on a cluster and on its hosts: ids, sorted."""

    privileges: list[str]
    host_privileges: list[str]
    trusted_admin: bool


def check_password(field: str, password: str, name: str = "") -> None:
    """What the type does not say. Raises FieldError, never with the password."""
    if any(ord(character) < 32 or ord(character) == 127 for character in password):
        raise FieldError(field, "must not contain control characters")
    if len(set(password)) < 4 or password.casefold() == name.casefold():
        raise FieldError(field, "is too simple")


async def list_users(context: Context, _given: Nothing) -> list[Info]:
    users = context.manager.users
    with context.manager.database.transaction() as connection:
        fixed = users.of_inventory()
        return [
            Info(
                user=name,
                source="INVENTORY" if name in fixed else "API",
                description="" if name in fixed else accounts.description_of(connection, name) or "",
                groups=sorted(groups_of(connection, user)),
            )
            for name, user in users.everybody(connection).items()
        ]


async def get(context: Context, given: UserInput) -> Info:
    for info in await list_users(context, Nothing()):
        if info.user == given.user:
            return info
    raise accounts.no_user(given.user)


async def get_privileges(context: Context, given: PrivilegesInput) -> Held:
    visible = context.clusters()
    cluster = next((item for item in visible if given.cluster in {item.id, item.name}), None)
    if given.cluster is not None and cluster is None:
        raise NotFound(f"There is no cluster {given.cluster!r} that you may see.", given.cluster)
    with context.manager.database.transaction() as connection:
        rights = rights_of(connection, context.manager.users.find(connection, given.user))
    number = None if cluster is None else cluster.number
    return Held(
        privileges=listed(rights, Place(number)),
        host_privileges=listed(rights, Place(0 if number is None else number, True)),
        trusted_admin=rights.trusted_admin,
    )


def listed(rights: Rights, place: Place) -> list[str]:
    """The privileges on an object, sorted; all known ones for "*"."""
    held = rights.on(place)
    return sorted(IDS if ALL_PRIVILEGES in held else held)


async def create(context: Context, given: CreateInput) -> None:
    manager, spec = context.manager, given.spec
    context.audit_detail["user"] = spec.user
    hashed = await manager.users.hash(spec.password)
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        accounts.create_account(connection, manager.users, spec.user, hashed, spec.description)


async def update(context: Context, given: UpdateInput) -> None:
    manager, spec = context.manager, given.spec
    manager.users.refuse_fixed(given.user)
    if spec.password is not None:
        check_password("spec.password", spec.password, given.user)
        with manager.database.transaction() as connection:
            manager.users.find(connection, given.user)
    hashed = None if spec.password is None else await manager.users.hash(spec.password)
    context.audit_detail["password"] = "changed" if hashed else "unchanged"
    with manager.database.transaction() as connection:
        manager.users.find(connection, given.user)
        if hashed is not None:
            rights = everybody(connection, manager.users)
            name = context.caller.user.name
            check_power_over(rights[given.user], rights.get(name, Rights(name=name)))
        accounts.update_account(connection, given.user, hashed, spec.description)


async def change_password(context: Context, given: PasswordInput) -> None:
    manager, name, spec = context.manager, context.caller.user.name, given.spec
    manager.users.refuse_fixed(name)
    check_password("spec.password", spec.password, name)
    manager.limiter.check(name, context.address)
    manager.limiter.failed(name, context.address)
    if await manager.users.check(name, spec.current_password) is None:
        raise InvalidArgument("spec.current_password", "is wrong", reason="wrong_credentials")
    manager.limiter.succeeded(name, context.address)
    hashed = await manager.users.hash(spec.password)
    with manager.database.transaction() as connection:
        manager.users.find(connection, name)
        accounts.update_account(connection, name, hashed, keep=context.caller.digest)


async def delete(context: Context, given: UserInput) -> None:
    manager = context.manager
    manager.users.refuse_fixed(given.user)
    with (
        manager.database.transaction() as connection,
        delegating(connection, manager.users, context.caller.user.name),
    ):
        accounts.delete_account(connection, given.user)


READ = privileges("System.View")
MANAGE = privileges("Authorization.ModifyPermissions")

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="Users of this manager",
        input=Nothing,
        output=list[Info],
        handler=list_users,
        privileges=READ,
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{user}}",
        summary="A user",
        input=UserInput,
        output=Info,
        handler=get,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=f"{SERVICE}.privileges",
        operation="get",
        method="GET",
        path=f"{PATH}/{{user}}/privileges",
        summary="What a user holds on the root or a cluster",
        input=PrivilegesInput,
        output=Held,
        handler=get_privileges,
        privileges=READ,
        errors=(NotFound,),
    ),
    Operation(
        service=SERVICE,
        operation="create",
        method="POST",
        path=PATH,
        summary="Make a user, who may do nothing yet",
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
        path=f"{PATH}/{{user}}",
        summary="Change a user; another password ends his sessions",
        input=UpdateInput,
        output=None,
        handler=update,
        privileges=MANAGE,
        errors=(InvalidArgument, NotFound, NotAllowedInCurrentState, Unauthorized),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="change_password",
        method="POST",
        path=PATH,
        action="change-password",
        summary="Change the caller's own password; his other sessions end",
        input=PasswordInput,
        output=None,
        handler=change_password,
        privileges=(),
        errors=(InvalidArgument, NotAllowedInCurrentState),
        body="spec",
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=f"{PATH}/{{user}}",
        summary="Remove a user; his sessions, memberships and permissions end",
        input=UserInput,
        output=None,
        handler=delete,
        privileges=MANAGE,
        errors=(NotFound, NotAllowedInCurrentState),
    ),
)

# SPDX-License-Identifier: GPL-3.0-or-later
"""com.vmware.cis.session: log in, look, log out."""

from __future__ import annotations

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.vapi.errors import Unauthenticated
from trusted_infrastructure.manager.vapi.operation import Operation, Table
from trusted_infrastructure.manager.vapi.structure import Nothing, Structure, Timestamp, timestamp

SERVICE = "com.vmware.cis.session"
PATH = "/session"
# Names are remembered for a while when a login fails; longer ones than this exist for nobody.
NAME_LIMIT = 255


class Info(Structure, frozen=True):
    """A session."""

    user: str
    created_time: Timestamp
    last_accessed_time: Timestamp


async def create(context: Context, _input: Nothing) -> str:
    """Checks user and password. Attempts that run at once are all counted before a password is read."""
    manager = context.manager
    if context.basic is None:
        raise Unauthenticated(
            "Send user name and password as HTTP Basic authentication.", reason="no_credentials"
        )
    name = context.basic.name[:NAME_LIMIT]
    try:
        manager.limiter.check(name, context.address)
        manager.limiter.failed(name, context.address)
        user = await manager.users.check(name, context.basic.password)
        if user is None:
            raise Unauthenticated("User name or password is wrong.", reason="wrong_credentials")
    except Unauthenticated as error:
        await manager.auditor.record(CREATE, user=name, address=context.address, code=error.reason)
        raise
    manager.limiter.succeeded(name, context.address)
    await manager.auditor.record(CREATE, user=name, address=context.address, code="ok")
    return manager.sessions.create(user)


async def get(context: Context, _input: Nothing) -> Info:
    session = context.caller
    return Info(
        user=session.user.name,
        created_time=timestamp(session.created),
        last_accessed_time=timestamp(session.last_accessed),
    )


async def delete(context: Context, _input: Nothing) -> None:
    context.manager.sessions.end(context.caller)


CREATE = Operation(
    service=SERVICE,
    operation="create",
    method="POST",
    path=PATH,
    summary="Log in with HTTP Basic authentication; the answer is the session's id",
    input=Nothing,
    output=str,
    handler=create,
    privileges=(),
    errors=(Unauthenticated,),
    public=True,
    success=201,
)

OPERATIONS: Table = (
    CREATE,
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=PATH,
        summary="The session of the caller",
        input=Nothing,
        output=Info,
        handler=get,
        privileges=(),
    ),
    Operation(
        service=SERVICE,
        operation="delete",
        method="DELETE",
        path=PATH,
        summary="Log out",
        input=Nothing,
        output=None,
        handler=delete,
        privileges=(),
    ),
)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Error answers: every refusal and every fault leaves a service as {"error": {code, message, remedy}}."""

from __future__ import annotations

import secrets
import sqlite3
import traceback

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable

log = structlog.get_logger("trusted_infrastructure.transport")

HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

# Their texts come from the operating system or the database, never from a request or a secret.
PLAIN_FAULTS = (OSError, sqlite3.Error)


class JSONAnswer(Response):
    """A JSON answer; content is anything that msgspec encodes (structs, dicts; bytes become base64)."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return msgspec.json.encode(content)


def error_answer(refusal: Refusal) -> Response:
    """The HTTP answer of a refusal: its status and {"error": {"code", "message", "remedy"}}."""
    headers = {"retry-after": "5"} if refusal.status == 503 else None
    return JSONAnswer({"error": refusal.as_dict()}, status_code=refusal.status, headers=headers)


def refusal_of(error: Exception, scope: Scope) -> Refusal:
    """What to tell the caller about `error`, raised while `scope` was served.

    A fault of ours (anything that is not a decision) is logged with an incident number and the places in the
    code, and the caller gets the number alone: an exception's text may hold what the caller must not see.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        code = HTTP_CODES.get(error.status_code, "malformed_request")
        return Refusal(code, f"{scope['method']} {scope['path']}: {error.detail}", status=error.status_code)
    if isinstance(error, TimeoutError):
        return Unavailable("time_limit_exceeded", "the request took too long and was given up", "try again")
    if isinstance(error, RecursionError):
        return InvalidField("body", "is nested too deeply")
    incident = secrets.token_hex(6)
    log.error(
        "fault",
        incident=incident,
        type=type(error).__name__,
        text=str(error) if isinstance(error, PLAIN_FAULTS) else None,
        frames=[
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ],
    )
    return Refusal(
        "internal_error",
        f"the service failed on this request; incident {incident}",
        "look for the incident number in the service's journal and report it",
        status=500,
    )


def log_refusal(refusal: Refusal, scope: Scope, address: str) -> None:
    """One log line for one refused request. The path is logged without its query."""
    log.info(
        "refused",
        code=refusal.code,
        reason=refusal.message,
        status=refusal.status,
        method=scope["method"],
        path=scope["path"],
        address=address,
    )

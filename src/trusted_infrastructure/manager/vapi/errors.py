# SPDX-License-Identifier: GPL-3.0-or-later
"""The standard errors of the vSphere API (vAPI): class, error_type and HTTP status. Pure.

`error` (500) is left out on purpose: whatever we did not expect is a `service_unavailable` with an incident
number, so that an operator finds it in the log.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from trusted_infrastructure.refusal import InvalidField, Refusal

TEXT_LIMIT = 1500
ARGUMENT_LIMIT = 300


class LocalizableMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message for people, and its stable id for machines. `args` are the variable parts, as text."""

    id: str
    default_message: str
    args: list[str] = []


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller gets, over HTTP or in a task's `error`."""

    error_type: str
    messages: list[LocalizableMessage]
    data: dict[str, Any] = {}


def message(text: str, identifier: str = "message", *args: str) -> LocalizableMessage:
    """A message of this project: id "trusted.infrastructure.<identifier>". Texts may repeat what a caller
    sent, so they are cut at a limit."""
    return LocalizableMessage(
        id=f"trusted.infrastructure.{identifier}",
        default_message=shortened(text, TEXT_LIMIT),
        args=[shortened(argument, ARGUMENT_LIMIT) for argument in args],
    )


def shortened(text: str, limit: int) -> str:
    """The text, cut at `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class VapiError(Exception):
    """An answer that says no. Subclasses fix `name` (vAPI), `error_type` (REST) and `status` (HTTP).

    text: what was expected, what was found, what to do; never a secret. reason: stable code in lower snake
    case, the message's id. details: further messages, one for each host for instance.
    """

    name: ClassVar[str]
    error_type: ClassVar[str]
    status: ClassVar[int]
    headers: ClassVar[dict[str, str]] = {}

    def __init__(
        self, text: str, *args: str, reason: str = "", details: list[LocalizableMessage] | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason or self.name
        self.messages = [message(text, self.reason, *args), *(details or [])]

    def body(self) -> ErrorBody:
        """The REST form."""
        return ErrorBody(error_type=self.error_type, messages=self.messages)


class AlreadyExists(VapiError):
    """Something of this name or address exists."""

    name, error_type, status = "already_exists", "ALREADY_EXISTS", 400


class InvalidArgument(VapiError):
    """Bad input. `field` is the dotted path of the offending one; it opens the text, and is the first arg."""

    name, error_type, status = "invalid_argument", "INVALID_ARGUMENT", 400

    def __init__(self, field: str, reason_text: str, *args: str, reason: str = "") -> None:
        super().__init__(f"{field}: {reason_text}", field, *args, reason=reason)
        self.field = field


class Unsupported(VapiError):
    """This object or this manager does not do that."""

    name, error_type, status = "unsupported", "UNSUPPORTED", 400


class NotAllowedInCurrentState(VapiError):
    """Possible in another state of the object; the text says in which."""

    name, error_type, status = "not_allowed_in_current_state", "NOT_ALLOWED_IN_CURRENT_STATE", 400


class Unauthenticated(VapiError):
    """No session, an expired one, or wrong credentials."""

    name, error_type, status = "unauthenticated", "UNAUTHENTICATED", 401
    headers = {"WWW-Authenticate": 'Basic realm="trusted infrastructure", charset="UTF-8"'}


class Unauthorized(VapiError):
    """The user lacks a privilege; the text names it."""

    name, error_type, status = "unauthorized", "UNAUTHORIZED", 403


class NotFound(VapiError):
    """No such object on this manager."""

    name, error_type, status = "not_found", "NOT_FOUND", 404


class ResourceBusy(VapiError):
    """Another operation is using it; trying again later is sensible."""

    name, error_type, status = "resource_busy", "RESOURCE_BUSY", 500


class ResourceInaccessible(VapiError):
    """A host cannot be reached or did not do what it was asked; the messages name it."""

    name, error_type, status = "resource_inaccessible", "RESOURCE_INACCESSIBLE", 500


class UnableToAllocateResource(VapiError):
    """The manager has no room for this."""

    name, error_type, status = "unable_to_allocate_resource", "UNABLE_TO_ALLOCATE_RESOURCE", 500


class ServiceUnavailable(VapiError):
    """The manager cannot answer now."""

    name, error_type, status = "service_unavailable", "SERVICE_UNAVAILABLE", 503


ERRORS: tuple[type[VapiError], ...] = (
    AlreadyExists,
    InvalidArgument,
    Unsupported,
    NotAllowedInCurrentState,
    Unauthenticated,
    Unauthorized,
    NotFound,
    ResourceBusy,
    ResourceInaccessible,
    UnableToAllocateResource,
    ServiceUnavailable,
)


def from_refusal(refusal: Refusal) -> VapiError:
    """A refusal of the ground modules as the vSphere error that says the same; the reason code is kept."""
    text = f"{refusal.message} {refusal.remedy}".strip()
    if isinstance(refusal, InvalidField):
        reason_text = refusal.message.removeprefix(f"{refusal.field}: ")
        return InvalidArgument(refusal.field, f"{reason_text} {refusal.remedy}".strip(), reason=refusal.code)
    if refusal.status == 400:
        return InvalidArgument("input", text, reason=refusal.code)
    if refusal.status == 404:
        return NotFound(text, reason=refusal.code)
    if refusal.status == 409:
        return ResourceBusy(text, reason=refusal.code)
    if refusal.status == 503:
        return ServiceUnavailable(text, reason=refusal.code)
    return NotAllowedInCurrentState(text, reason=refusal.code)

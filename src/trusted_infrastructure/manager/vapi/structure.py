# SPDX-License-Identifier: GPL-3.0-or-later
"""Base of the API's structures, and the field types that many of them share. Pure.

A structure's fields carry their wire names; optional ones are None when unset and are left out of answers.
Checks that one field needs on its own stand in the field's type or in `__post_init__`, which raises
`FieldError`: so they hold for every protocol, before anything is done.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from trusted_infrastructure.manager.vapi.errors import InvalidArgument

Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Timestamp = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z$(?!\n)",
        extra_json_schema={"format": "date-time", "example": "2026-01-31T12:00:00.000Z"},
    ),
]
Blob = Annotated[str, msgspec.Meta(extra_json_schema={"format": "byte"})]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

NAME_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\?#%]")
MISSING = "Object missing required field `"
UNKNOWN = "Object contains unknown field `"
DNS_NAME = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,240}[A-Za-z0-9_])?$(?!\n)")


class FieldError(ValueError):
    """Raised in `__post_init__`: this field (path below the structure) is wrong, for this reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Structure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A vAPI structure. Optional fields are `X | None = None`; required ones have no default.

    Its representation shows no value: passwords, keys and tokens come and go in structures."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def field_error(error: msgspec.ValidationError) -> FieldError:
    """msgspec's error as ours: the field's path ("" for the whole value), and the reason in a few words."""
    reason, _separator, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".").replace("[...]", "")
    below = ""
    if isinstance(error.__cause__, FieldError):
        below, reason = error.__cause__.field, error.__cause__.reason
    elif reason.startswith(MISSING):
        below, reason = reason.removeprefix(MISSING).rstrip("`"), "is required"
    elif reason.startswith(UNKNOWN):
        below, reason = reason.removeprefix(UNKNOWN).rstrip("`"), "is not a known field"
    field = f"{path}.{below}" if path and below else path or below
    return FieldError(field, reason[:1].lower() + reason[1:])


class Nothing(Structure, frozen=True):
    """Input of an operation without parameters."""


def check_name(field: str, name: str) -> None:
    """Names become parts of URLs and file names on hosts, and people tell things apart by them: no slashes,
    no controls, nothing that cannot be seen, not '.' or '..'.

    Raises FieldError."""
    if not name or len(name) > 200:
        raise FieldError(field, f"must have 1 to 200 characters, has {len(name)}")
    forbidden = NAME_FORBIDDEN.search(name) or not name.isprintable()
    if forbidden or name in {".", ".."} or name != name.strip():
        raise FieldError(
            field,
            "must not contain / \\ ? # % or characters that cannot be printed, or begin or end with a space",
        )


def check_hostname(field: str, hostname: str) -> None:
    """A DNS name or an IP address. Raises FieldError."""
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        check_dns_name(field, hostname, "a DNS name or IP address")


def check_dns_name(field: str, name: str, what: str = "a DNS name") -> None:
    """A DNS name (underscores are let through: inventories have them). Raises FieldError."""
    if not DNS_NAME.match(name) or ".." in name:
        raise FieldError(field, f"is not {what}: {name[:80]!r}")


def decode_blob(field: str, text: str, limit: int) -> bytes:
    """Standard base64 (with padding; line ends allowed) of at most `limit` bytes. Raises FieldError."""
    compact = "".join(text.split())
    if len(compact) > (limit + 2) // 3 * 4 + 4:
        raise FieldError(field, f"is larger than {limit} bytes")
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(field, "is not base64") from None


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as vAPI's date and time: UTC, milliseconds, "Z"."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def argument_error(error: FieldError, prefix: str = "") -> InvalidArgument:
    """The API's error for a field error found below `prefix`."""
    return InvalidArgument(f"{prefix}.{error.field}" if prefix else error.field, error.reason)

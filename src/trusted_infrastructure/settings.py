# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings files: one JSON object per service, typed, with no unknown fields."""

from __future__ import annotations

import grp
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from trusted_infrastructure.refusal import InvalidField, Refusal


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every service's settings have. Inherit from it.

    lock_memory: keep all pages in memory (mlockall); false only where the machine cannot, such as a lab
    without the capability. allowed_users: who may connect to the service's sockets, by name or id.
    socket_group: name of the group of the sockets; null takes the run directory's.
    """

    lock_memory: bool = True
    allowed_users: list[str | int] = msgspec.field(default_factory=lambda: ["root", "www-data"])
    socket_group: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"


Settings = TypeVar("Settings", bound=msgspec.Struct)


def load_settings(path: Path, settings: type[Settings]) -> Settings:
    """Read a settings file; paths are absolute. Raises Refusal `settings_invalid` naming the field."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=settings, dec_hook=_path)
    except OSError as error:
        raise Refusal(
            "settings_invalid", f"{path}: {error.strerror}", "let site.yml write the file", status=500
        ) from None
    except msgspec.ValidationError as error:
        reason, _separator, field = str(error).partition(" - at `$")
        name = f"{path}{field.rstrip('`')}"
        raise InvalidField(name, reason, "settings_invalid", "compare with docs/settings.md") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidField(str(path), f"is not JSON: {error}", "settings_invalid") from None


def _path(wanted: type, value: object) -> object:
    """Settings hold absolute paths: a relative one would depend on where the service was started."""
    if wanted is not Path or not isinstance(value, str):
        raise NotImplementedError(f"no decoding of {wanted}")
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path")
    return Path(value)


def group_id(name: str | None) -> int | None:
    """Numeric id of a group named in settings. Raises InvalidField when this machine has no such group."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidField("group", f"no group {name!r} on this machine", "settings_invalid") from None

# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings files: one JSON object per service, typed, with no unknown fields."""

from __future__ import annotations

import grp
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from trusted_infrastructure.decoding import decode_json
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
        data = path.read_bytes()
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}") from None
    try:
        return decode_json(data, settings, whole="settings", dec_hook=_path)
    except InvalidField as invalid:
        raise _invalid(f"{path}: {invalid.message}") from None


def _invalid(message: str) -> Refusal:
    return Refusal("settings_invalid", message, "let site.yml write the file again", status=500)


def _path(wanted: type, value: object) -> object:
    """Settings hold absolute paths: a relative one would depend on where the service was started."""
    if wanted is not Path:
        raise NotImplementedError(f"no decoding of {wanted}")
    if not isinstance(value, str) or not value.startswith("/"):
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

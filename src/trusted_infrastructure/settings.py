# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings files: one JSON object per service, typed, with no unknown fields."""

from __future__ import annotations

import grp
from pathlib import Path
from typing import Annotated, Literal, TypeVar

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


class TrustAuthoritySettings(ServiceSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the settings of both services of a Trust Authority host have besides.

    anchors_directory: has peers.json. audit_segment_size: bytes at which a file of the audit log is closed.
    audit_segments_kept: closed files that are kept; 0 keeps all. clock_max_unsynchronized: seconds for which
    the service goes on with a clock that no time service keeps; 0 does not look. peer_head_interval: seconds
    between two looks at the peers' audit heads, clocks and security generations.
    """

    anchors_directory: Path = Path("/etc/trusted-infrastructure/anchors")
    audit_segment_size: Annotated[int, msgspec.Meta(ge=4096, le=1 << 40)] = 64 << 20
    audit_segments_kept: Annotated[int, msgspec.Meta(ge=0)] = 0
    clock_max_unsynchronized: Annotated[int, msgspec.Meta(ge=0, le=365 * 86_400)] = 86_400
    peer_head_interval: Annotated[float, msgspec.Meta(gt=0, le=300)] = 60.0


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

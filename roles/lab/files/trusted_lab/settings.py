# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role asks for, and where the lab keeps it on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import LabError

# Sockets have at most 107 bytes in their path, so they do not lie below the clone, which may be deep.
RUN_FOLDER = Path("/run/trusted-infrastructure-lab")

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class LabHost:
    """A host of the lab: its inventory name and group, and whether it has a TPM."""

    name: str
    group: str
    tpm: bool


@dataclass(frozen=True)
class Settings:
    """One lab. `folder` is its own, `image_folder` is shared by the labs of a clone; both are absolute."""

    name: str
    folder: Path
    image_folder: Path
    hosts: tuple[LabHost, ...]
    image_base: str
    image_packages: tuple[str, ...]
    image_kernel_package: str
    image_release: str
    image_components: str
    image_mirrors: tuple[str, ...]
    image_rebuild: bool
    machine_packages: tuple[str, ...]
    network_internal: bool
    network_subnet: str
    user_space: tuple[str, ...]
    power_hosts: tuple[str, ...]

    @property
    def run_folder(self) -> Path:
        """Sockets and process ids: gone after a reboot of the machine, as they should be."""
        return RUN_FOLDER / self.name

    @property
    def image(self) -> str:
        return f"localhost/trusted-infrastructure-lab:{self.name}"

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"


def parse_settings(document: dict[str, Any]) -> Settings:
    """The settings from the role's JSON document. LabError names the field that is wrong."""
    known = {field.name for field in fields(Settings)}
    if set(document) != known:
        odd = ", ".join(sorted(set(document) ^ known))
        raise LabError(f"the lab's settings lack or do not know: {odd}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
    }
    values["hosts"] = _hosts(document["hosts"])
    for key in ("folder", "image_folder"):
        if not Path(document[key]).is_absolute():
            raise LabError(f"{key} is '{document[key]}'; it must be an absolute path")
        # A collection is often reached through a link; the lab has one folder all the same.
        values[key] = Path(document[key]).resolve()
    if not _NAME.fullmatch(str(document["name"])):
        raise LabError(f"lab_name is '{document['name']}'; allowed are a-z, 0-9 and -, at most 32 characters")
    return Settings(**values)


def _hosts(listed: list[dict[str, Any]]) -> tuple[LabHost, ...]:
    hosts = tuple(
        LabHost(item["name"], item["group"], bool(item.get("tpm", item["group"] == "trusted_hosts")))
        for item in listed
    )
    for host in hosts:
        if not _NAME.fullmatch(host.name):
            raise LabError(f"lab_hosts has the name '{host.name}'; allowed are a-z, 0-9 and -")
        if not _GROUP.fullmatch(host.group):
            raise LabError(
                f"lab_hosts has the group '{host.group}' for {host.name}; allowed are a-z, 0-9 and _"
            )
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"lab_hosts has more than one host named {', '.join(twice)}")
    return hosts

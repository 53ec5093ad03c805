# SPDX-License-Identifier: GPL-3.0-or-later
"""Podman, with the runtime that this machine needs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .command import attempt, run
from .machine import capabilities, has_unified_cgroups, needs_limited_runtime

_LIMITED_RUNTIME = Path(__file__).parent.parent / "containers.conf"


class Podman:
    """Podman commands. All of them name exactly what they touch."""

    def __init__(self) -> None:
        self._environment: dict[str, str] = {}
        if needs_limited_runtime(capabilities(), has_unified_cgroups()):
            self._environment["CONTAINERS_CONF"] = str(_LIMITED_RUNTIME)

    @staticmethod
    def installed() -> bool:
        return shutil.which("podman") is not None

    def run(self, *arguments: str, timeout: float = 300) -> str:
        return run(["podman", *arguments], environment=self._environment, timeout=timeout)

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return attempt(["podman", *arguments], environment=self._environment, timeout=300)

    def containers(self, label: str) -> list[dict[str, Any]]:
        """`podman container inspect` of all containers with the label, running or not."""
        names = self.run("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}").split()
        return json.loads(self.run("container", "inspect", *names)) if names else []

    def container_exists(self, name: str) -> bool:
        return self.attempt("container", "exists", name).returncode == 0

    def image(self, name: str) -> dict[str, Any] | None:
        """`podman image inspect`, or None if there is no such image."""
        found = self.attempt("image", "inspect", name)
        return json.loads(found.stdout)[0] if found.returncode == 0 else None

    def images_with(self, label: str) -> list[str]:
        """Ids of the images with the label."""
        listed = self.run("images", "--filter", f"label={label}", "--format", "{{.Id}}", "--no-trunc")
        return sorted(set(listed.split()))

    @contextmanager
    def mounted(self, container: str) -> Iterator[Path]:
        """The container's root file system, mounted on the machine for the duration."""
        folder = Path(self.run("mount", container).strip())
        try:
            yield folder
        finally:
            self.run("umount", container)

    def create(self, arguments: Sequence[str]) -> None:
        self.run("create", *arguments)

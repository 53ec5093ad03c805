# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine: its release, its packages, and what its kernel lets containers do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .command import attempt, run
from .report import Report

_CAP_SYS_RESOURCE = 24
_INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
# The kernel's default is 128 for all that root runs; a host's systemd takes about ten, and one that gets none
# hangs while it boots. This is enough for a few dozen hosts.
_WANTED_INSTANCES = 2048


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Those of the Debian packages that are not installed, in the order given."""
    listed = attempt(["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\n"]).stdout
    installed = {line.split()[1] for line in listed.splitlines() if line.startswith("ii ")}
    return [package for package in packages if package not in installed]


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages from the machine's own sources."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    waiting = ["-o", "DPkg::Lock::Timeout=300"]
    run(["apt-get", *waiting, "update"], environment=environment)
    run(
        ["apt-get", *waiting, "install", "--yes", "--no-install-recommends", *packages],
        environment=environment,
    )


def capabilities() -> int:
    """The capabilities that this process has, as the kernel's bit set."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_unified_cgroups() -> bool:
    """True with cgroup v2 alone; false in the legacy and hybrid layouts."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def may_raise_limits(capability_set: int) -> bool:
    """True if root may raise resource limits (CAP_SYS_RESOURCE); some CI sandboxes take that away."""
    return bool(capability_set >> _CAP_SYS_RESOURCE & 1)


def needs_limited_runtime(capability_set: int, unified_cgroups: bool) -> bool:
    """True where crun refuses to start a container and runc with lower limits does not.

    That is where root may not raise resource limits, or where cgroups are not v2 alone.
    """
    return not may_raise_limits(capability_set) or not unified_cgroups


def watch_more_files(report: Report, setting: Path = _INOTIFY_INSTANCES) -> None:
    """Let many hosts run side by side: raise the kernel's limit of inotify instances where it is lower.

    It stays raised until the machine reboots; another lab may count on it.
    """
    current = int(setting.read_text(encoding="ascii"))
    if current < _WANTED_INSTANCES and report.act(f"raise fs.inotify.max_user_instances from {current}"):
        setting.write_text(f"{_WANTED_INSTANCES}\n", encoding="ascii")

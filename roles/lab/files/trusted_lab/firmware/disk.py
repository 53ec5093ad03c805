# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's disk as its firmware sees it: files below the root of a container that is stopped.

What lies there belongs to the host, which may be hostile: a symbolic link must not lead out into the machine.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import LabError

_LARGEST_BOOT_FILE = 512 * 1024 * 1024


def read_boot_file(root: Path, path: str) -> bytes:
    """The content of `path` (absolute, on the host) below `root`. No component may be a symbolic link.

    LabError, as firmware would stop: the file is missing, no regular file, or too large.
    """
    parts = [part for part in path.split("/") if part]
    if not parts or ".." in parts:
        raise LabError(f"the boot file path '{path}' is not an absolute path inside the host")
    try:
        with os.fdopen(_open_below(root, parts), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise LabError(f"the boot file {path} is not a regular file")
            if found.st_size > _LARGEST_BOOT_FILE:
                raise LabError(f"the boot file {path} has {found.st_size} bytes, more than firmware loads")
            return stream.read()
    except OSError as problem:
        reason = problem.strerror or "unreadable"
        raise LabError(f"the boot file {path} cannot be read: {reason}") from problem


def _open_below(root: Path, parts: list[str]) -> int:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            deeper = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # O_NONBLOCK: opening a FIFO that the host left there must not hang.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Anchors: what local root alone may write, and a manager may only read. docs/protocol.md 2."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

ANCHOR_LIMIT = 1 << 20
ROOT = 0


def read_anchors(directory: Path, owner: int = ROOT) -> dict[str, dict[str, str]]:
    """File name -> {"sha256", "content"}, or {"error"} for a file that is not an anchor as it should be.

    Only *.pem and *.json are looked at. A directory that is not there holds no anchors.
    owner: user id that must own the files.
    """
    try:
        names = sorted(path.name for path in directory.iterdir() if path.suffix in (".pem", ".json"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        return {".": {"error": f"cannot be read: {error.strerror}"}}
    return {name: _read(directory / name, owner) for name in names}


def _read(path: Path, owner: int) -> dict[str, str]:
    """One anchor; the checks are made on the open file, not on its name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return {"error": f"cannot be read: {error.strerror}"}
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return {"error": "not a regular file"}
    with open(descriptor, "rb") as file:
        if status.st_uid != owner or status.st_mode & 0o022:
            mode = stat.S_IMODE(status.st_mode)
            return {"error": f"owner {status.st_uid}, mode {mode:04o}: others than local root could write it"}
        data = file.read(ANCHOR_LIMIT + 1)
    if len(data) > ANCHOR_LIMIT:
        return {"error": f"larger than {ANCHOR_LIMIT} bytes"}
    try:
        return {"sha256": hashlib.sha256(data).hexdigest(), "content": data.decode()}
    except UnicodeDecodeError:
        return {"error": "is not text"}

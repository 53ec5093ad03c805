# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files of a service's state directory: never wider than 0600, and whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from trusted_infrastructure.refusal import Unavailable


def read_state(path: Path) -> bytes | None:
    """The file's bytes, or None where there is none. Raises Unavailable `state_unusable`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, error.strerror) from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise unusable(path, "the file is open to others; expected mode 0600")
        return file.read()


def write_state(path: Path, data: bytes) -> None:
    """Replace the file, durably. Raises Unavailable `state_unusable`; then the old one is still there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unusable(path, error.strerror) from None


@contextlib.contextmanager
def state_lock(path: Path) -> Iterator[None]:
    """One process at a time changes a state file: read, change and write inside. Raises Unavailable
    `state_unusable`."""
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unusable(name, error.strerror) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def unusable(path: Path, reason: str | None) -> Unavailable:
    """Unavailable `state_unusable` for a file or folder of the state directory. reason: plain words."""
    return Unavailable(
        "state_unusable",
        f"{path}: {reason or 'cannot be used'}",
        "Check the state directory's owner, mode and free space.",
    )

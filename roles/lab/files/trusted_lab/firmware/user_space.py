# SPDX-License-Identifier: GPL-3.0-or-later
"""A root hash over what runs in user space: the lab's stand-in for dm-verity's root hash.

Equal trees have equal hashes on every host: names, types, owners, permissions, file capabilities, link
targets and contents count; times, inode numbers and the order on disk do not. The role's README.md has the
encoding.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_DOMAIN = b"trusted.infrastructure/user-space/v1"
_CAPABILITY = "security.capability"


def user_space_hash(root: Path, paths: Iterable[str]) -> str:
    """Hex SHA-256 over the trees at `paths` (absolute, on the host) below `root`, in the order given."""
    state = hashlib.sha256()
    state.update(_field(_DOMAIN))
    below = os.fsencode(root).rstrip(b"/")
    for path in paths:
        start = b"/" + os.fsencode(path).strip(b"/")
        if _behind_a_link(below, start):
            # Following it could lead out of the host; what is there does not count as covered.
            state.update(_field(start) + _field(b"behind a link"))
            continue
        for name in _tree(below, start):
            state.update(_record(below, name))
    return state.hexdigest()


def _behind_a_link(below: bytes, path: bytes) -> bool:
    """True if a folder above `path` is a symbolic link."""
    parent = os.path.dirname(path)
    while parent != b"/":
        if os.path.islink(below + parent):
            return True
        parent = os.path.dirname(parent)
    return False


def _tree(below: bytes, start: bytes) -> Iterator[bytes]:
    """`start` and all that lies under it, parents first, siblings in byte order; links are not followed."""
    pending = [start]
    while pending:
        name = pending.pop()
        yield name
        path = below + name
        if os.path.isdir(path) and not os.path.islink(path):
            pending.extend(name + b"/" + entry for entry in sorted(os.listdir(path), reverse=True))


def _record(below: bytes, name: bytes) -> bytes:
    path = below + name
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _field(name) + _field(b"missing")
    kind = stat.S_IFMT(found.st_mode)
    payload = b""
    if kind == stat.S_IFREG:
        payload = _file_digest(path) + _capability(path)
    elif kind == stat.S_IFLNK:
        payload = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        payload = struct.pack(">II", os.major(found.st_rdev), os.minor(found.st_rdev))
    return _field(name) + struct.pack(">III", found.st_mode, found.st_uid, found.st_gid) + _field(payload)


def _file_digest(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _capability(path: bytes) -> bytes:
    try:
        return os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    except OSError as problem:
        if problem.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def _field(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value

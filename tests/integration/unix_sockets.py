# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of unix sockets: a socket's file is there before somebody listens on it, and says
nothing of who has connected."""

from __future__ import annotations

from pathlib import Path

_LISTENS = 1 << 16  # __SO_ACCEPTCON of linux/net.h
_CONNECTED = 3  # SS_CONNECTED of linux/net.h


def listens(path: Path) -> bool:
    """Whether connections to the socket are accepted."""
    return any(flags & _LISTENS for flags, _state in _ends(path))


def connections(path: Path) -> int:
    """How many connections to the socket are open."""
    return sum(state == _CONNECTED for _flags, state in _ends(path))


def _ends(path: Path) -> list[tuple[int, int]]:
    """(flags, state) of each socket that was made at a path: proc(5), /proc/net/unix."""
    found = []
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == str(path):
            found.append((int(fields[3], 16), int(fields[5], 16)))
    return found

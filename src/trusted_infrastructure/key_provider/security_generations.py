# SPDX-License-Identifier: GPL-3.0-or-later
"""When this host saw the security generation rise: older tokens' grace period runs from then."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.state_files import read_state, write_state

# Generations that are remembered. A token older than all of them has had its grace.
REMEMBERED = 64


class SecurityGenerations:
    """First sight of each generation, kept over restarts."""

    def __init__(self, path: Path) -> None:
        """path: the file. Raises Unavailable `state_unusable` when it cannot be read or is not ours."""
        self._path = path
        data = read_state(path)
        try:
            self._seen = {} if data is None else msgspec.json.decode(data, type=dict[int, int])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unavailable(
                "state_unusable", f"{path} cannot be read", "Remove the file: hosts then attest once more."
            ) from None

    def observe(self, generation: int, now: int) -> None:
        """Note that `generation` is the current one. Writes the file when it is new."""
        if generation in self._seen:
            return
        # Without any history nothing tells how long older tokens have been void: they get no grace.
        self._seen[generation] = now if self._seen else 0
        for old in sorted(self._seen)[:-REMEMBERED]:
            del self._seen[old]
        write_state(self._path, msgspec.json.encode(self._seen))

    def superseded(self, generation: int) -> int | None:
        """When the generation rose above this one (Unix seconds); None if it did not."""
        later = [seen for number, seen in self._seen.items() if number > generation]
        return min(later) if later else None

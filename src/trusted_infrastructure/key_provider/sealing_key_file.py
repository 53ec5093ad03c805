# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's configuration key: what the secrets of its documents are sealed to. docs/protocol.md 11."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trusted_infrastructure import sealing
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.state_files import read_state, write_state


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    suite: str
    private_key: bytes


def load_or_make(path: Path, suite: str = sealing.DEFAULT_SUITE) -> SealingKey:
    """The key in the file (0600), or a new one of `suite`, which is then in the file.

    A file that cannot be read is never replaced: what is sealed to its key would be lost.
    Raises Unavailable `state_unusable`.
    """
    data = read_state(path)
    if data is None:
        key = SealingKey.generate(suite)
        write_state(path, msgspec.json.encode(_Stored(key.suite, key.to_bytes())))
        return key
    try:
        stored = msgspec.json.decode(data, type=_Stored)
        return SealingKey.from_bytes(stored.suite, stored.private_key)
    except (msgspec.DecodeError, UnicodeDecodeError, Refusal):
        raise Unavailable(
            "state_unusable",
            f"{path} holds no configuration key",
            "Put the state directory back, or remove the file and seal the providers' secrets again.",
        ) from None

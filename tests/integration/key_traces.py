# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking for keys where none may be: in bytes, in files, in what the kernel shows of a process."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path


def forms(key: bytes) -> dict[str, bytes]:
    """How a key may look: as it is, and as programs write it. base64 has three forms, by where it begins."""
    found = {
        "raw": key,
        "reversed": key[::-1],
        "hex": key.hex().encode(),
        "HEX": key.hex().upper().encode(),
        "hex with colons": key.hex(":").encode(),
        "repr": repr(key)[2:-1].encode(),
        "numbers": ", ".join(map(str, key)).encode(),
        "JSON numbers": ",".join(map(str, key)).encode(),
    }
    for before in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            text = encode(bytes(before) + key)
            # Without the characters that what stands before and after the key takes part in.
            first, last = -(-before * 4 // 3), (before + len(key)) * 4 // 3
            found[f"{name} after {before}"] = text[first:last]
    return found


def traces(data: bytes, keys: Mapping[str, bytes]) -> list[str]:
    """What is found in `data`, such as "KEK as hex". keys: name -> bytes."""
    return [
        f"{name} as {form}" for name, key in keys.items() for form, text in forms(key).items() if text in data
    ]


def traces_below(folders: Iterable[Path], keys: Mapping[str, bytes]) -> list[str]:
    """The same in all files below, and in their names: "path: KEK as hex"."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            data = path.read_bytes() if path.is_file() else b""
            found += [f"{path}: {what}" for what in traces(bytes(path) + b"\n" + data, keys)]
    return found


def traces_of_process(pid: int, keys: Mapping[str, bytes]) -> list[str]:
    """The same in what any user may be shown of a process: its command line, environment and names."""
    found = []
    for name in ("cmdline", "environ", "comm", "maps", "status"):
        data = Path(f"/proc/{pid}/{name}").read_bytes()
        found += [f"{name}: {what}" for what in traces(data, keys)]
    return found

# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH between this machine and the lab: an own key pair, and host keys known before the first contact."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from .command import run
from .errors import LabError

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"


class SshIdentity:
    """The lab's SSH folder (0700)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "id_ed25519"
        self.known_hosts = folder / "known_hosts"

    def exists(self) -> bool:
        return self.key.exists()

    def create(self, lab: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_key(self.key, f"lab {lab}")

    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text(encoding="ascii")


def make_key(path: Path, comment: str) -> None:
    """A new Ed25519 key pair at path and path.pub, the private half 0600."""
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def known_hosts_line(address: str, public_key: str) -> str:
    kind, key = public_key.split()[:2]
    return f"{address} {kind} {key}\n"


def wait_until_ready(address: str, patience: float) -> None:
    """Return when an SSH server answers at the address. LabError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((address, 22), timeout=2) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise LabError(f"no SSH server answers at {address} within {patience:.0f} s")
        time.sleep(0.1)

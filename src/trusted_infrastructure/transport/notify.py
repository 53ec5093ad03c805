# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling systemd how the service is: sd_notify(3), without a library."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send one state ("READY=1", "STOPPING=1", "STATUS=...") to the service manager.

    Returns False where no service manager listens (NOTIFY_SOCKET is not set): that is not an error.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.connect(address)
        connection.sendall(state.encode())
    return True

# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host may reach of its TPM's control channel: nothing but "locality 0", which needs no action.

swtpm's control channel can switch the TPM off and on, which clears the PCRs: a host that reached it could
forge its own boot. But libtss2's swtpm driver insists on a control socket beside the data socket, and sets
the locality there when it connects. This process grants that one command and refuses all else. A request is
a 32-bit command code, big endian, and its parameters (swtpm's tpm_ioctl.h); an answer is a 32-bit result.

    control_socket.py SOCKET GROUP    serve until terminated
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from pathlib import Path

_SET_LOCALITY = 5
_SUCCESS, _BAD_PARAMETER = 0, 3
_CLIENT_TIMEOUT = 5


def answer(request: bytes) -> bytes:
    """The answer to one request."""
    permitted = request == struct.pack(">IB", _SET_LOCALITY, 0)
    return struct.pack(">I", _SUCCESS if permitted else _BAD_PARAMETER)


def listen(path: Path, group: int) -> socket.socket:
    """A listening socket at path that root and the group may use."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    os.chown(path, 0, group)
    os.chmod(path, 0o660)
    listener.listen(8)
    return listener


def serve(listener: socket.socket) -> None:
    """Answer clients, for ever. A client that says nothing is dropped."""
    while True:
        client, _address = listener.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(_CLIENT_TIMEOUT)
            while request := client.recv(64):
                client.sendall(answer(request))


if __name__ == "__main__":
    serve(listen(Path(sys.argv[1]), int(sys.argv[2])))

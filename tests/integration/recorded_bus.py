# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody sees who listens on the bus between a host and its TPM: a socket in front of the software
TPM's, which passes everything on and keeps a copy."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType


class RecordedBus:
    """Context manager. tcti: libtss2's way to the TPM, through here. bytes_seen: both directions."""

    def __init__(self, tpm: Path) -> None:
        self._tpm = tpm
        self._folder = Path(tempfile.mkdtemp(prefix="ti-bus-"))
        self._listening: list[socket.socket] = []
        self._seen: list[bytes] = []
        self.tcti = f"swtpm:path={self._folder / 'sock'}"

    def __enter__(self) -> RecordedBus:
        for suffix in ("", ".ctrl"):
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"{self._folder / 'sock'}{suffix}")
            listening.listen()
            self._listening.append(listening)
            threading.Thread(target=self._accept, args=(listening, suffix), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listening in self._listening:
            listening.close()
        shutil.rmtree(self._folder)

    @property
    def bytes_seen(self) -> bytes:
        return b"".join(self._seen)

    def _accept(self, listening: socket.socket, suffix: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = listening.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(f"{self._tpm}{suffix}")
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._seen.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

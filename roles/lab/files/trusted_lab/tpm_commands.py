# SPDX-License-Identifier: GPL-3.0-or-later
"""The few TPM commands that firmware needs, over swtpm's data socket.

Source: TPM 2.0 Library, Part 3: TPM2_Startup (9.3), TPM2_Shutdown (9.4), TPM2_PCR_Extend (22.2),
TPM2_PCR_Read (22.4); Part 1 section 18 for the framing. Integers are big-endian.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from .errors import LabError
from .firmware.event_log import BANKS

_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_STARTUP, _SHUTDOWN, _PCR_READ, _PCR_EXTEND = 0x144, 0x145, 0x17E, 0x182
_CLEAR = 0x0000
_ALREADY_STARTED = 0x100
_LARGEST_RESPONSE = 4096
# TPM_RS_PW, no nonce, no attributes, empty password: PCRs that firmware extends need no authorization.
_EMPTY_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)


class TpmConnection:
    """A connection to one TPM; it serves one client at a time, so close it soon."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as problem:
            self._socket.close()
            raise LabError(f"the TPM at {path} does not answer: {problem.strerror}") from problem

    def __enter__(self) -> TpmConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def startup(self) -> None:
        """Begin with all PCRs reset, as at power on."""
        self._execute(
            "TPM2_Startup", _NO_SESSIONS, _STARTUP, struct.pack(">H", _CLEAR), (0, _ALREADY_STARTED)
        )

    def shutdown(self) -> None:
        """Say that power will go, as an operating system does: the TPM's clock stays safe."""
        self._execute("TPM2_Shutdown", _NO_SESSIONS, _SHUTDOWN, struct.pack(">H", _CLEAR))

    def extend(self, pcr: int, digests: Mapping[str, bytes]) -> None:
        """Extend one PCR in all banks that digests (bank -> digest) names."""
        listed = b"".join(struct.pack(">H", BANKS[bank][0]) + digest for bank, digest in digests.items())
        parameters = struct.pack(">I", pcr) + _EMPTY_PASSWORD + struct.pack(">I", len(digests)) + listed
        self._execute("TPM2_PCR_Extend", _SESSIONS, _PCR_EXTEND, parameters)

    def read(self, pcr: int, bank: str) -> bytes:
        """The value of one PCR."""
        algorithm, size = BANKS[bank]
        selection = (1 << pcr).to_bytes(3, "little")
        parameters = struct.pack(">IHB", 1, algorithm, len(selection)) + selection
        response = self._execute("TPM2_PCR_Read", _NO_SESSIONS, _PCR_READ, parameters)
        if len(response) < size:
            raise LabError(f"the TPM at {self._path} has no PCR {pcr} in its {bank} bank")
        return response[-size:]

    def _execute(
        self, name: str, tag: int, code: int, parameters: bytes, accepted: tuple[int, ...] = (0,)
    ) -> bytes:
        """The response's parameters. LabError if the TPM answers with another code than an accepted one."""
        try:
            self._socket.sendall(struct.pack(">HII", tag, 10 + len(parameters), code) + parameters)
            _tag, size, result = struct.unpack(">HII", self._receive(10))
            body = self._receive(min(size, _LARGEST_RESPONSE) - 10)
        except OSError as problem:
            raise LabError(f"the TPM at {self._path} broke off during {name}: {problem}") from problem
        if result not in accepted:
            raise LabError(f"the TPM at {self._path} answers {name} with 0x{result:03x}")
        return body

    def _receive(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            part = self._socket.recv(size - len(received))
            if not part:
                raise ConnectionError("connection closed")
            received += part
        return received

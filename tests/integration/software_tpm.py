# SPDX-License-Identifier: GPL-3.0-or-later
"""A software TPM on a unix socket, and tpm2-tools that talk to it: an independent implementation to test
against.

Each instance has its own state folder and ends with the context. Raises FileNotFoundError where swtpm or
tpm2-tools are not installed: these tests fail then, they do not pass by silence.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from integration.unix_sockets import listens


class SoftwareTpm:
    """Context manager: a freshly made TPM, powered on. folder: scratch space for the tools' files."""

    def __init__(self, banks: str = "sha1,sha256,sha384") -> None:
        self._banks = banks
        # A unix socket's path takes 107 bytes: not under pytest's own, long tmp_path.
        self._temporary = tempfile.TemporaryDirectory(prefix="ti-tpm-")
        self.folder = Path(self._temporary.name)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SoftwareTpm:
        state = self.folder / "state"
        state.mkdir()
        _run(
            ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", self._banks, "--overwrite"],
            self.folder,
        )
        self.power_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off()
        self._temporary.cleanup()

    def power_on(self) -> None:
        """Start the TPM: PCRs are zero."""
        socket = self.folder / "sock"
        self._process = subprocess.Popen(
            [
                "swtpm",
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={self.folder / 'state'}",
                "--server",
                f"type=unixio,path={socket}",
                "--ctrl",
                f"type=unixio,path={socket}.ctrl",
                "--flags",
                "not-need-init,startup-clear",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not listens(socket):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("swtpm did not start")
            time.sleep(0.01)

    def power_off(self) -> None:
        """Stop the TPM."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def tool(self, *arguments: str) -> str:
        """Run one of tpm2-tools in the folder; its standard output. Transient objects and sessions are
        left."""
        environment = os.environ | {
            "TPM2TOOLS_TCTI": f"swtpm:path={self.folder / 'sock'}",
            "TSS2_LOG": "all+NONE",
        }
        return _run(list(arguments), self.folder, environment)

    def flush(self) -> None:
        """Flush transient objects: a TPM without a resource manager holds three."""
        self.tool("tpm2_flushcontext", "-t")

    def read(self, name: str) -> bytes:
        """A file that a tool wrote."""
        return (self.folder / name).read_bytes()


def _run(arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    finished = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    if finished.returncode:
        raise RuntimeError(
            f"{' '.join(arguments)}: {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
        )
    return finished.stdout

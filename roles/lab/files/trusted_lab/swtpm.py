# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's TPM 2.0: made once by the vendor, switched on and off with the host."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import control_socket, process
from .command import run
from .errors import LabError
from .image import TPM_GROUP
from .tpm_commands import TpmConnection
from .vendor_ca import VendorCa

_PROFILES = Path("/sys/kernel/security/apparmor/profiles")


class SoftwareTpm:
    """One swtpm. `state` is its memory; `run_folder` has sockets and pids; the host sees `shared`."""

    def __init__(self, state: Path, run_folder: Path) -> None:
        self.state = state
        self.shared = run_folder / "tpm"
        self._run_folder = run_folder
        self._socket = self.shared / "sock"
        self._host_control = self.shared / "sock.ctrl"
        self._control = run_folder / "swtpm.ctrl"
        self._pid = run_folder / "swtpm.pid"
        self._control_pid = run_folder / "control.pid"
        self._state_argument = f"dir={state}"

    def is_made(self) -> bool:
        return (self.state / "manufactured").exists()

    def manufacture(self, vendor: VendorCa, name: str) -> None:
        """Make the TPM with an RSA-2048 and a P-384 EK and their certificates, in NV and persistent."""
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(mode=0o700, parents=True)
        configuration = str(vendor.setup_configuration)
        run([
            "swtpm_setup", "--tpm2", "--tpmstate", str(self.state), "--config", configuration,
            "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--vmid", name,
            "--pcr-banks", "sha1,sha256", "--overwrite",
        ])  # fmt: skip
        (self.state / "manufactured").touch()

    def is_on(self) -> bool:
        """True if the TPM and its control socket are being served."""
        return (
            process.running_pid(self._pid, self._state_argument) is not None
            and process.running_pid(self._control_pid, str(self._host_control)) is not None
        )

    def prepare(self) -> None:
        """Make the folder that the host mounts: it must be there before the container starts."""
        for folder in (self._run_folder, self.shared):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(self.shared, 0, TPM_GROUP)
        self.shared.chmod(0o750)

    def power_on(self) -> TpmConnection:
        """Start the TPM, PCRs zero, and return firmware's connection; close that before the host runs."""
        self.prepare()
        server = f"type=unixio,path={self._socket},mode=0660,gid={TPM_GROUP}"
        run([
            _program(self._run_folder), "socket", "--tpm2", "--tpmstate", self._state_argument,
            "--server", server, "--ctrl", f"type=unixio,path={self._control},mode=0600",
            "--pid", f"file={self._pid}", "--flags", "not-need-init", "--daemon",
        ])  # fmt: skip
        self._start_control()
        connection = TpmConnection(self._socket)
        connection.startup()
        return connection

    def power_off(self) -> bool:
        """Stop the TPM, orderly if it answers; True if it was on."""
        if process.running_pid(self._pid, self._state_argument) is not None:
            # Stuck with another client it hears nothing: then this is a power cut to it.
            with contextlib.suppress(LabError), TpmConnection(self._socket, timeout=3) as connection:
                connection.shutdown()
        stopped = process.stop(self._pid, self._state_argument)
        return process.stop(self._control_pid, str(self._host_control)) or stopped

    def _start_control(self) -> None:
        started = subprocess.Popen(
            [sys.executable, "-I", control_socket.__file__, str(self._host_control), str(TPM_GROUP)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self._control_pid.write_text(f"{started.pid}\n", encoding="ascii")
        deadline = time.monotonic() + 10
        while not self._host_control.exists():
            if started.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"the TPM's control socket {self._host_control} does not come up")
            time.sleep(0.01)


def _program(folder: Path) -> str:
    """swtpm; where AppArmor confines it to other folders than a lab's, a copy that no profile names."""
    program = shutil.which("swtpm")
    if program is None:
        raise LabError("the program 'swtpm' is not installed")
    with contextlib.suppress(OSError):
        if "swtpm" in _PROFILES.read_text(encoding="utf-8", errors="replace"):
            copy = folder / "swtpm"
            shutil.copy2(program, copy)
            return str(copy)
    return program

# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware's TPM commands and the power switch, against a real swtpm."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trusted_lab import control_socket
from trusted_lab.errors import LabError
from trusted_lab.firmware.event_log import EV_SEPARATOR, measured, replay
from trusted_lab.swtpm import SoftwareTpm
from trusted_lab.tpm_commands import TpmConnection
from trusted_lab.vendor_ca import VendorCa

needs_swtpm = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None or os.geteuid() != 0,
    reason="needs swtpm, and root for its socket's group",
)


@pytest.fixture(name="tpm")
def _tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    folder = tmp_path_factory.mktemp("t")
    vendor = VendorCa(folder / "vendor")
    vendor.create("test")
    tpm = SoftwareTpm(folder / "state", folder / "run")
    tpm.manufacture(vendor, "test-host")
    yield tpm
    tpm.power_off()


@needs_swtpm
def test_pcrs_are_the_replay_of_what_was_extended_and_zero_after_a_power_cycle(tpm: SoftwareTpm) -> None:
    events = [
        measured(0, EV_SEPARATOR, bytes(4)),
        measured(12, EV_SEPARATOR, b"options"),
        measured(12, 4, b"more"),
    ]
    with tpm.power_on() as connection:
        for event in events:
            connection.extend(event.pcr, event.digests)
        for bank in ("sha1", "sha256"):
            for pcr, expected in replay(events, bank).items():
                assert connection.read(pcr, bank) == expected
    assert tpm.is_on()
    assert tpm.power_off()
    assert not tpm.is_on()
    with tpm.power_on() as connection:
        assert connection.read(12, "sha256") == bytes(32)


@needs_swtpm
def test_switching_off_twice_is_no_error(tpm: SoftwareTpm) -> None:
    tpm.power_on().__exit__(None, None, None)
    assert tpm.power_off()
    assert not tpm.power_off()


@needs_swtpm
def test_an_error_of_the_tpm_is_reported_with_its_command(tpm: SoftwareTpm) -> None:
    with tpm.power_on() as connection, pytest.raises(LabError, match="TPM2_PCR_Extend with 0x"):
        connection.extend(99, {"sha256": bytes(32)})


def test_a_tpm_that_is_off_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer"):
        TpmConnection(tmp_path / "sock")


@pytest.mark.parametrize(
    ("request_bytes", "result"),
    [
        (struct.pack(">IB", 5, 0), 0),  # locality 0
        (struct.pack(">IB", 5, 4), 3),  # locality 4 resets the dynamic PCRs
        (struct.pack(">II", 2, 0), 3),  # CMD_INIT: power cycle
        (struct.pack(">I", 3), 3),  # CMD_SHUTDOWN
        (struct.pack(">I", 14), 3),  # CMD_STOP
        (struct.pack(">IB", 5, 0) + struct.pack(">II", 2, 0), 3),  # two in one
        (b"", 3),
        (b"\0", 3),
    ],
)
def test_the_host_reaches_nothing_of_the_control_channel(request_bytes: bytes, result: int) -> None:
    assert control_socket.answer(request_bytes) == struct.pack(">I", result)


def test_a_client_that_hangs_up_does_not_end_the_service(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving the socket to a group needs root")
    path = tmp_path / "c"
    listener = control_socket.listen(path, 0)
    threading.Thread(target=control_socket.serve, args=(listener,), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
    with socket.socket(socket.AF_UNIX) as second:
        second.connect(str(path))
        second.sendall(struct.pack(">IB", 5, 0))
        assert second.recv(4) == bytes(4)
    assert path.stat().st_mode & 0o777 == 0o660

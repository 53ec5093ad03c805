# SPDX-License-Identifier: GPL-3.0-or-later
"""Switching hosts on and off: TPM, firmware's measurements, then the system; several at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .errors import LabError
from .firmware.boot import measure_boot
from .firmware.event_log import Event, encode
from .hosts import EVENT_LOG, Container, host_folder, software_tpm
from .podman import Podman
from .settings import LabHost, Settings
from .ssh import wait_until_ready
from .vendor_ca import VendorCa

Subject = TypeVar("Subject", Container, LabHost)

_AT_A_TIME = 6
_PATIENCE = 60


def is_on(settings: Settings, container: Container) -> bool:
    """True if the host runs, and its TPM with it."""
    return container.running and (not container.tpm or software_tpm(settings, container.host).is_on())


def any_part_on(settings: Settings, container: Container) -> bool:
    """True if there is something to switch off."""
    return container.running or (container.tpm and software_tpm(settings, container.host).is_on())


def power_off(podman: Podman, settings: Settings, containers: Iterable[Container]) -> None:
    """Shut the hosts down, orderly, and then their TPMs."""

    def switch(container: Container) -> None:
        podman.run("stop", container.name)
        if container.tpm:
            software_tpm(settings, container.host).power_off()

    for_each(containers, switch)


def power_on(podman: Podman, settings: Settings, containers: Iterable[Container], vendor: VendorCa) -> None:
    """Start the hosts as from power off, and wait until SSH answers on each of them."""
    listed = list(containers)
    # Hashing is work for the processor: threads alone would take turns at it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=context) as workers:

        def switch(container: Container) -> None:
            if container.tpm:
                _start_measured(podman, settings, container, vendor, workers)
            podman.run("start", container.name)
            wait_until_ready(container.address, _PATIENCE)

        for_each(listed, switch)


def _start_measured(
    podman: Podman, settings: Settings, container: Container, vendor: VendorCa, workers: ProcessPoolExecutor
) -> None:
    """Firmware's part: a fresh TPM, the boot files into its PCRs, the event log where the host finds it."""
    tpm = software_tpm(settings, container.host)
    tpm.power_off()
    with podman.mounted(container.name) as root:
        certificate = vendor.platform.read_bytes()
        events = workers.submit(measure_boot, root, settings.user_space, certificate).result()
    with tpm.power_on() as connection:
        for event in events:
            connection.extend(event.pcr, event.digests)
    _write_log(host_folder(settings, container.host) / "firmware" / EVENT_LOG, events)


def _write_log(path: Path, events: list[Event]) -> None:
    """Only root reads it, as with the kernel's file of that name."""
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(encode(events))
    unfinished.replace(path)


def for_each(subjects: Iterable[Subject], action: Callable[[Subject], None]) -> None:
    """Run the action for each host, several at a time. All are tried; LabError names those that failed."""
    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as pool:
        started = [(_name(subject), pool.submit(action, subject)) for subject in subjects]
    failed = []
    for host, future in started:
        problem = future.exception()
        if isinstance(problem, LabError | OSError):
            failed.append(f"{host}: {problem}")
        elif problem is not None:
            raise problem
    if failed:
        raise LabError("; ".join(failed))


def _name(subject: Container | LabHost) -> str:
    return subject.host if isinstance(subject, Container) else subject.name

# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: survey, packages, image, up, power, destroy. Each reports what it changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import hosts, power
from .errors import LabError
from .hosts import Container
from .image import ensure_image, image_state
from .inventory import inventory_files
from .machine import (
    capabilities,
    has_unified_cgroups,
    install_packages,
    missing_packages,
    needs_limited_runtime,
    watch_more_files,
)
from .network import ensure_network, find_network
from .podman import Podman
from .report import Report
from .settings import RUN_FOLDER, LabHost, Settings
from .ssh import SshIdentity, known_hosts_line
from .vendor_ca import VendorCa


def survey(settings: Settings) -> dict[str, Any]:
    """What is missing, quickly: Debian packages of the machine, and the state of the image."""
    wanted = list(settings.machine_packages)
    if needs_limited_runtime(capabilities(), has_unified_cgroups()):
        wanted.append("runc")
    missing = missing_packages(wanted)
    state = image_state(Podman(), settings) if Podman.installed() else "absent"
    return {"missing_packages": missing, "image": state}


def packages(settings: Settings, report: Report) -> None:
    missing = survey(settings)["missing_packages"]
    if missing and report.act(f"install the packages {', '.join(missing)}"):
        with report.timed("packages"):
            install_packages(missing)


def image(settings: Settings, report: Report) -> None:
    ensure_image(Podman(), settings, report)


def up(settings: Settings, report: Report) -> None:
    """All wanted hosts exist, are on and are in the inventory; hosts that are not wanted are gone."""
    if report.check and not Podman.installed():
        report.act(f"create the lab {settings.name} with {len(settings.hosts)} hosts")
        return
    podman = Podman()
    with _locked(settings, report):
        existing = hosts.existing_hosts(podman, settings)
        hosts.refuse_foreign(settings, existing)
        existing = _without_leftovers(podman, settings, existing, report)
        if report.check:
            ensure_image(podman, settings, report)
        vendor, ssh = _ensure_folder(settings, report)
        subnet = ensure_network(podman, settings, report)
        addresses = hosts.plan_addresses(subnet, settings.hosts, existing)
        _create_missing(podman, settings, existing, addresses, ssh, report)
        _manufacture_missing(settings, vendor, report)
        watch_more_files(report)
        if not report.check:
            existing = hosts.existing_hosts(podman, settings)
        _switch_on(podman, settings, existing, vendor, report)
        _write_inventory(settings, addresses, ssh, report)


def power_hosts(settings: Settings, report: Report, wish: str) -> None:
    """'cycle', 'stop' or 'start' the hosts in settings.power_hosts, all if it is empty."""
    podman = Podman()
    with _locked(settings, report):
        chosen = _chosen(settings, hosts.existing_hosts(podman, settings))
        running = [container for container in chosen if power.any_part_on(settings, container)]
        silent = [container for container in chosen if not power.is_on(settings, container)]
        # Something half on (the TPM without its host, say) is switched off before it is switched on.
        to_stop = running if wish != "start" else [container for container in silent if container in running]
        to_start = {"cycle": chosen, "start": silent, "stop": []}[wish]
        if to_stop and report.act(f"switch off {_names(to_stop)}"):
            with report.timed("off"):
                power.power_off(podman, settings, to_stop)
        if to_start and report.act(f"switch on {_names(to_start)}"):
            with report.timed("on"):
                power.power_on(podman, settings, to_start, _vendor(settings))


def destroy(settings: Settings, report: Report) -> None:
    """Nothing is left of the lab but the image's tar file, which all labs of a clone share."""
    if not Podman.installed():
        _remove_folders(settings, report)
        return
    podman = Podman()
    with _locked(settings, report):
        existing = hosts.existing_hosts(podman, settings)
        hosts.refuse_foreign(settings, existing)
        left_behind = _hosts_with_leftovers(settings) - set(existing)
        if existing and report.act(f"remove the hosts {_names(existing.values())}"):
            power.for_each(
                existing.values(), lambda container: hosts.remove_host(podman, settings, container.host)
            )
        for host in sorted(left_behind):
            if report.act(f"switch off the TPM of {host}"):
                hosts.software_tpm(settings, host).power_off()
        if find_network(podman, settings.name) and report.act(f"remove the network {settings.name}"):
            podman.run("network", "rm", settings.name)
        if podman.image(settings.image) and report.act(f"remove the image {settings.image}"):
            podman.run("rmi", settings.image)
        _remove_folders(settings, report)
        if not report.check:
            _remove_lock(settings)


def _vendor(settings: Settings) -> VendorCa:
    return VendorCa(settings.folder / "tpm_vendor_ca")


def _names(containers: Any) -> str:
    return ", ".join(sorted(container.host for container in containers))


def _ensure_folder(settings: Settings, report: Report) -> tuple[VendorCa, SshIdentity]:
    vendor, ssh = _vendor(settings), SshIdentity(settings.folder / "ssh")
    if not settings.folder.exists() and not report.check:
        settings.folder.parent.mkdir(parents=True, exist_ok=True)
        settings.folder.mkdir(mode=0o700)
    if not vendor.exists() and report.act("create the TPM vendor's CA"):
        vendor.create(settings.name)
    if not ssh.exists() and report.act("create the lab's SSH key"):
        ssh.create(settings.name)
    if not report.check:
        control = settings.run_folder / "ssh"
        control.mkdir(mode=0o700, parents=True, exist_ok=True)
    return vendor, ssh


def _without_leftovers(
    podman: Podman, settings: Settings, existing: Mapping[str, Container], report: Report
) -> dict[str, Container]:
    """Remove hosts that are not wanted, were never finished, or whose folder is gone with the key to them."""
    wanted = {host.name: host for host in settings.hosts}
    kept = dict(existing)
    for name, container in existing.items():
        orphan = container.folder != str(settings.folder) or not _is_complete(settings, name)
        if name not in wanted or orphan:
            del kept[name]
            if report.act(f"remove the host {name}"):
                hosts.remove_host(podman, settings, name)
        elif container.tpm != wanted[name].tpm:
            raise LabError(
                f"the host {name} was made {'with' if container.tpm else 'without'} a TPM, "
                "which cannot change: take it out of lab_hosts, run, and add it again"
            )
    return kept


def _is_complete(settings: Settings, host: str) -> bool:
    return hosts.public_host_key(hosts.host_folder(settings, host)).exists()


def _create_missing(
    podman: Podman,
    settings: Settings,
    existing: Mapping[str, Container],
    addresses: Mapping[str, str],
    ssh: SshIdentity,
    report: Report,
) -> None:
    missing = [host for host in settings.hosts if host.name not in existing]
    to_do = [host for host in missing if report.act(f"create the host {host.name} ({addresses[host.name]})")]
    if to_do:
        with report.timed("create"):
            power.for_each(
                to_do, lambda host: hosts.create_host(podman, settings, host, addresses[host.name], ssh)
            )


def _manufacture_missing(settings: Settings, vendor: VendorCa, report: Report) -> None:
    missing = [
        host for host in settings.hosts if host.tpm and not hosts.software_tpm(settings, host.name).is_made()
    ]
    to_do = [host for host in missing if report.act(f"make the TPM of {host.name}")]

    def make(host: LabHost) -> None:
        hosts.software_tpm(settings, host.name).manufacture(vendor, f"{settings.name}-{host.name}")

    if to_do:
        with report.timed("TPMs"):
            power.for_each(to_do, make)


def _switch_on(
    podman: Podman, settings: Settings, existing: Mapping[str, Container], vendor: VendorCa, report: Report
) -> None:
    silent = [container for container in existing.values() if not power.is_on(settings, container)]
    if silent and report.act(f"switch on {_names(silent)}"):
        with report.timed("on"):
            power.power_off(podman, settings, silent)
            power.power_on(podman, settings, silent, vendor)


def _write_inventory(
    settings: Settings, addresses: Mapping[str, str], ssh: SshIdentity, report: Report
) -> None:
    files = inventory_files(settings, addresses)
    if not report.check:
        files[ssh.known_hosts] = "".join(
            known_hosts_line(
                addresses[host.name],
                hosts.public_host_key(hosts.host_folder(settings, host.name)).read_text(encoding="ascii"),
            )
            for host in settings.hosts
        )
    for path, content in files.items():
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        if report.act(f"write {path.relative_to(settings.folder)}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


def _chosen(settings: Settings, existing: Mapping[str, Container]) -> list[Container]:
    unknown = sorted(set(settings.power_hosts) - set(existing))
    if unknown:
        known = ", ".join(existing) or "none"
        raise LabError(f"the lab {settings.name} has no host {', '.join(unknown)}; it has {known}")
    return [existing[name] for name in settings.power_hosts or sorted(existing)]


def _hosts_with_leftovers(settings: Settings) -> set[str]:
    """Hosts that have a folder: their TPM may run although the container is gone."""
    folders = (settings.folder / "hosts", settings.run_folder)
    return {path.name for folder in folders if folder.exists() for path in folder.iterdir()} - {"ssh"}


def _remove_folders(settings: Settings, report: Report) -> None:
    for folder in (settings.folder, settings.run_folder):
        if folder.exists() and report.act(f"remove {folder}"):
            shutil.rmtree(folder)


@contextmanager
def _locked(settings: Settings, report: Report) -> Iterator[None]:
    """One command at a time for each lab."""
    if report.check:
        yield
        return
    descriptor = _lock(_lock_file(settings))
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_file(settings: Settings) -> Path:
    return Path(f"{settings.run_folder}.lock")


def _lock(path: Path) -> int:
    """The descriptor that holds the lock. Who destroys a lab removes the file: then it is made again."""
    while True:
        RUN_FOLDER.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _remove_lock(settings: Settings) -> None:
    _lock_file(settings).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other labs have theirs there
        RUN_FOLDER.rmdir()

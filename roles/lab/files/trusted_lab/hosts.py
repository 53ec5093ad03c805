# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's hosts: systemd in containers with their own addresses, identities and, for some, a TPM."""

from __future__ import annotations

import ipaddress
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError
from .machine import capabilities, may_raise_limits
from .network import LABEL, Network, choose_address
from .podman import Podman
from .settings import LabHost, Settings
from .ssh import HOST_KEY, SshIdentity, make_key
from .swtpm import SoftwareTpm

# Where a host finds them. /run would not do: systemd mounts its own.
TPM_MOUNT = "/var/lib/lab-tpm"
FIRMWARE_MOUNT = "/var/lib/lab-firmware"
EVENT_LOG = "binary_bios_measurements"

HOST_LABEL = "trusted-infrastructure.lab.host"
FOLDER_LABEL = "trusted-infrastructure.lab.folder"
ADDRESS_LABEL = "trusted-infrastructure.lab.address"
TPM_LABEL = "trusted-infrastructure.lab.tpm"

# What systemd and hardened units need (mount namespaces, device nodes, locked memory), short of --privileged.
_CAPABILITIES = "SYS_ADMIN,MKNOD,NET_ADMIN,NET_RAW,AUDIT_WRITE,SYS_PTRACE,IPC_LOCK,SYS_NICE"
# For units that raise a limit (LimitMEMLOCK, LimitNOFILE), where the machine has it to give.
_LIMITS_CAPABILITY = "SYS_RESOURCE"
# systemd hands credentials to a unit through a mount that has to propagate to the unit's own namespace.
_INIT = "mount --make-rshared / && exec /sbin/init"


@dataclass(frozen=True)
class Container:
    """A host that exists."""

    host: str
    name: str
    address: str
    tpm: bool
    running: bool
    folder: str


def host_folder(settings: Settings, host: str) -> Path:
    return settings.folder / "hosts" / host


def public_host_key(folder: Path) -> Path:
    """The public SSH host key, in the host's folder on the machine."""
    return folder / "ssh_host_key.pub"


def software_tpm(settings: Settings, host: str) -> SoftwareTpm:
    return SoftwareTpm(host_folder(settings, host) / "tpm", settings.run_folder / host)


def existing_hosts(podman: Podman, settings: Settings) -> dict[str, Container]:
    """The hosts of this lab by inventory name, as podman knows them."""
    found = {}
    for description in podman.containers(f"{LABEL}={settings.name}"):
        container = _container(description)
        found[container.host] = container
    return found


def _container(description: Mapping[str, Any]) -> Container:
    labels = description["Config"]["Labels"]
    return Container(
        host=labels[HOST_LABEL],
        name=description["Name"],
        address=labels[ADDRESS_LABEL],
        tpm=labels[TPM_LABEL] == "true",
        running=description["State"]["Running"],
        folder=labels[FOLDER_LABEL],
    )


def refuse_foreign(settings: Settings, existing: Mapping[str, Container]) -> None:
    """LabError if the lab of this name was made from another clone that is still there."""
    for container in existing.values():
        if container.folder != str(settings.folder) and Path(container.folder).exists():
            raise LabError(
                f"a lab named {settings.name} exists already, made from {container.folder}: "
                "choose another name for this one, or destroy it from there"
            )


def plan_addresses(
    subnet: Network, wanted: tuple[LabHost, ...], existing: Mapping[str, Container]
) -> dict[str, str]:
    """The address of each wanted host: the one it has, or the next free one (host -> address)."""
    taken = [container.address for container in existing.values()]
    addresses = {}
    for host in wanted:
        if host.name in existing:
            addresses[host.name] = existing[host.name].address
        else:
            addresses[host.name] = choose_address(subnet, taken)
            taken.append(addresses[host.name])
    return addresses


def mac_address(address: str) -> str:
    """A locally administered hardware address for an IPv4 address.

    Podman would choose another one at each start, and who remembers the last one finds nobody for a minute.
    """
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x4C, *ipaddress.IPv4Address(address).packed))


def create_host(podman: Podman, settings: Settings, host: LabHost, address: str, ssh: SshIdentity) -> None:
    """Make the container and give it its identity; it is not started."""
    name = settings.container(host.name)
    if podman.container_exists(name):
        raise LabError(f"a container '{name}' exists that no lab made: choose another lab_name")
    folder = host_folder(settings, host.name)
    (folder / "firmware").mkdir(mode=0o700, parents=True, exist_ok=True)
    mounts = []
    if host.tpm:
        tpm = software_tpm(settings, host.name)
        tpm.prepare()
        mounts = [
            f"--volume={tpm.shared}:{TPM_MOUNT}",
            f"--volume={folder / 'firmware'}:{FIRMWARE_MOUNT}:ro",
        ]
    labels = {
        LABEL: settings.name,
        HOST_LABEL: host.name,
        FOLDER_LABEL: str(settings.folder),
        ADDRESS_LABEL: address,
        TPM_LABEL: "true" if host.tpm else "false",
    }
    podman.create([
        *(f"--label={key}={value}" for key, value in labels.items()),
        "--name", name, "--hostname", host.name, "--network", settings.name, "--ip", address,
        "--mac-address", mac_address(address),
        # /etc/hosts is an ordinary file of the host, for a role to manage.
        "--no-hosts",
        "--systemd=always", "--stop-timeout", "20", f"--cap-add={_capabilities()}",
        "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
        *mounts, settings.image, "/bin/sh", "-c", _INIT,
    ])  # fmt: skip
    try:
        with podman.mounted(name) as root:
            _give_identity(root, host, folder, ssh)
    except BaseException:
        podman.run("rm", name)
        raise


def _capabilities() -> str:
    return ",".join([_CAPABILITIES, *([_LIMITS_CAPABILITY] if may_raise_limits(capabilities()) else [])])


def _give_identity(root: Path, host: LabHost, folder: Path, ssh: SshIdentity) -> None:
    """Machine id, SSH host key and the lab's authorized key; the public host key is kept for known_hosts."""
    (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n", encoding="ascii")
    make_key(root / HOST_KEY, host.name)
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text(ssh.public_key(), encoding="ascii")
    authorized.chmod(0o600)
    # Last: a host without this file was interrupted on its way and is made again.
    shutil.copyfile(root / f"{HOST_KEY}.pub", public_host_key(folder))


def remove_host(podman: Podman, settings: Settings, host: str) -> None:
    """Remove the container, its TPM and its folders."""
    podman.run("rm", "--force", "--time", "0", settings.container(host))
    software_tpm(settings, host).power_off()
    shutil.rmtree(settings.run_folder / host, ignore_errors=True)
    shutil.rmtree(host_folder(settings, host), ignore_errors=True)

# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as an Ansible inventory: what is different from production is written here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .hosts import EVENT_LOG, FIRMWARE_MOUNT, TPM_MOUNT
from .settings import Settings

_MADE = "# Made by the role lab: it writes this file anew. Desired state goes into files beside it.\n---\n"

_MACHINES = """\
ansible_user: root
ansible_python_interpreter: /usr/bin/python3
ansible_pipelining: true
ansible_ssh_private_key_file: "{{{{ inventory_dir | dirname }}}}/ssh/id_ed25519"
ansible_control_path_dir: {run_folder}/ssh
ansible_host_key_checking: true
ansible_ssh_common_args: >-
  -o UserKnownHostsFile="{{{{ inventory_dir | dirname }}}}/ssh/known_hosts"
  -o GlobalKnownHostsFile=/dev/null
  -o StrictHostKeyChecking=yes
  -o IdentitiesOnly=yes
  -o ServerAliveInterval=5
  -o ServerAliveCountMax=3
# The lab's TPM vendor: issuing CA and root, PEM, on the control node.
lab_tpm_vendor_ca_file: "{{{{ inventory_dir | dirname }}}}/tpm_vendor_ca/chain.pem"
"""

_TRUSTED_HOSTS = """\
# On the trusted hosts: the TPM, for members of the group tss, and firmware's event log, for root.
lab_tpm_tcti: swtpm:path={tpm}/sock
lab_event_log: {firmware}/{log}
"""


def inventory_files(settings: Settings, addresses: Mapping[str, str]) -> dict[Path, str]:
    """The files of the inventory (path -> content), and beside it the release that the hosts have."""
    folder = settings.folder / "inventory"
    return {
        settings.folder / "release": f"{settings.image_release}\n",
        folder / "hosts.yml": _MADE + _hosts(settings, addresses),
        folder / "group_vars/all/lab.yml": f"{_MADE}lab_name: {settings.name}\n",
        # Not in `all`: that group's variables hold for localhost too, which is no machine of this inventory.
        folder / "group_vars/lab_machines/lab.yml": _MADE + _MACHINES.format(run_folder=settings.run_folder),
        folder / "group_vars/trusted_hosts/lab.yml": _MADE
        + _TRUSTED_HOSTS.format(tpm=TPM_MOUNT, firmware=FIRMWARE_MOUNT, log=EVENT_LOG),
    }


def _hosts(settings: Settings, addresses: Mapping[str, str]) -> str:
    groups = list(dict.fromkeys(host.group for host in settings.hosts))
    lines = ["lab_machines:", "  children:", *(f"    {group}:" for group in groups)]
    for group in groups:
        lines += [f"{group}:", "  hosts:"]
        for host in settings.hosts:
            if host.group == group:
                lines += [f"    {host.name}:", f"      ansible_host: {addresses[host.name]}"]
    return "\n".join(lines) + "\n"

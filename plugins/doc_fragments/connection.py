# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  hostname:
    description:
      - Name or address of the manager, or of a vCenter Server 7.0 to 8.0.
      - If it is not set, the environment variable E(VMWARE_HOST) is used.
    type: str
    required: true
  username:
    description:
      - User of the management API.
      - If it is not set, the environment variable E(VMWARE_USER) is used.
    type: str
    required: true
    aliases: [user, admin]
  password:
    description:
      - Password of the user.
      - If it is not set, the environment variable E(VMWARE_PASSWORD) is used.
    type: str
    required: true
    aliases: [pass, pwd]
  port:
    description:
      - TCP port of the management API.
      - If it is not set, the environment variable E(VMWARE_PORT) is used.
    type: int
    default: 443
  validate_certs:
    description:
      - Whether the server's certificate is verified. Turn it off for experiments only.
      - If it is not set, the environment variable E(VMWARE_VALIDATE_CERTS) is used.
    type: bool
    default: true
  ca_path:
    description:
      - File with the CA certificates that the server's certificate must chain to. Without it, the CAs of the system count.
      - If it is not set, the environment variable E(VMWARE_CA_PATH) is used.
    type: path
  task_timeout:
    description: Seconds to wait for an operation that the server runs as a task. It goes on after that.
    type: int
    default: 300
"""

# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Standard key providers in the management API of the workload manager."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.client_certificates import chain
from ansible_collections.trusted.infrastructure.plugins.module_utils.key_servers import (
    known_proxy,
    known_servers,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates

RESOURCE = "/trust/standard-key-providers"
FIELDS = ("provider", "description", "connection_timeout", "has_credential", "keys")


def read(client: ManagementClient, name: str) -> dict[str, t.Any] | None:
    """The provider with its certificates, every field there; None where there is none."""
    one = RESOURCE + path("/{name}", name=name)
    found = client.find(Call("GET", one))
    if found is None:
        return None
    certificate = client.find(Call("GET", one + "/client-certificate"))
    csr = client.find(Call("GET", one + "/csr"))
    trusted = client.call(Call("GET", one + "/peer-certs/trusted"))["certificates"]
    return {
        **{key: found[key] for key in FIELDS},
        "servers": known_servers(found["servers"]),
        "username": found.get("username") or "",
        "proxy_server": known_proxy(found.get("proxy_server")),
        "certificate": chain(certificate["certificate"]) if certificate else None,
        "csr": csr and csr["csr"],
        "trusted_certificates": certificates(trusted),
        "health": found["status"]["health"],
    }

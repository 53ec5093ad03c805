# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers in the management API: vSphere's resource, the same on a vCenter 7.0.2 and later.

Keys of a provider by themselves are our own."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import State
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

RESOURCE = "/vcenter/crypto-manager/kms/providers"
KEYS = "/trust/native-key-providers/{name}/keys"
OWN_MESSAGES = "trusted.infrastructure."


def one(name: str) -> str:
    """Path of a provider."""
    return RESOURCE + path("/{name}", name=name)


def info(client: ManagementClient, name: str) -> dict[str, t.Any] | None:
    """A provider as the server gives it, None where there is none."""
    return t.cast("dict[str, t.Any] | None", client.find(Call("GET", one(name))))


def keys(client: ManagementClient, name: str) -> list[dict[str, t.Any]]:
    """The keys of a provider, the current one first. Raises ApiError NOT_FOUND where there is no provider."""
    return t.cast("list[dict[str, t.Any]]", client.call(Call("GET", path(KEYS, name=name))))


def state_of(name: str, found: t.Mapping[str, t.Any] | None) -> State:
    """What modules show of a provider."""
    if found is None:
        return None
    return {
        "provider": name,
        "key_id": found["native_info"]["key_id"],
        "tpm_required": bool((found.get("constraints") or {}).get("tpm_required")),
    }


def wants_backup(found: t.Mapping[str, t.Any]) -> bool:
    """Whether the server says that the provider, or its present key, is not backed up.

    A vCenter Server does not say it in this API: there, a provider that is not OK counts as one that is not.
    """
    ids = [str(message.get("id")) for message in found.get("details") or []]
    if any(identifier.startswith(OWN_MESSAGES) for identifier in ids):
        return any("native_not_backed_up" in identifier for identifier in ids)
    return bool(found["health"] != "OK")

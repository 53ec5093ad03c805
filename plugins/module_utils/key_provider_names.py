# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key providers of a workload manager by their names: one is for one provider of any kind."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
)


def of_all_kinds(client: ManagementClient) -> list[dict[str, t.Any]]:
    """All key providers; none where the server has no such list, as vCenter Server. Raises ApiError."""
    try:
        return t.cast("list[dict[str, t.Any]]", client.call(Call("GET", "/trust/key-providers")))
    except ApiError as error:
        if error.status == 404:
            return []
        raise


def refusal(providers: t.Iterable[t.Mapping[str, t.Any]], name: str) -> ApiError | None:
    """What the manager says to a new provider of a name that one of these has."""
    kind = next((row["type"].lower() for row in providers if row["provider"] == name), None)
    if kind is None:
        return None
    text = f"this manager has a {kind} key provider {name!r}; a name is for one provider of any kind"
    return ApiError(text, "ALREADY_EXISTS", 400)

# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key servers of a provider, and the proxy to them: as parameters, and as the API has them."""

from __future__ import annotations

import typing as t

KMIP_PORT = 5696
PROXY_PORT = 1080

SERVER_OPTIONS: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": KMIP_PORT},
}
PROXY_OPTIONS: dict[str, dict[str, t.Any]] = {
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": PROXY_PORT},
}


def wanted_servers(params: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """The parameter `servers` in the API's form."""
    return [{"name": row["name"], "address": _wanted_address(row)} for row in params["servers"]]


def wanted_proxy(params: t.Mapping[str, t.Any]) -> dict[str, t.Any] | None:
    """The parameter `proxy` in the API's form; None where it is not given."""
    return params["proxy"] and _wanted_address(params["proxy"])


def known_servers(rows: t.Iterable[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Key servers as the API answers, with their ports."""
    return [{"name": row["name"], "address": _known_address(row["address"], KMIP_PORT)} for row in rows]


def known_proxy(address: t.Mapping[str, t.Any] | None) -> dict[str, t.Any] | None:
    """A proxy as the API answers, with its port; None where there is none."""
    return _known_address(address, PROXY_PORT) if address else None


def _wanted_address(row: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {"hostname": row["address"], "port": row["port"]}


def _known_address(address: t.Mapping[str, t.Any], port: int) -> dict[str, t.Any]:
    """With the port also where the server left it out."""
    return {"hostname": address["hostname"], "port": address.get("port") or port}

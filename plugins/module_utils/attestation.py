# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How hosts stand, as the managers say it, and whether that is what was asked for."""

from __future__ import annotations

import datetime
import typing as t
from dataclasses import dataclass

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    Call,
    ManagementClient,
    path,
)

FIELDS = (
    "reason",
    "message",
    "remedy",
    "base_image",
    "base_image_state",
    "since",
    "attested_until",
    "service",
    "service_address",
    "principal",
)
# What is said of each of a host's services, and of each state that a host was in.
SERVICE_FIELDS = (
    "service",
    "address",
    "reason",
    "message",
    "base_image",
    "base_image_state",
    "since",
    "attested_until",
)
PAST_FIELDS = (
    "since",
    "until",
    "reason",
    "message",
    "base_image",
    "base_image_state",
    "attested_until",
    "service",
    "service_address",
    "principal",
)
# The API takes no more names in one call.
HOSTS_AT_ONCE = 100
REASONS = "docs/protocol.md, section 12, says what to do about each reason"


@dataclass(frozen=True)
class Expected:
    """state: V(ATTESTED) and the like. base_images: versions that are allowed; empty: any. minimum_validity: seconds."""

    state: str = "ATTESTED"
    base_images: tuple[str, ...] = ()
    not_staged: bool = False
    minimum_validity: int = 0


def read(client: ManagementClient, names: t.Sequence[str]) -> list[dict[str, t.Any]]:
    """State of each host, in the order asked for; all of them without names.

    On the Trust Authority side two principals may vouch for a host of one name each: then both are given.
    """
    rows = client.call(Call("GET", "/trust/attestation"))
    if not names:
        return [state_of(row["name"], row) for row in rows]
    found = []
    for name in names:
        known = [row for row in rows if name in (row["host"], row["name"])]
        found += [state_of(name, row) for row in known or [None]]
    return found


def state_of(name: str, row: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """The state of a host. row: what the server says of it; None when it knows no such host."""
    if row is None:
        row = {"name": name, "reason": "host_unknown", "message": f"no host is named {name}"}
    return {
        "name": row["name"],
        "attestation": row.get("state"),
        **{field: row.get(field) for field in FIELDS},
        "services": [
            {"attestation": one.get("state"), **{field: one.get(field) for field in SERVICE_FIELDS}}
            for one in row.get("attestations", [])
        ],
    }


def with_history(
    client: ManagementClient, rows: list[dict[str, t.Any]], limit: int
) -> list[dict[str, t.Any]]:
    """The rows with C(history): the states that each host was in, newest first. limit: for each host and service."""
    names = list(dict.fromkeys(row["name"] for row in rows if row["attestation"] is not None))
    past: list[dict[str, t.Any]] = []
    for start in range(0, len(names), HOSTS_AT_ONCE):
        query = [("hosts", name) for name in names[start : start + HOSTS_AT_ONCE]] + [("limit", str(limit))]
        past += client.call(Call("GET", "/trust/attestation/history", query=tuple(query)))
    return [
        {
            **row,
            "history": [
                {"attestation": one.get("state"), **{field: one.get(field) for field in PAST_FIELDS}}
                for one in past
                if (one["name"], one.get("principal")) == (row["name"], row["principal"])
            ],
        }
        for row in rows
    ]


def attest(client: ManagementClient, names: t.Sequence[str]) -> None:
    """Let hosts attest now. Names that the manager does not know are left out: their state says so."""
    known = {row["name"]: row["host"] for row in client.call(Call("GET", "/vcenter/host"))}
    for name in names:
        identifier = known.get(name, name if name in known.values() else "")
        if identifier:
            query = (("action", "attest"),)
            client.call(Call("POST", path("/trust/hosts/{host}/attestation", host=identifier), query=query))


def shortcoming(row: dict[str, t.Any], expected: Expected, now: datetime.datetime) -> tuple[str, str] | None:
    """What is not as expected, and what can be done about it; None for a host that is. now: with its time zone."""
    state, image = row["attestation"], row["base_image"]
    if state is None:
        return f"is unknown: {row['message']}", "use a name or id of a host of this manager"
    if state != expected.state:
        reason = ": ".join(str(row[key]) for key in ("reason", "message") if row[key])
        since = f" (since {row['since']})" if row["since"] else ""
        return f"is {state}" + (f": {reason}" if reason else "") + since, row["remedy"] or REASONS
    if expected.base_images and image not in expected.base_images:
        allowed = ", ".join(expected.base_images)
        return f"has the base image {image}; allowed: {allowed}", "boot the host into one that is allowed"
    if expected.not_staged and row["base_image_state"] != "ACTIVE":
        found = row["base_image_state"] or "in a state that nobody says"
        return f"has the base image {image}, which is {found}", "activate the base image, or boot another one"
    left = validity(row["attested_until"], now)
    if expected.minimum_validity and left < expected.minimum_validity:
        text = f"is attested for {left} s more, until {row['attested_until']}; expected {expected.minimum_validity} s"
        return text, "let the host attest again, or see the cluster's setting token_lifetime"
    return None


def validity(until: str | None, now: datetime.datetime) -> int:
    """Seconds until a time; 0 for none, and for one that is over or cannot be read."""
    try:
        end = datetime.datetime.fromisoformat((until or "").replace("Z", "+00:00"))
        return max(0, int((end - now).total_seconds()))
    except (ValueError, TypeError):
        return 0

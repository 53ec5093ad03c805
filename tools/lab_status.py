#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the state of every machine of an inventory: a table, or one JSON object. Reading it changes nothing.

usage: lab_status.py INVENTORY [--format table|json]

Exits with 0 only if every trusted host is ATTESTED and gets a key from the default trusted key provider.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)

KINDS = {
    "trust_authority_manager": "manager",
    "workload_manager": "manager",
    "trust_authority_hosts": "trust_authority_host",
    "trusted_hosts": "trusted_host",
    "key_servers": "key_server",
}
FIELDS = ("name", "kind", "attestation", "reason", "base_image", "attested_until", "key_check")
KMIP_PORT = 5696
TIMEOUT = 10


def read_inventory(source: str) -> dict[str, Any]:
    """What `ansible-inventory --list` says: groups and the variables of each host."""
    program = Path(sys.executable).with_name("ansible-inventory")
    result = subprocess.run([program, "-i", source, "--list"], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"the inventory {source} cannot be read: {result.stderr.strip()}")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def row(name: str, kind: str, reason: str, **fields: str | None) -> dict[str, Any]:
    """One row of the result; fields that a kind does not have are null."""
    return {**dict.fromkeys(FIELDS), "name": name, "kind": kind, "reason": reason, **fields}


def client(variables: dict[str, Any], authority: Path) -> ManagementClient:
    """A client of one manager, with the administrator's account of the inventory."""
    return ManagementClient(
        hostname=variables["ansible_host"],
        username=variables.get("manager_administrator_name", "administrator@trusted.local"),
        password=variables["manager_administrator_password"],
        ca_path=str(authority),
        timeout=TIMEOUT,
        task_timeout=TIMEOUT * 3,
    )


def trusted_host(session: ManagementClient, name: str, host: str) -> dict[str, Any]:
    """State of one trusted host, as its manager sees it, and whether it gets a key."""
    state = session.call(Call("GET", path("/trust/hosts/{host}/attestation", host=host)))
    check = session.call(Call("POST", path("/trust/hosts/{host}/key-check", host=host), body={}))
    reason = state.get("message") or state.get("reason") or ""
    return row(
        name,
        "trusted_host",
        reason,
        attestation=state["state"],
        base_image=state.get("base_image"),
        attested_until=state.get("attested_until"),
        key_check=check["result"],
    )


def trusted_hosts(session: ManagementClient | None, names: list[str], problem: str) -> list[dict[str, Any]]:
    """All trusted hosts; UNREACHABLE where the manager cannot be asked."""
    if session is None:
        return [
            row(name, "trusted_host", problem, attestation="UNREACHABLE", key_check="unreachable") for name in names
        ]
    ids = {entry["name"]: entry["host"] for entry in session.call(Call("GET", "/vcenter/host"))}

    def one(name: str) -> dict[str, Any]:
        if name not in ids:
            text = "the host is in the inventory and not in the cluster: is it enrolled?"
            return row(name, "trusted_host", text, attestation="FAILED", key_check="not_attested")
        try:
            return trusted_host(session, name, ids[name])
        except ApiError as error:
            return row(name, "trusted_host", str(error), attestation="UNREACHABLE", key_check="unreachable")

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, names))


def trust_authority_health(session: ManagementClient | None, problem: str) -> str:
    """'service up', or what is wrong with the services of the Trust Authority Cluster."""
    if session is None:
        return problem
    wrong: list[str] = []
    for cluster in session.call(Call("GET", "/vcenter/trusted-infrastructure/trust-authority-clusters")):
        for service in ("attestation", "kms"):
            template = "/vcenter/trusted-infrastructure/trust-authority-clusters/{c}/" + service + "/service-status"
            status = session.call(Call("GET", path(template, c=cluster["cluster"]), task=True))
            if status["health"] != "OK":
                wrong += [detail["default_message"] for detail in status["details"]]
    return "; ".join(wrong) or "service up"


def answers(address: str, port: int, authority: Path | None) -> str:
    """'service up' when a TLS server answers at the port."""
    context = ssl.create_default_context(cafile=str(authority)) if authority else ssl._create_unverified_context()
    try:
        with socket.create_connection((address, port), TIMEOUT) as connection:
            if authority:
                context = ssl.create_default_context(cafile=str(authority))
                context.wrap_socket(connection, server_hostname=address).close()
        return "service up"
    except OSError as error:
        return f"port {port} does not answer: {error}"


def enter(variables: dict[str, Any], authority: Path) -> tuple[ManagementClient | None, str]:
    """A session, or why there is none."""
    session = client(variables, authority)
    try:
        session.login()
    except ApiError as error:
        return None, str(error)
    return session, "service up"


def collect(source: str) -> list[dict[str, Any]]:
    """The rows of all machines, in the order of KINDS."""
    inventory = read_inventory(source)
    variables = inventory["_meta"]["hostvars"]
    folder = Path(source).resolve() if Path(source).is_dir() else Path(source).resolve().parent
    authorities = folder.parent / "trust" / "authorities"

    def members(group: str) -> list[str]:
        return inventory.get(group, {}).get("hosts", [])

    authority_manager, workload_manager = (
        members("trust_authority_manager")[0],
        members("workload_manager")[0],
    )
    authority, authority_problem = enter(variables[authority_manager], authorities / "trust_authority.pem")
    workload, workload_problem = enter(variables[workload_manager], authorities / "workload.pem")
    rows = [
        row(authority_manager, "manager", authority_problem),
        row(workload_manager, "manager", workload_problem),
    ]
    for name in members("trust_authority_hosts"):
        answer = answers(variables[name]["ansible_host"], 443, authorities / "trust_authority.pem")
        rows.append(row(name, "trust_authority_host", answer))
    rows += trusted_hosts(workload, members("trusted_hosts"), workload_problem)
    for name in members("key_servers"):
        rows.append(row(name, "key_server", answers(variables[name]["ansible_host"], KMIP_PORT, None)))
    for session in (authority, workload):
        if session is not None:
            session.logout()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, each column as wide as its longest value."""
    heads = ("host", "kind", "attestation", "base image", "attested until", "key", "reason")
    keys = ("name", "kind", "attestation", "base_image", "attested_until", "key_check", "reason")
    lines = [heads, *(tuple(entry[key] or "-" for key in keys) for entry in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inventory")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if not os.path.exists(arguments.inventory):
        raise SystemExit(f"there is no lab at {arguments.inventory}: run 'make lab' first")
    rows = collect(arguments.inventory)
    print(json.dumps({"hosts": rows}) if arguments.format == "json" else table(rows))
    hosts = [entry for entry in rows if entry["kind"] == "trusted_host"]
    good = all(entry["attestation"] == "ATTESTED" and entry["key_check"] == "OK" for entry in hosts)
    return 0 if hosts and good else 1


if __name__ == "__main__":
    raise SystemExit(main())

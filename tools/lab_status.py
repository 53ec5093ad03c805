#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the state of every machine of an inventory: a table, or one JSON object. Reading it changes nothing.

usage: lab_status.py [INVENTORY | --lab NAME] [--format table|json] [--wait SECONDS]

Exits with 0 only if every trusted host is ATTESTED and gets a key from the default trusted key provider.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The collection's own client is used; Ansible finds collections in these folders, and so does this program.
COLLECTIONS = os.environ.get("ANSIBLE_COLLECTIONS_PATH", str(ROOT / "build" / "collections"))
sys.path[:0] = COLLECTIONS.split(os.pathsep)

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (  # noqa: E402
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
# Certificates live 90 days and are renewed after 60; one that has less than this left was missed.
SOON = 14 * 86400


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
    """A client of one manager. The lab keeps the administrator's password in a file of its folder."""
    secret = authority.parent.parent.parent / "secrets" / "administrator_password"
    return ManagementClient(
        hostname=variables["ansible_host"],
        username=variables.get("manager_administrator_name", "administrator@trusted.local"),
        password=secret.read_text(encoding="utf-8").strip(),
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
            row(name, "trusted_host", problem, attestation="UNREACHABLE", key_check="unreachable")
            for name in names
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


def answers(address: str, port: int) -> str:
    """'service up' when something answers at the port, otherwise what is wrong."""
    try:
        socket.create_connection((address, port), TIMEOUT).close()
    except OSError as error:
        return f"port {port} does not answer: {error}"
    return "service up"


def trust_authority_host(address: str, authority: Path) -> str:
    """'service up' when both services answer with a certificate of the side's CA, otherwise what is wrong."""
    context = ssl.create_default_context(cafile=str(authority))
    for service, path_of_keys in (
        ("Attestation Service", "/attestation/v1/keys"),
        ("Key Provider Service", "/kms/v1/keys"),
    ):
        connection = http.client.HTTPSConnection(address, timeout=TIMEOUT, context=context)
        try:
            connection.request("GET", path_of_keys)
            status = connection.getresponse().status
            certificate = connection.sock.getpeercert() if connection.sock else None
        except (OSError, http.client.HTTPException) as error:
            return f"{service} does not answer: {error}"
        finally:
            connection.close()
        if status != http.client.OK:
            return f"{service} answers with HTTP {status}"
        end = str(certificate["notAfter"]) if certificate else ""
        if end and ssl.cert_time_to_seconds(end) < time.time() + SOON:
            return f"service up; its certificate expires on {end}: run site.yml"
    return "service up"


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
        found: list[str] = inventory.get(group, {}).get("hosts", [])
        return found

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
        answer = trust_authority_host(variables[name]["ansible_host"], authorities / "trust_authority.pem")
        rows.append(row(name, "trust_authority_host", answer))
    rows += trusted_hosts(workload, members("trusted_hosts"), workload_problem)
    for name in members("key_servers"):
        rows.append(row(name, "key_server", answers(variables[name]["ansible_host"], KMIP_PORT)))
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
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def all_good(rows: list[dict[str, Any]]) -> bool:
    """Whether there are trusted hosts, and each is attested and gets a key."""
    hosts = [entry for entry in rows if entry["kind"] == "trusted_host"]
    good = all(entry["attestation"] == "ATTESTED" and entry["key_check"] == "OK" for entry in hosts)
    return bool(hosts) and good


def wait_for(source: str, seconds: int) -> list[dict[str, Any]]:
    """The rows, as soon as all is good, or after that time."""
    end = time.monotonic() + seconds
    rows = collect(source)
    while not all_good(rows) and time.monotonic() < end:
        time.sleep(2)
        rows = collect(source)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the state of every machine of an inventory.")
    parser.add_argument("inventory", nargs="?")
    parser.add_argument("--lab", help="name of a lab of this checkout")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--wait", type=int, default=0, metavar="SECONDS", help="give hosts that long to become attested"
    )
    arguments = parser.parse_args()
    of_lab = ROOT / "build" / "labs" / (arguments.lab or "lab") / "inventory" / "hosts.yml"
    source = arguments.inventory or str(of_lab)
    if not os.path.exists(source):
        print(f"there is no lab at {source}: run 'make lab' first", file=sys.stderr)
        return 1
    rows = wait_for(source, arguments.wait)
    print(json.dumps({"hosts": rows}) if arguments.format == "json" else table(rows))
    return 0 if all_good(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

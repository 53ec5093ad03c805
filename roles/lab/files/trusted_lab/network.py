# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network: one bridge, a subnet that nothing else on the machine uses."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable

from .command import run
from .errors import LabError
from .podman import Podman
from .report import Report
from .settings import Settings

Network = ipaddress.IPv4Network

LABEL = "trusted-infrastructure.lab"

_FIRST_HOST = 11


def candidate_subnets() -> Iterable[Network]:
    """The /24 networks that a lab may take, in order: 10.89.x, then 10.90.x to 10.99.x."""
    for second in range(89, 100):
        for third in range(1, 255):
            yield ipaddress.IPv4Network(f"10.{second}.{third}.0/24")


def choose_subnet(used: Iterable[Network]) -> Network:
    """The first candidate that overlaps no used network. LabError if there is none."""
    taken = list(used)
    for candidate in candidate_subnets():
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise LabError("no /24 between 10.89.1.0 and 10.99.254.0 is free: give lab_network_subnet")


def choose_address(subnet: Network, taken: Iterable[str]) -> str:
    """The first free host address from .11 on. LabError if the subnet is full."""
    used = set(taken)
    for offset in range(_FIRST_HOST, subnet.num_addresses - 1):
        address = str(subnet[offset])
        if address not in used:
            return address
    raise LabError(f"the lab's network {subnet} has no address left")


def ensure_network(podman: Podman, settings: Settings, report: Report) -> Network:
    """The lab's subnet; the network is made if it does not exist."""
    existing = find_network(podman, settings.name)
    wanted = _wanted_subnet(settings)
    if existing:
        if wanted and wanted != existing:
            raise LabError(
                f"the lab's network is {existing} and lab_network_subnet says {wanted}: destroy the lab first"
            )
        return existing
    subnet = wanted or _free_subnet(podman)
    if report.act(f"create the network {settings.name} ({subnet})"):
        while problem := _create(podman, settings, subnet):
            # Perhaps another lab that starts at the same time was faster.
            refused, subnet = subnet, wanted or _free_subnet(podman)
            if subnet == refused:
                raise LabError(f"podman does not make the network {subnet}: {problem}")
    return subnet


def _create(podman: Podman, settings: Settings, subnet: Network) -> str:
    """Empty if the network was made, otherwise what podman says."""
    internal = ["--internal"] if settings.network_internal else []
    label = f"{LABEL}={settings.name}"
    made = podman.attempt(
        "network", "create", *internal, "--label", label, "--subnet", str(subnet), settings.name
    )
    return "" if made.returncode == 0 else made.stderr.strip() or "no reason given"


def _free_subnet(podman: Podman) -> Network:
    return choose_subnet([*_routes(), *_podman_subnets(podman)])


def _wanted_subnet(settings: Settings) -> Network | None:
    if not settings.network_subnet:
        return None
    try:
        return ipaddress.IPv4Network(settings.network_subnet)
    except ValueError as problem:
        raise LabError(f"lab_network_subnet is '{settings.network_subnet}': {problem}") from problem


def find_network(podman: Podman, name: str) -> Network | None:
    """The subnet of the lab's network, None if there is no such network. LabError if it is not a lab's."""
    found = podman.attempt("network", "inspect", name)
    if found.returncode != 0:
        return None
    description = json.loads(found.stdout)[0]
    if description.get("labels", {}).get(LABEL) != name:
        raise LabError(f"there is a podman network '{name}' that no lab made: choose another lab_name")
    return ipaddress.IPv4Network(description["subnets"][0]["subnet"])


def _routes() -> list[Network]:
    listed = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    return [
        ipaddress.IPv4Network(route["dst"], strict=False) for route in listed if route["dst"] != "default"
    ]


def _podman_subnets(podman: Podman) -> list[Network]:
    names = podman.run("network", "ls", "--quiet").split()
    described = json.loads(podman.run("network", "inspect", *names)) if names else []
    return [
        ipaddress.IPv4Network(subnet["subnet"])
        for network in described
        for subnet in network.get("subnets") or []
        if ":" not in subnet["subnet"]
    ]

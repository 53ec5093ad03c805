# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab decides before it does anything: settings, runtime, subnet, addresses, inventory."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from trusted_lab import machine, network
from trusted_lab.errors import LabError
from trusted_lab.hosts import Container, mac_address, plan_addresses, refuse_foreign
from trusted_lab.inventory import inventory_files
from trusted_lab.report import Report
from trusted_lab.settings import Settings, parse_settings

HOSTS = [
    {"name": "ta-manager", "group": "trust_authority_manager"},
    {"name": "host1", "group": "trusted_hosts"},
    {"name": "spare", "group": "spares", "tpm": True},
]


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "lab",
        "folder": "/nowhere/labs/lab",
        "image_folder": "/nowhere/lab",
        "hosts": HOSTS,
        "image_base": "",
        "image_packages": ["systemd"],
        "image_kernel_package": "linux-image",
        "image_release": "bookworm",
        "image_components": "main",
        "image_mirrors": [],
        "image_rebuild": False,
        "machine_packages": [],
        "network_internal": True,
        "network_subnet": "",
        "user_space": ["/usr"],
        "power_hosts": [],
        **changes,
    }


def settings(**changes: Any) -> Settings:
    return parse_settings(document(**changes))


def container(host: str, address: str, folder: str = "/nowhere/labs/lab") -> Container:
    return Container(host, f"lab-{host}", address, False, True, folder)


def test_a_trusted_host_has_a_tpm_unless_said_otherwise() -> None:
    assert [host.tpm for host in settings().hosts] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Lab"}, "lab_name"),
        ({"name": "../lab"}, "lab_name"),
        ({"name": "a" * 33}, "lab_name"),
        ({"folder": "labs/lab"}, "folder"),
        ({"hosts": [{"name": "a b", "group": "x"}]}, "'a b'"),
        ({"hosts": [{"name": "a", "group": "a-b"}]}, "'a-b'"),
        ({"hosts": HOSTS + HOSTS[:1]}, "more than one host named ta-manager"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_bad_settings_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("capabilities", "unified", "limited"),
    [
        (0x1FFFFFFFFFF, True, False),
        (0x1FFFFFFFFFF, False, True),
        (0x1FFFEFFFFFF, True, True),
        (0, False, True),
    ],
)
def test_the_limited_runtime_is_chosen_only_where_needed(
    capabilities: int, unified: bool, limited: bool
) -> None:
    assert machine.needs_limited_runtime(capabilities, unified) is limited


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ([], "10.89.1.0/24"),
        (["192.0.2.0/24"], "10.89.1.0/24"),
        (["10.89.1.0/24", "10.89.2.128/25"], "10.89.3.0/24"),
        (["10.89.0.0/16"], "10.90.1.0/24"),
    ],
)
def test_a_free_subnet_is_chosen(used: list[str], expected: str) -> None:
    assert str(network.choose_subnet(ipaddress.IPv4Network(item) for item in used)) == expected


def test_no_free_subnet_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(LabError, match="lab_network_subnet"):
        network.choose_subnet([ipaddress.IPv4Network("10.0.0.0/8")])


def test_hosts_keep_their_addresses_and_new_ones_take_free_ones() -> None:
    subnet = ipaddress.IPv4Network("10.89.1.0/24")
    existing = {"host1": container("host1", "10.89.1.11"), "gone": container("gone", "10.89.1.12")}
    assert plan_addresses(subnet, settings().hosts, existing) == {
        "ta-manager": "10.89.1.13",
        "host1": "10.89.1.11",
        "spare": "10.89.1.14",
    }


def test_a_full_subnet_is_an_error() -> None:
    with pytest.raises(LabError, match="no address left"):
        network.choose_address(ipaddress.IPv4Network("10.89.1.0/28"), [f"10.89.1.{n}" for n in range(11, 15)])


def test_a_hardware_address_belongs_to_its_address() -> None:
    assert mac_address("10.89.1.11") == "02:4c:0a:59:01:0b"


def test_a_lab_of_another_clone_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="exists already"):
        refuse_foreign(settings(), {"host1": container("host1", "10.89.1.11", str(tmp_path))})


def test_a_lab_whose_clone_is_gone_can_be_taken_over(tmp_path: Path) -> None:
    refuse_foreign(settings(), {"host1": container("host1", "10.89.1.11", str(tmp_path / "gone"))})


def test_the_inventory_has_groups_and_addresses() -> None:
    addresses = {"ta-manager": "10.89.1.11", "host1": "10.89.1.12", "spare": "10.89.1.13"}
    files = inventory_files(settings(), addresses)
    hosts = files[Path("/nowhere/labs/lab/inventory/hosts.yml")]
    assert "trusted_hosts:\n  hosts:\n    host1:\n      ansible_host: 10.89.1.12\n" in hosts
    assert "StrictHostKeyChecking=yes" in "".join(files.values())
    assert "/nowhere" not in "".join(files.values())


def test_a_lab_remembers_its_release() -> None:
    addresses = {"ta-manager": "10.89.1.11", "host1": "10.89.1.12", "spare": "10.89.1.13"}
    files = inventory_files(settings(image_release="trixie"), addresses)
    assert files[Path("/nowhere/labs/lab/release")] == "trixie\n"


@pytest.mark.parametrize(
    ("current", "check", "after"), [(128, False, 2048), (128, True, 128), (4096, False, 4096)]
)
def test_a_low_limit_of_inotify_instances_is_raised(
    tmp_path: Path, current: int, check: bool, after: int
) -> None:
    setting = tmp_path / "max_user_instances"
    setting.write_text(f"{current}\n", encoding="ascii")
    report = Report(check)
    machine.watch_more_files(report, setting)
    assert int(setting.read_text(encoding="ascii")) == after
    assert report.result()["changed"] is (current < 2048)

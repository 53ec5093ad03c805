# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection parameters: what they are called, where else they come from, and where they go."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import client_of

VARIABLES = {
    "VMWARE_HOST": "manager.example",
    "VMWARE_USER": "admin",
    "VMWARE_PASSWORD": "the-password",
    "VMWARE_PORT": "8443",
    "VMWARE_VALIDATE_CERTS": "no",
    "VMWARE_CA_PATH": "~/ca.pem",
}
GIVEN = {"hostname": "given.example", "username": "given", "password": "given-password"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home-of-test")


def client(**parameters: Any) -> Any:
    with patch_module_args(parameters):
        return client_of(AnsibleModule(argument_spec=connection_arguments()))


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = client()
    assert (found.hostname, found.username, found.password) == ("manager.example", "admin", "the-password")
    assert (found.port, found.validate_certs, found.ca_path) == (8443, False, "/home-of-test/ca.pem")


def test_parameters_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = client(**GIVEN, port=444, validate_certs=True, ca_path="/ca.pem", task_timeout=5)
    assert (found.hostname, found.username, found.password) == tuple(GIVEN.values())
    assert (found.port, found.validate_certs, found.ca_path, found.task_timeout) == (444, True, "/ca.pem", 5)


def test_defaults_are_safe() -> None:
    found = client(**GIVEN)
    assert (found.port, found.validate_certs, found.ca_path, found.task_timeout) == (443, True, None, 300)


@pytest.mark.parametrize("names", [("user", "pass"), ("admin", "pwd"), ("username", "password")])
def test_names_of_the_vmware_collections(names: tuple[str, str]) -> None:
    found = client(hostname="manager.example", **{names[0]: "somebody", names[1]: "something"})
    assert (found.username, found.password) == ("somebody", "something")


@pytest.mark.parametrize("missing", GIVEN)
def test_what_is_needed_is_named(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client(**{key: value for key, value in GIVEN.items() if key != missing})
    assert f"missing required arguments: {missing}" in capsys.readouterr().out


def test_a_fresh_specification_each_time() -> None:
    connection_arguments()["hostname"]["required"] = False
    assert connection_arguments()["hostname"]["required"] is True

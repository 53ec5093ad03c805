# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every module."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any
from unittest import mock

import pytest
import yaml
from ansible.module_utils.basic import FILE_COMMON_ARGUMENTS, AnsibleModule

import ansible_collections.trusted.infrastructure.plugins.modules as package

MODULES = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
FURTHER_FRAGMENTS = {"ansible.builtin.files", "trusted.infrastructure.event_filters"}
LOCAL = {"runtime_environment", "service_command", "system_state", "trust_record"}


class Made(Exception):
    """Thrown in place of making an AnsibleModule."""


def options_of(name: str) -> dict[str, Any]:
    """What a module gives to AnsibleModule."""
    module = importlib.import_module(f"ansible_collections.trusted.infrastructure.plugins.modules.{name}")
    with mock.patch.object(AnsibleModule, "__init__", side_effect=Made) as made:
        with pytest.raises(Made):
            module.main()
    return made.call_args.kwargs


def documentation_of(name: str) -> dict[str, Any]:
    return yaml.safe_load(
        importlib.import_module(
            f"ansible_collections.trusted.infrastructure.plugins.modules.{name}"
        ).DOCUMENTATION
    )


def test_there_are_modules() -> None:
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_check_mode(name: str) -> None:
    assert options_of(name)["supports_check_mode"] is True


@pytest.mark.parametrize("name", sorted(set(MODULES) - LOCAL))
def test_every_module_takes_the_connection_and_hides_its_password(name: str) -> None:
    arguments = options_of(name)["argument_spec"]
    assert {"hostname", "username", "password", "port", "validate_certs", "ca_path"} <= set(arguments)
    assert arguments["password"]["no_log"] is True
    fragments = documentation_of(name)["extends_documentation_fragment"]
    attributes = "attributes.info" if name.endswith(("_info", "_assert")) else "attributes"
    expected = {"trusted.infrastructure.connection", f"trusted.infrastructure.{attributes}"}
    assert set(fragments) - FURTHER_FRAGMENTS == expected


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_tasks_of_the_module_with_names(name: str) -> None:
    module = importlib.import_module(f"ansible_collections.trusted.infrastructure.plugins.modules.{name}")
    tasks = yaml.safe_load(module.EXAMPLES)
    assert any(f"trusted.infrastructure.{name}" in task for task in tasks)
    documented = set(documentation_of(name).get("options", {})) | set(options_of(name)["argument_spec"])
    if options_of(name).get("add_file_common_args"):
        documented |= set(FILE_COMMON_ARGUMENTS)
    for task in tasks:
        assert task["name"][0].isupper()
        assert set(task.get(f"trusted.infrastructure.{name}") or {}) <= documented
    returned = yaml.safe_load(module.RETURN)
    assert returned
    # Ansible gives these a meaning of its own, whatever a module means by them.
    assert not {"failed", "skipped", "unreachable", "exception", "warnings"} & set(returned)


@pytest.mark.parametrize("name", sorted(set(MODULES) - LOCAL))
def test_a_manager_that_does_not_answer(run_module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check mode too: a manager that is silent is not one that has nothing."""
    given: dict[str, Any] = {"hostname": "127.0.0.1", "port": 1, "username": "u", "password": "the-password"}
    values = {"str": "x", "int": 1, "bool": True, "list": [], "dict": {}, "path": __file__}
    arguments = options_of(name)["argument_spec"]
    for key, argument in arguments.items():
        if argument.get("required") and key not in given:
            given[key] = values[argument["type"]]
    if "state" in arguments and "absent" in arguments["state"]["choices"]:
        given["state"] = "absent"
    if name == "key":
        given["key_id"] = "1"
    if name == "base_image":
        given["version"] = "1"
    if name == "tpm2_endorsement_key_replace":
        given["accept_clock"] = True
    for check in (False, True):
        result = run_module(name, check=check, **given)
        assert result["failed"] is True
        assert result["msg"].startswith("127.0.0.1:1 does not answer: ")
        assert "Traceback" not in result.output
        assert "the-password" not in result.output

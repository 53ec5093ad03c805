# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles say that they take is what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from collection_tree import ROOT

from trusted_infrastructure.manager.settings import ManagerSettings

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
TYPES = {"raw": object, "str": str, "path": str, "int": int, "bool": bool, "list": list, "dict": dict}


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}
    return found


def options_of(role: Path) -> dict[str, Any]:
    """Options of all entry points of a role."""
    entries = loaded(role / "meta" / "argument_specs.yml")["argument_specs"].values()
    return {name: option for entry in entries for name, option in (entry.get("options") or {}).items()}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_specified_with_its_type(role: Path) -> None:
    options = options_of(role)
    for name, value in loaded(role / "defaults" / "main.yml").items():
        assert name in options
        # What is computed has its type when it is used.
        if not (isinstance(value, str) and "{{" in value):
            assert isinstance(value, TYPES[options[name]["type"]]), name
            assert value in options[name].get("choices", [value])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_option_has_a_default_or_is_required(role: Path) -> None:
    defaults = loaded(role / "defaults" / "main.yml")
    missing = [name for name, option in options_of(role).items() if name not in defaults]
    assert [name for name in missing if not options_of(role)[name].get("required")] == []


@pytest.mark.parametrize("name", ["event_limit", "event_retention", "host_key_limit", "host_key_rate"])
def test_setting_of_the_manager_is_a_variable_with_its_default(name: str) -> None:
    role = ROOT / "roles" / "manager"
    own = {field.name: field.default for field in msgspec.structs.fields(ManagerSettings)}
    assert loaded(role / "defaults" / "main.yml")[f"manager_{name}"] == own[name]
    assert (
        loaded(role / "vars" / "main.yml")["manager_settings_common"][name]
        == f"{{{{ manager_{name} | int }}}}"
    )

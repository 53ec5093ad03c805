# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said in two places agrees, and what must stand nowhere stands nowhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_tree import ROOT, source_files

FILES = [ROOT / name for name in source_files()]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Each with what it would mean. This file has to name them, and is left out.
NOWHERE = {
    r"\b(?:TODO|FIXME|XXX)\b": "something is unfinished",
    r"\bnosec\b|\bpytest\.mark\.(?:xfail|skip)\b": "a check is switched off",
    r"--(?:extra-)?index-url|--trusted-host|\bpypi\.org\b|\bfiles\.pythonhosted\b": "an index is named",
    r"(?<![\w.~-])/(?:home|Users|work)/": "a path exists on one machine only",
    "[\u2018\u2019\u201c\u201d]": "a quote is curled",
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{16}": "a private key lies in the repository",
}


def text_of(path: Path) -> str:
    """The file as text; of a binary file, nothing."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8")


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found


def test_collection_and_distribution_have_one_version(project: dict[str, Any]) -> None:
    assert yaml_of(ROOT / "galaxy.yml")["version"] == project["project"]["version"]


def test_collection_depends_on_no_other() -> None:
    assert yaml_of(ROOT / "galaxy.yml")["dependencies"] == {}


def test_action_group_has_every_module_that_takes_the_connection() -> None:
    wanted = [path.stem for path in MODULES if "trusted.infrastructure.connection" in text_of(path)]
    assert wanted, "no module takes the connection"
    assert yaml_of(ROOT / "meta" / "runtime.yml")["action_groups"]["trusted"] == wanted


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_says_what_it_takes(role: Path) -> None:
    assert (role / "README.md").is_file()
    assert yaml_of(role / "meta" / "argument_specs.yml")["argument_specs"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_default_variables_have_the_role_for_a_prefix(role: Path) -> None:
    defaults = role / "defaults" / "main.yml"
    names = yaml_of(defaults) or {} if defaults.is_file() else {}
    assert [name for name in names if not name.startswith(f"{role.name}_")] == []


@pytest.mark.parametrize("pattern", NOWHERE, ids=NOWHERE.values())
def test_nowhere(pattern: str) -> None:
    compiled = re.compile(pattern)
    found = []
    for path in FILES:
        if path == Path(__file__):
            continue
        text = text_of(path)
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
                  for match in compiled.finditer(text)]  # fmt: skip
    assert found == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_source_names_its_licence(path: Path) -> None:
    assert text_of(path).startswith("# SPDX-License-Identifier: GPL-3.0-or-later\n")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed(path: Path) -> None:
    entries = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("extra", ["authority", "host", "manager", "build", "control"])
def test_hosts_get_what_the_gates_run_with(extra: str) -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        return set(re.findall(r"^([a-z0-9.-]+==[^\s;]+)", text, re.MULTILINE))

    assert pins(extra) - pins("gates") == set()


@pytest.mark.parametrize("extra", ["authority", "host", "manager"])
def test_lock_covers_what_the_distribution_asks_for(extra: str, project: dict[str, Any]) -> None:
    asked = project["project"]["dependencies"] + project["project"]["optional-dependencies"][extra]
    names = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in asked}
    text = (ROOT / "requirements" / f"{extra}.txt").read_text(encoding="utf-8")
    assert names - set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE)) == set()


def test_sanity_ignores_nothing() -> None:
    assert [path.name for path in (ROOT / "tests" / "sanity").glob("ignore-*") if path.stat().st_size] == []


def test_every_module_of_the_services_has_its_layer(project: dict[str, Any]) -> None:
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = set(re.findall(r"trusted_infrastructure\.([a-z_.]+)", " ".join(layers)))
    package = ROOT / "src" / "trusted_infrastructure"
    there = {path.stem for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    there |= {f"config.{path.stem}" for path in (package / "config").glob("*.py")}
    unplaced = {name for name in there - placed if not name.split(".")[-1].startswith("__")}
    assert unplaced - {"config"} == set()


def test_the_tpm_library_is_imported_by_the_device_alone() -> None:
    importers = [
        str(path.relative_to(ROOT / "src" / "trusted_infrastructure"))
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"^\s*(?:import|from) tpm2_pytss\b", text_of(path), re.MULTILINE)
    ]
    assert importers
    assert [
        name for name in importers if not name.startswith(("host/tpm_device/", "host/tpm_device.py"))
    ] == []

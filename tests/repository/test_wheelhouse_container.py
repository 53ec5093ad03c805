# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels for another release: which systems, what of pip reaches the container, what is refused."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import build_wheelhouse
import pytest
import wheelhouse_container
from wheelhouse_container import ContainerError

PLATFORM = {"os": "debian", "release": "12", "machine": "x86_64", "python": "3.11"}


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["build_wheelhouse.py", *arguments])
    monkeypatch.setattr(build_wheelhouse, "platform_of", lambda _python: PLATFORM)
    return build_wheelhouse.main()


@pytest.mark.parametrize("system", ["debian 11", "Debian 13", "ubuntu 24.10", "fedora 42", ""])
def test_system_that_is_not_supported_is_refused(system: str) -> None:
    with pytest.raises(ContainerError, match="supported are debian 12, debian 13, ubuntu 24.04"):
        wheelhouse_container.archive_name(system)


def test_no_container_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_main(monkeypatch, "--for", "debian 13", "--output", str(tmp_path / "wheels")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "needs root" in captured.err
    assert "service_runtime_build_host" in captured.err


def test_own_system_needs_no_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(_python: str, _platform: dict[str, str], folder: Path) -> bool:
        for extra in build_wheelhouse.EXTRAS:
            (folder / f"{extra}.lock").write_text(extra)
        return True

    monkeypatch.setattr(build_wheelhouse, "make_wheelhouse", make)
    monkeypatch.setattr(wheelhouse_container, "build_in_container", None)
    assert run_main(monkeypatch, "--for", "debian 12", "--output", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["platform"] == PLATFORM


def test_folders_that_pip_names_are_found(tmp_path: Path) -> None:
    for name in ("wheels/deeper", "index/simple"):
        (tmp_path / name).mkdir(parents=True)
    texts = [
        f"[global]\nfind-links = {tmp_path}/wheels {tmp_path}/wheels/deeper {tmp_path}/missing",
        f"extra-index-url=file://{tmp_path}/index/simple https://index.example/simple",
    ]
    assert wheelhouse_container.named_paths(texts) == [tmp_path / "index", tmp_path / "wheels"]


def test_pip_settings_reach_the_container_without_their_values(tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(f"[global]\ncert = {tmp_path}/ca.pem\n")
    (tmp_path / "ca.pem").write_text("")
    environment = {"PIP_INDEX_URL": "https://user:password@index.example/simple", "HOME": "/nowhere"}
    options = wheelhouse_container.mounts(tmp_path, environment)
    assert f"--volume={tmp_path}/.config/pip/pip.conf:{tmp_path}/.config/pip/pip.conf:ro" in options
    assert f"--volume={tmp_path}/ca.pem:{tmp_path}/ca.pem:ro" in options
    assert "--env=PIP_INDEX_URL" in options
    assert not any("password" in option or "HOME" in option for option in options)


def test_container_is_made_once_for_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []

    def mmdebstrap(command: list[str], **_options: object) -> SimpleNamespace:
        made.append(command)
        (tmp_path / ".trixie-container").mkdir()
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(wheelhouse_container.subprocess, "run", mmdebstrap)
    for mirrors in ([], [], ["https://mirror.example/debian"]):
        root = wheelhouse_container.ensure_root("debian 13", tmp_path, mirrors)
        assert root == tmp_path / ".trixie-container"
    assert len(made) == 2
    assert made[1][-1] == "https://mirror.example/debian"


def test_failed_container_says_why_and_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def mmdebstrap(_command: list[str], **_options: object) -> SimpleNamespace:
        calls.append(1)
        return SimpleNamespace(returncode=1, stderr="E: no such suite\n")

    monkeypatch.setattr(wheelhouse_container.subprocess, "run", mmdebstrap)
    for _attempt in range(2):
        with pytest.raises(ContainerError, match="mmdebstrap made no noble:\nE: no such suite"):
            wheelhouse_container.ensure_root("ubuntu 24.04", tmp_path, [])
    assert len(calls) == 2

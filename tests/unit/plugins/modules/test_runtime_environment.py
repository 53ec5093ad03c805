# SPDX-License-Identifier: GPL-3.0-or-later
"""The module runtime_environment; how it installs is tested with the module_utils of this name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.runtime_environment import (
    COMPLETE,
    Environment,
    EnvironmentFailure,
)

DIGEST = "ab" * 32


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Archives that were installed, with their locks."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(Environment, "install", lambda _self, archive, lock: found.append((archive, lock)))
    return found


@pytest.mark.parametrize(
    "archive, check, changed, installed, calls",
    [
        # Without an archive it only tells.
        (None, False, False, False, []),
        (None, True, True, False, []),
        ("/a.tar", True, True, False, []),
        ("/a.tar", False, True, True, [("/a.tar", "requirements.lock")]),
    ],
)
def test_what_is_not_installed(
    run_module: Any,
    tmp_path: Path,
    installs: Any,
    archive: str | None,
    check: bool,
    changed: bool,
    installed: bool,
    calls: Any,
) -> None:
    given = {
        "directory": str(tmp_path / "opt"),
        "digest": DIGEST,
        **({"archive": archive} if archive else {}),
    }
    result = run_module("runtime_environment", check=check, **given)
    assert (result["changed"], result["installed"], installs) == (changed, installed, calls)
    after = f"{DIGEST[:16]}\n" if changed else "absent\n"
    assert result["diff"] == {"before": "absent\n", "after": after}
    assert result["path"] == str(tmp_path / "opt/venv")
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize("check", [False, True])
def test_what_is_installed_is_left_alone(run_module: Any, tmp_path: Path, installs: Any, check: bool) -> None:
    (tmp_path / DIGEST[:16]).mkdir()
    (tmp_path / DIGEST[:16] / COMPLETE).touch()
    (tmp_path / "venv").symlink_to(DIGEST[:16])
    given = {"directory": str(tmp_path), "digest": DIGEST, "archive": "/a.tar"}
    result = run_module("runtime_environment", check=check, **given)
    assert (result["changed"], result["installed"], installs) == (False, True, [])


@pytest.mark.parametrize("error", [EnvironmentFailure("pip failed"), OSError(28, "No space left on device")])
def test_a_failure_is_said(
    run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(_self: Any, _archive: str, _lock: str) -> None:
        raise error

    monkeypatch.setattr(Environment, "install", failing)
    result = run_module("runtime_environment", directory=str(tmp_path), digest=DIGEST, archive="/a.tar")
    assert (result["failed"], result["msg"]) == (True, str(error))


def test_a_digest_that_is_none(run_module: Any, tmp_path: Path) -> None:
    result = run_module("runtime_environment", directory=str(tmp_path), digest="../../etc")
    assert "must be a SHA-256" in result["msg"]

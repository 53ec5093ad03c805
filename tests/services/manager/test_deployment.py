# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible makes before a manager starts: the users file and the principal."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import Any

import pytest

from trusted_infrastructure.manager.deployment import (
    EnsurePrincipal,
    EnsureUsers,
    WantedUser,
    ensure_principal,
    ensure_users,
)
from trusted_infrastructure.manager.principal import load
from trusted_infrastructure.manager.users import Users, verify
from trusted_infrastructure.refusal import InvalidField, Refusal

OWNER = getpass.getuser()


def wanted(path: Path, **changes: Any) -> EnsureUsers:
    """One user."""
    user = {"name": "administrator", "privileges": ["*"], "password": "secret", **changes}
    return EnsureUsers(str(path), OWNER, [WantedUser(**user)])


def test_the_users_file_is_written_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    assert ensure_users(wanted(path), check=True)["changed"] is True
    assert not path.exists()
    assert ensure_users(wanted(path), check=False)["changed"] is True
    before = path.read_bytes()
    assert b"secret" not in before
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_users(wanted(path), check=False)["changed"] is False
    assert path.read_bytes() == before
    user = Users(path).get("administrator")
    assert user is not None and verify(user.password, "secret")


@pytest.mark.parametrize(
    "change", [{"password": "other"}, {"privileges": ["System.View"]}, {"cluster": "one"}, {"groups": []}]
)
def test_changes_are_written(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "users.json"
    ensure_users(wanted(path), check=False)
    assert ensure_users(wanted(path, **change), check=False)["changed"] is True


@pytest.mark.parametrize("change", [{"password": ""}, {"password": None}, {"password_hash": "x"}])
def test_a_user_has_exactly_one_password(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="administrator"):
        ensure_users(wanted(tmp_path / "users.json", **change), check=False)


def test_the_principal_is_made_once(tmp_path: Path) -> None:
    request = EnsurePrincipal(str(tmp_path), OWNER, "workload-manager")
    assert ensure_principal(request, int(time.time()), check=True) == {"changed": True}
    assert list(tmp_path.iterdir()) == []
    assert ensure_principal(request, int(time.time()), check=False) == {"changed": True}
    assert (tmp_path / "principal.key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "principal.pem").read_bytes()
    assert ensure_principal(request, int(time.time()), check=False) == {"changed": False}
    assert (tmp_path / "principal.pem").read_bytes() == before
    principal = load("https://workload-manager/", tmp_path / "principal.pem", tmp_path / "principal.key")
    assert len(principal.certificates) == 1


def test_a_principal_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
        ensure_principal(EnsurePrincipal(str(directory), OWNER, "x"), int(time.time()), check=False)
    for certificate, key in [
        (one / "principal.pem", other / "principal.key"),
        (one / "principal.key", one / "principal.key"),
        (one / "principal.pem", one / "principal.pem"),
        (one / "missing", one / "principal.key"),
    ]:
        with pytest.raises(Refusal) as refused:
            load("https://x/", certificate, key)
        assert "BEGIN" not in str(refused.value)

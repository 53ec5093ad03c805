# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging in, sessions and their end."""

from __future__ import annotations

import sqlite3

import pytest
from services.manager.harness import write_users


def test_login_gives_a_session_and_logout_ends_it(api, tmp_path) -> None:
    info = api.ok("GET", "/session")
    assert info["user"] == "administrator"
    assert info["created_time"].endswith("Z")
    assert api.request("DELETE", "/session").status_code == 204
    assert api.request("GET", "/session").status_code == 401


def test_wrong_password_is_401_in_the_vsphere_form(api) -> None:
    response = api.login(password="wrong")
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic")
    body = response.json()
    assert body["error_type"] == "UNAUTHENTICATED"
    assert body["messages"][0]["id"] == "trusted.infrastructure.wrong_credentials"
    assert body["data"] == {}


@pytest.mark.parametrize("header", ["Bearer abc", "Basic !!!", "Basic bm9jb2xvbg==", "Basic"])
def test_other_credentials_are_401(api, header) -> None:
    assert api.request("POST", "/session", headers={"authorization": header}).status_code == 401


def test_login_without_credentials_is_401(api) -> None:
    assert api.request("POST", "/session").status_code == 401


def test_guessing_is_slowed_down_per_user_and_address(api, clock) -> None:
    for _attempt in range(5):
        assert api.login(password="wrong").json()["messages"][0]["id"].endswith("wrong_credentials")
    blocked = api.login()
    assert blocked.status_code == 401
    assert blocked.json()["messages"][0]["id"] == "trusted.infrastructure.rate_limited"
    assert api.login(address="192.0.2.2").status_code == 201
    clock.now += 61
    assert api.login().status_code == 201


def test_idle_sessions_expire_and_used_ones_live_on(api, clock) -> None:
    for _step in range(4):
        clock.now += 1500
        assert api.request("GET", "/session").status_code == 200
    clock.now += 1801
    response = api.request("GET", "/session")
    assert response.status_code == 401
    assert response.json()["messages"][0]["id"] == "trusted.infrastructure.session_expired"


def test_sessions_end_after_a_day(api, clock) -> None:
    for _step in range(47):
        clock.now += 1790
        assert api.request("GET", "/session").status_code == 200
    clock.now += 2600 - 1790 + 1790
    assert api.request("GET", "/session").status_code == 401


def test_a_session_ends_with_its_user_and_his_password(api, tmp_path) -> None:
    write_users(tmp_path / "users.json", [{"name": "administrator", "privileges": ["*"]}])
    assert api.request("GET", "/session").status_code == 401


def test_an_unreadable_users_file_lets_nobody_in(api, tmp_path) -> None:
    (tmp_path / "users.json").write_text("{}")
    response = api.login()
    assert response.status_code == 503
    assert response.json()["error_type"] == "SERVICE_UNAVAILABLE"


def test_the_database_holds_no_session_id_and_is_private(api, tmp_path) -> None:
    path = tmp_path / "manager.db"
    assert path.stat().st_mode & 0o777 == 0o600
    stored = sqlite3.connect(path).execute("SELECT * FROM sessions").fetchall()
    assert stored
    assert api.session not in str(stored)


def test_passwords_are_not_in_the_audit_log(api, tmp_path) -> None:
    api.login(password="a secret guess")
    text = (tmp_path / "audit.log").read_text()
    assert "wrong_credentials" in text
    assert "a secret guess" not in text

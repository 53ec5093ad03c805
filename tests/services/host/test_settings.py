# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trusted_infrastructure.host.service import Settings, build, event_log_path, read_event_log
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.settings import load_settings
from trusted_infrastructure.tpm.event_log import MAXIMUM_SIZE

PLAIN: dict[str, Any] = {
    "host": "host1",
    "side_ca": "/etc/trusted-infrastructure/tls/side_ca.pem",
    "snapshot": "/run/trusted-infrastructure/config/snapshot.json",
    "anchors_directory": "/etc/trusted-infrastructure/anchors",
    "state_directory": "/var/lib/trusted-infrastructure/agent",
    "run_directory": "/run/trusted-infrastructure/agent",
    "tcti": "device:/dev/tpmrm0",
    "event_log": "$CREDENTIALS_DIRECTORY/event_log",
}


def settings(tmp_path: Path, **changes: Any) -> Settings:
    content = {name: value for name, value in (PLAIN | changes).items() if value is not ...}
    (tmp_path / "agent.json").write_text(json.dumps(content))
    return load_settings(tmp_path / "agent.json", Settings)


def test_plain_settings(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    assert (loaded.endorsement_key, loaded.hpke_suite) == ("RSA_2048", "MLKEM768_X25519")


BAD = {
    "an unknown field": {"ek": "x"},
    "no host": {"host": ...},
    "an empty host": {"host": ""},
    "an unknown endorsement key": {"endorsement_key": "RSA_1024"},
    "a relative state directory": {"state_directory": "state"},
    "a number": {"tcti": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refusal, match="settings_invalid"):
        settings(tmp_path, **BAD[name])


def test_an_unknown_suite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x")
    with pytest.raises(InvalidField, match="hpke_suite"):
        build(settings(tmp_path, event_log=str(tmp_path / "log"), hpke_suite="ROT13"))


def test_a_credential_is_found_where_systemd_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert event_log_path("$CREDENTIALS_DIRECTORY/event_log") == tmp_path / "event_log"
    assert event_log_path("/sys/log") == Path("/sys/log")


@pytest.mark.parametrize("setting", ["$CREDENTIALS_DIRECTORY/event_log", "event_log", "$HOME/log", "./log"])
def test_other_paths_are_refused(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(InvalidField, match="event_log"):
        event_log_path(setting)


def test_a_log_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert read_event_log(tmp_path / "missing") == b""
    assert read_event_log(tmp_path) == b""
    (tmp_path / "large").write_bytes(bytes(MAXIMUM_SIZE + 1))
    assert read_event_log(tmp_path / "large") == b""
    (tmp_path / "log").write_bytes(b"log")
    assert read_event_log(tmp_path / "log") == b"log"

# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings files: what is wrong is named, with the file and the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.settings import ServiceSettings, group_id, load_settings


class Settings(ServiceSettings, frozen=True):
    state: Path
    port: int = 443


GOOD = b'{"state":"/var/lib/x"}'
BAD = {
    "missing field": (b"{}", "state"),
    "relative path": (b'{"state":"var"}', "state"),
    "path of a wrong type": (b'{"state":7}', "state"),
    "wrong type": (b'{"state":"/x","port":"443"}', "port"),
    "unknown field": (b'{"state":"/x","prot":443}', "prot"),
    "wrong level": (b'{"state":"/x","log_level":"trace"}', "log_level"),
    "lock_memory as text": (b'{"state":"/x","lock_memory":"no"}', "lock_memory"),
    "a list": (b"[]", "settings"),
    "no JSON": (b"state: /x", "not JSON"),
    "not UTF-8": (b'{"state":"/\xff"}', "not JSON"),
    "empty": (b"", "not JSON"),
}


@pytest.mark.parametrize(("content", "named"), BAD.values(), ids=BAD.keys())
def test_bad_settings_are_named(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "service.json"
    path.write_bytes(content)
    with pytest.raises(Refusal) as refused:
        load_settings(path, Settings)
    assert refused.value.code == "settings_invalid"
    assert str(path) in refused.value.message
    assert named in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="No such file"):
        load_settings(tmp_path / "none.json", Settings)


def test_defaults_are_the_strict_ones(tmp_path: Path) -> None:
    path = tmp_path / "service.json"
    path.write_bytes(GOOD)
    settings = load_settings(path, Settings)
    assert settings.state == Path("/var/lib/x")
    assert settings.lock_memory is True
    assert settings.allowed_users == ["root", "www-data"]


def test_groups_are_looked_up_by_name() -> None:
    assert group_id(None) is None
    assert group_id("root") == 0
    with pytest.raises(InvalidField, match="no-such-group"):
        group_id("no-such-group")


def test_deep_json_is_a_refusal() -> None:
    with pytest.raises(InvalidField, match="nested too deeply"):
        decode_json(b"[" * 100_000, list)

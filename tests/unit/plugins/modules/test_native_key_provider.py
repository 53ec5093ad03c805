# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    File,
    NotWhole,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.native_key_providers import wants_backup
from ansible_collections.trusted.infrastructure.plugins.modules import native_key_provider_backup
from ansible_collections.trusted.infrastructure.plugins.modules.native_key_provider import plan
from ansible_collections.trusted.infrastructure.plugins.modules.native_key_provider_restore import (
    plan as restored,
)
from ansible_collections.trusted.infrastructure.plugins.modules.pcr_policy import Found
from ansible_collections.trusted.infrastructure.plugins.modules.pcr_policy import plan as signed

PROVIDERS = "/vcenter/crypto-manager/kms/providers"
KEY = "0c0ffee0-1111-2222-3333-444455556666"
OTHER = "0c0ffee0-aaaa-bbbb-cccc-ddddeeeeffff"
ONE = {"provider": "branch", "key_id": KEY, "tpm_required": False}
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OWN = "trusted.infrastructure"
DELETE = Call("DELETE", f"{PROVIDERS}/branch")


def wanted(**given: Any) -> dict[str, Any]:
    unset = {"key_id": None, "key_derivation_key": None, "tpm_required": None, "state": "present"}
    return {"name": "branch", **unset, **given}


def created(native: dict[str, Any], **more: Any) -> tuple[Call, ...]:
    return (Call("POST", PROVIDERS, {"provider": "branch", "native_spec": native, **more}),)


def updated(key_id: str) -> tuple[Call, ...]:
    return (Call("PATCH", f"{PROVIDERS}/branch", {"native_spec": {"key_id": key_id}}),)


@pytest.mark.parametrize(
    "current, given, after, calls",
    [
        (None, {"state": "absent"}, None, ()),
        (ONE, {"state": "absent"}, None, (DELETE,)),
        (ONE, {}, ONE, ()),
        (ONE, {"key_id": KEY.upper()}, ONE, ()),
        (ONE, {"tpm_required": False}, ONE, ()),
        (ONE, {"key_derivation_key": SECRET}, ONE, ()),
        (ONE, {"key_id": OTHER}, {**ONE, "key_id": OTHER}, updated(OTHER)),
        (None, {}, {**ONE, "key_id": "<new>"}, created({})),
        (
            None,
            {"key_id": KEY, "key_derivation_key": SECRET},
            ONE,
            created({"key_id": KEY, "key_derivation_key": SECRET}),
        ),
        (
            None,
            {"tpm_required": True},
            {**ONE, "key_id": "<new>", "tpm_required": True},
            created({}, constraints={"tpm_required": True}),
        ),
    ],
)
def test_plan(current: Any, given: dict[str, Any], after: Any, calls: Any) -> None:
    planned = plan(current, wanted(**given))
    assert (planned.before, planned.after, planned.calls) == (current, after, calls)


def test_constraints_are_not_changed() -> None:
    with pytest.raises(ApiError, match="cannot be changed"):
        plan(ONE, wanted(tpm_required=True))


def told(result: dict[str, Any]) -> str:
    """What check mode says of the manager's answer."""
    return result.get("msg", "") + "".join(map(str, result.get("warnings", [])))


NOWHERE = ApiError("HTTP status 404", "", 404)
TAKEN = [{"provider": "branch", "type": "STANDARD", "default": False}]
HELD = {"native_info": {"key_id": KEY}}
EARLIER = [{"key_id": KEY, "state": "CURRENT"}, {"key_id": OTHER, "state": "PREVIOUS"}]


@pytest.mark.parametrize(
    ("found", "given", "answers", "said"),
    [
        (None, {}, {"others": TAKEN}, "has a standard key provider 'branch'"),
        (None, {}, {"others": [{**TAKEN[0], "provider": "x"}]}, ""),
        (None, {"state": "absent"}, {"others": TAKEN}, ""),
        # A vCenter Server has neither list.
        (None, {}, {"others": NOWHERE}, ""),
        (HELD, {"key_id": OTHER}, {"keys": NOWHERE}, ""),
        (HELD, {"key_id": OTHER.upper()}, {"keys": EARLIER}, f"key_id: branch had the key {OTHER} before"),
        (HELD, {"key_id": OTHER}, {"keys": [EARLIER[0], {**EARLIER[1], "state": "KEPT"}]}, ""),
        (HELD, {"key_id": KEY}, {}, ""),
        (HELD, {}, {}, ""),
        (HELD, {"key_id": OTHER, "state": "absent"}, {}, ""),
        (HELD, {"key_id": OTHER}, {"keys": ApiError("it is ill", "SERVICE_UNAVAILABLE", 503)}, "it is ill"),
    ],
)
def test_check_mode_says_what_will_not_be(
    run_module: Any, client: Any, found: Any, given: Any, answers: Any, said: str
) -> None:
    fake = client(
        {
            ("GET", f"{PROVIDERS}/branch"): found or ApiError("no", "NOT_FOUND", 404),
            ("GET", "/trust/key-providers"): answers.get("others"),
            ("GET", "/trust/native-key-providers/branch/keys"): answers.get("keys"),
        }
    )
    result = run_module("native_key_provider", fake, check=True, name="branch", **given)
    assert (bool(told(result)), said in told(result), fake.changes) == (bool(said), True, [])
    assert result.get("failed", False) is (bool(said) and found is not None)


def test_the_key_shows_nowhere(run_module: Any, client: Any) -> None:
    fake = client(
        {
            ("GET", f"{PROVIDERS}/branch"): ApiError("no", "NOT_FOUND", 404),
            ("POST", PROVIDERS): ApiError(f"{SECRET} is bad", "INVALID_ARGUMENT", 400),
        }
    )
    result = run_module("native_key_provider", fake, name="branch", key_derivation_key=SECRET)
    assert result["failed"] is True
    assert SECRET not in result.output


def info(health: str, *ids: str) -> dict[str, Any]:
    return {"health": health, "details": [{"id": name, "default_message": "x"} for name in ids]}


@pytest.mark.parametrize(
    "found, wants",
    [
        (info("WARNING", f"{OWN}.native_not_backed_up"), True),
        (info("WARNING", f"{OWN}.native_not_backed_up_after_update"), True),
        (
            info("ERROR", "trusted.infrastructure.unreachable", f"{OWN}.native_not_backed_up"),
            True,
        ),
        (info("WARNING", f"{OWN}.tpm_unavailable"), False),
        (info("OK"), False),
        (info("WARNING"), True),
        (info("WARNING", "com.vmware.vcenter.something"), True),
        ({"health": "NONE"}, True),
    ],
)
def test_what_wants_a_backup(found: dict[str, Any], wants: bool) -> None:
    assert wants_backup(found) is wants


def offering(client: Any, content: Any = b"the file", health: str = "WARNING") -> Any:
    """A server with the provider "branch"."""
    location = {
        "url": "https://manager.example/api/trust/native-key-provider-backups/1",
        "download_token": {"token": "the-token", "expiry": ""},
    }
    fake = client(
        {
            ("GET", f"{PROVIDERS}/branch"): info(health),
            ("POST", PROVIDERS): {"type": "LOCATION", "location": location},
        }
    )

    def fetch(url: str, token: str) -> File:
        assert (url, token) == (location["url"], "the-token")
        if isinstance(content, Exception):
            raise content
        return File(bytes(content))

    fake.fetch = fetch
    return fake


def test_a_backup_is_private_from_its_first_byte(run_module: Any, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "branch.p12"
    path.write_text("an old one, open to everybody")
    path.chmod(0o666)
    fake = offering(client)
    given = {"name": "branch", "path": str(path), "backup_password": "a long password"}
    predicted = run_module("native_key_provider_backup", fake, check=True, **given)
    assert fake.changes == []
    result = run_module("native_key_provider_backup", fake, **given)
    assert (predicted["resource"], result["changed"]) == (result["resource"], True)
    assert result["resource"] == {"provider": "branch", "path": str(path), "encrypted": True}
    assert path.read_bytes() == b"the file"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["branch.p12"]
    assert fake.changes[0].body == {"provider": "branch", "password": "a long password"}
    for secret in ("a long password", "the-token", "the file"):
        assert secret not in result.output


@pytest.mark.parametrize("there", [False, True])
def test_what_the_disk_gives_back_is_what_counts(
    run_module: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """A disk that loses the end of a file."""
    path = tmp_path / "branch.p12"
    if there:
        path.write_text("an old one")
    monkeypatch.setattr(native_key_provider_backup.os, "fsync", lambda number: os.ftruncate(number, 3))
    result = run_module("native_key_provider_backup", offering(client), name="branch", path=str(path))
    assert (result["failed"], result["msg"]) == (
        True,
        "the file is not whole; run the module again with force",
    )
    assert [item.read_text() for item in tmp_path.iterdir()] == ["an old one"] * there


def test_what_is_backed_up_is_not_written_again(run_module: Any, client: Any, tmp_path: Path) -> None:
    given = {"name": "branch", "path": str(tmp_path / "branch.p12")}
    fake = offering(client, health="OK")
    result = run_module("native_key_provider_backup", fake, **given)
    assert (result["changed"], result["resource"], fake.changes) == (False, None, [])
    assert list(tmp_path.iterdir()) == []
    result = run_module("native_key_provider_backup", fake, force=True, **given)
    assert (result["changed"], result["resource"]["encrypted"]) == (True, False)
    assert fake.changes[0].body == {"provider": "branch"}


@pytest.mark.parametrize(
    "content, said",
    [
        (ApiError("the token has expired", "UNAUTHENTICATED", 401), "the token has expired"),
        (OSError(28, "No space left on device"), "No space left on device; if it was fetched already"),
        (NotWhole("the connection broke"), "the connection broke; run the module again with force"),
    ],
)
def test_a_download_that_fails_leaves_what_was_there(
    run_module: Any, client: Any, tmp_path: Path, content: Exception, said: str
) -> None:
    path = tmp_path / "branch.p12"
    path.write_text("an old one")
    fake = offering(client, content)
    result = run_module("native_key_provider_backup", fake, name="branch", path=str(path))
    assert (result["failed"], said in result["msg"]) == (True, True)
    assert path.read_text() == "an old one"
    assert [item.name for item in tmp_path.iterdir()] == ["branch.p12"]


@pytest.mark.parametrize("path", ["/nothing/there/branch.p12", "folder"])
def test_a_place_that_takes_no_file_is_said_before_anything_is_exported(
    run_module: Any, client: Any, tmp_path: Path, path: str
) -> None:
    (tmp_path / "folder").mkdir()
    fake = offering(client)
    result = run_module("native_key_provider_backup", fake, name="branch", path=str(tmp_path / path))
    assert (result["failed"], fake.changes) == (True, [])
    assert result["msg"].startswith("path: ")


def test_a_provider_that_is_not_there(run_module: Any, client: Any, tmp_path: Path) -> None:
    """In check mode, the same run may make it."""
    fake = client({("GET", f"{PROVIDERS}/branch"): ApiError("no", "NOT_FOUND", 404)})
    given = {"name": "branch", "path": str(tmp_path / "branch.p12")}
    assert run_module("native_key_provider_backup", fake, check=True, **given)["changed"] is True
    result = run_module("native_key_provider_backup", fake, **given)
    assert (result["failed"], result["error_type"]) == (True, "NOT_FOUND")


@pytest.mark.parametrize(
    "current, spec, calls",
    [
        (None, {"config": "x"}, (Call("POST", PROVIDERS, {"config": "x"}, query=(("action", "import"),)),)),
        (ONE, {"config": "x"}, ()),
        ({**ONE, "tpm_required": True}, {"config": "x"}, ()),
        (ONE, {"config": "x", "constraints": {"tpm_required": False}}, ()),
    ],
)
def test_restore(current: Any, spec: dict[str, Any], calls: Any) -> None:
    taken = ApiError("taken", "ALREADY_EXISTS", 400)
    planned = restored(ONE, current, taken, spec)
    assert (planned.calls, planned.hindered) == (calls, taken if calls else None)


def test_a_restore_over_another_provider_is_refused() -> None:
    with pytest.raises(ApiError, match="older backup"):
        restored(ONE, {**ONE, "key_id": OTHER}, None, {"config": "x"})
    changed = {"config": "x", "constraints": {"tpm_required": False}}
    with pytest.raises(ApiError, match="cannot be changed"):
        restored(ONE, {**ONE, "tpm_required": True}, None, changed)


def test_a_file_that_is_no_backup(run_module: Any, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(65537))
    for given, said in ((str(path), "more than 65536 bytes"), (str(tmp_path / "nothing"), "No such file")):
        result = run_module("native_key_provider_restore", client({}), path=given)
        assert (result["failed"], said in result["msg"]) == (True, True)


POLICIES = "/trust/clusters/domain-c1/pcr-policies"
POLICY = {"name": "1", "bank": "sha256", "pcrs": {"4": "11"}, "current_key": True}
SIGN = (Call("POST", POLICIES, {"name": "1", "base_image": {"a": 1}}, task=True),)


@pytest.mark.parametrize(
    "current, covers, calls",
    [
        (None, None, ()),
        (POLICY, None, (Call("DELETE", f"{POLICIES}/1", task=True),)),
        (POLICY, POLICY, ()),
        (None, POLICY, SIGN),
    ],
)
def test_pcr_policies(current: Any, covers: Any, calls: Any) -> None:
    assert signed(Found(POLICIES, current, covers), "1", {"a": 1}).calls == calls


def test_a_policy_of_another_key_or_cluster_is_signed_anew() -> None:
    of_another = {**POLICY, "current_key": False}
    planned = signed(Found(POLICIES, of_another, POLICY), "1", {"a": 1})
    assert (planned.calls, planned.before, planned.after) == (SIGN, of_another, POLICY)


def test_a_policy_never_changes() -> None:
    with pytest.raises(ApiError, match="another name"):
        signed(Found(POLICIES, POLICY, {**POLICY, "pcrs": {"4": "22"}}), "1", {})


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
def test_a_file_that_is_no_image(run_module: Any, client: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    given = {"cluster": "one", "name": "1", "path": str(tmp_path / "image")}
    result = run_module("pcr_policy", client({}), **given)
    assert (result["failed"], "is not a base image document" in result["msg"]) == (True, True)


KEYS = "/trust/native-key-providers/the%20branch/keys"
ROWS = [
    {"key_id": KEY, "state": "CURRENT", "hosts": [], "unknown": []},
    {"key_id": "a/b", "state": "KEPT", "hosts": [{"host": "host1", "keys": 0}], "unknown": []},
]
USED = {"hosts": [{"host": "host1", "keys": 0}, {"host": "host2", "keys": 3}], "unknown": ["host3"]}


def test_an_earlier_key_is_removed(run_module: Any, client: Any) -> None:
    one = ("DELETE", f"{KEYS}/a%2Fb")
    given = {"provider": "the branch", "key_id": "a/b"}
    for check, sent in ((True, []), (False, [Call(*one)])):
        fake = client({("GET", KEYS): ROWS, one: None})
        result = run_module("native_key_provider_key", fake, check=check, **given)
        assert (result["changed"], result["diff"]) == (True, {"before": ROWS[1], "after": {}})
        assert fake.changes == sent
    fake = client({("GET", KEYS): ROWS, one: None})
    run_module("native_key_provider_key", fake, **given, force=True)
    assert fake.changes == [Call(*one, query=(("force", "true"),))]
    fake = client({("GET", KEYS): ROWS[:1]})
    assert run_module("native_key_provider_key", fake, **given, force=True)["changed"] is False


@pytest.mark.parametrize(
    ("seen", "force", "said"),
    [
        ({"state": "CURRENT"}, False, "a/b is the current key"),
        ({"state": "CURRENT"}, True, "a/b is the current key"),
        (USED, False, "are still under a/b (host2: 3)"),
        ({**USED, "state": "PREVIOUS"}, False, "are still under a/b (host2: 3)"),
        ({"unknown": ["host3", "host4"]}, False, "may keep some under a/b: host3, host4"),
        (USED, True, ""),
        ({"unknown": ["host3"]}, True, ""),
    ],
)
def test_check_mode_says_which_key_stays(
    run_module: Any, client: Any, seen: dict[str, Any], force: bool, said: str
) -> None:
    fake = client({("GET", KEYS): [ROWS[0], {**ROWS[1], **seen}]})
    given = {"provider": "the branch", "key_id": "a/b", "force": force}
    result = run_module("native_key_provider_key", fake, check=True, **given)
    assert (result["changed"], fake.changes) == (True, [])
    assert (bool(told(result)), said in told(result)) == (bool(said), True)


@pytest.mark.parametrize("given", [{"key_id": "a/b", "state": "present"}, {}])
def test_what_is_no_removal_of_a_key_is_refused(run_module: Any, client: Any, given: dict[str, Any]) -> None:
    fake = client({("GET", KEYS): ROWS})
    result = run_module("native_key_provider_key", fake, provider="the branch", **given)
    assert (result["failed"], fake.calls) == (True, [])


def test_keys_of_a_provider_that_is_not_there(run_module: Any, client: Any) -> None:
    """To remove a key of it is an error: the name may be misspelt."""
    fake = client({("GET", KEYS): ApiError("no such provider", "NOT_FOUND", 404)})
    result = run_module("native_key_provider_key", fake, provider="the branch", key_id="a")
    assert (result["failed"], result["error_type"]) == (True, "NOT_FOUND")
    result = run_module("native_key_provider_keys_info", fake, provider="the branch")
    assert (result["native_keys"], "no such provider" in str(result["warnings"])) == ([], True)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Native key providers and PCR policies: see scenarios.py."""

from __future__ import annotations

import json
import stat
from email.message import Message
from typing import Any

from contract.managed_site import Site
from services.manager.test_pcr_policies import GOOD, image, pinned

KEY, OTHER = "0c0ffee0-1111-2222-3333-444455556666", "0c0ffee0-aaaa-bbbb-cccc-ddddeeeeffff"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PASSWORD = "a long password of a file"


def native_providers(site: Site) -> None:
    """Made, backed up, given a new key, lost and restored."""
    one = {"name": "branch", "key_id": KEY, "key_derivation_key": SECRET, "tpm_required": True}
    assert "key_id: must be a UUID" in site.refused("native_key_provider", name="branch", key_id="1")
    bad = {"name": "branch", "key_derivation_key": "x"}
    assert "key_derivation_key: is not base64" in site.refused("native_key_provider", **bad)
    assert "name (spec.provider): must not contain" in site.refused("native_key_provider", name="a/b")
    site.converges("native_key_provider", **one)
    assert "cannot be changed" in site.refused("native_key_provider", name="branch", tpm_required=False)
    (row,) = site.ok("native_key_provider_info")["native_key_providers"]
    assert (row["health"], row["details"][0]["id"]) == (
        "WARNING",
        "trusted.infrastructure.native_not_backed_up",
    )
    backed_up(site)
    site.converges("native_key_provider", name="branch", key_id=OTHER)
    backed_up(site)
    earlier_keys(site)
    broken_on_the_way(site)
    restored(site)
    site.converges("native_key_provider", name="branch", state="absent")
    assert site.ok("native_key_provider_info", names=["branch"])["native_key_providers"] == []


def backed_up(site: Site) -> None:
    """Written once; predicted, and private."""
    path = site.directory / "branch.p12"
    wanted: dict[str, Any] = {"name": "branch", "path": str(path), "backup_password": PASSWORD}
    site.door.changes()
    predicted = site.ok("native_key_provider_backup", check=True, **wanted)
    assert (predicted["changed"], site.door.changes()) == (True, [])
    result = site.ok("native_key_provider_backup", **wanted)
    assert (result["changed"], result["resource"]) == (True, predicted["resource"])
    assert site.door.changes() == ["export", "download"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in str(result)
    for check in (False, True):
        assert site.ok("native_key_provider_backup", check=check, **wanted)["changed"] is False
    assert site.door.changes() == []


def earlier_keys(site: Site) -> None:
    """The one before is removed; hosts have to answer, unless it is by force. The provider is not well here
    on its one host, which has an agent of another release."""
    one = {"provider": "branch", "key_id": KEY}
    rows = site.ok("native_key_provider_keys_info", provider="branch")["native_keys"]
    assert [(row["key_id"], row["state"]) for row in rows] == [(OTHER, "CURRENT"), (KEY, "PREVIOUS")]
    messages = site.foreseen("native_key_provider", name="branch", key_id=KEY)
    assert all("before" in message and "key_id" in message for message in messages)
    for force in (False, True):
        messages = site.warned("native_key_provider_key", provider="branch", key_id=OTHER, force=force)
        assert all("current key" in message for message in messages)
    site.converges("cluster", name="trusted")
    site.converges("cluster_host", cluster="trusted", name="host1", ek_digest="ab" * 32, scope="department")
    assert all("host1" in message for message in site.warned("native_key_provider_key", **one))
    kept = {"key_id": "a", "object_id": "vm-1", "component": "", "name": "", "provider": "branch"}
    kept |= {"type": "NATIVE", "kek_id": "k", "primary_key_id": KEY, "created": 1}
    asked = ("GET", "/agent/manage/v1/keys?after=&limit=1000")
    states = ("GET", "/agent/manage/v1/native-providers")
    site.api.nodes.answers |= {states: lambda _host: {"providers": []}, asked: lambda _host: {"keys": [kept]}}
    messages = site.warned("native_key_provider_key", **one)
    assert all("host1: 1" in message for message in messages)
    del site.api.nodes.answers[asked], site.api.nodes.answers[states]
    site.converges("native_key_provider_key", **one, force=True)
    rows = site.ok("native_key_provider_keys_info", provider="branch")["native_keys"]
    assert [row["key_id"] for row in rows] == [OTHER]
    assert "branc" in site.refused("native_key_provider_key", provider="branc", key_id=KEY)
    site.converges("cluster_host", cluster="trusted", name="host1", state="absent")


def cut(content: bytes, _headers: Message) -> bytes:
    return content[:-1]


def cut_without_digest(content: bytes, headers: Message) -> bytes:
    del headers["repr-digest"]
    return content[:-1]


def cut_without_length(content: bytes, headers: Message) -> bytes:
    del headers["content-length"]
    return content[:-1]


def changed(content: bytes, _headers: Message) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def wrong_digest(content: bytes, headers: Message) -> bytes:
    headers.replace_header("repr-digest", headers["repr-digest"].swapcase().replace("SHA", "sha"))
    return content


def without_digest(content: bytes, headers: Message) -> bytes:
    """As from a vCenter Server."""
    del headers["repr-digest"]
    return content


def broken_on_the_way(site: Site) -> None:
    """A file that is not whole takes the place of none, although the manager counts it."""
    path = site.directory / "branch.p12"
    good = path.read_bytes()
    here = sorted(item.name for item in site.directory.iterdir())
    wanted: dict[str, Any] = {"name": "branch", "path": str(path), "backup_password": PASSWORD}
    for damage in (cut, cut_without_digest, cut_without_length, changed, wrong_digest):
        site.door.carry = damage
        message = site.refused("native_key_provider_backup", force=True, **wanted)
        assert message == "the file is not whole; run the module again with force"
        assert path.read_bytes() == good
        assert sorted(item.name for item in site.directory.iterdir()) == here
        assert site.ok("native_key_provider_backup", **wanted)["changed"] is False
    site.door.carry = without_digest
    assert site.ok("native_key_provider_backup", force=True, **wanted)["changed"] is True
    assert path.read_bytes() != good


def restored(site: Site) -> None:
    """From the file of `backed_up`, into a manager without the provider."""
    path = str(site.directory / "branch.p12")
    wanted: dict[str, Any] = {"path": path, "backup_password": PASSWORD}
    held = {"provider": "branch", "key_id": OTHER, "tpm_required": True}
    found = site.ok("native_key_provider_restore", **wanted)
    assert (found["changed"], found["resource"]) == (False, held)
    message = site.refused("native_key_provider_restore", **wanted, tpm_required=False)
    assert "cannot be changed" in message
    site.converges("native_key_provider", name="branch", state="absent")
    assert "backup_password (spec.password): is needed" in site.refused(
        "native_key_provider_restore", path=path
    )
    site.converges("trusted_key_provider", name="branch", group="group-1")
    taken = "a trusted key provider 'branch'"
    assert taken in str(site.ok("native_key_provider_restore", check=True, **wanted)["warnings"])
    assert taken in site.refused("native_key_provider_restore", **wanted)
    site.converges("trusted_key_provider", name="branch", state="absent")
    predicted = site.ok("native_key_provider_restore", check=True, **wanted)
    assert (predicted["changed"], predicted["resource"]) == (True, held)
    assert site.ok("native_key_provider_info")["native_key_providers"] == []
    assert site.ok("native_key_provider_restore", **wanted)["resource"] == held
    assert site.ok("native_key_provider_restore", **wanted)["changed"] is False
    # A new key here, and an old backup.
    site.converges("native_key_provider", name="branch", key_id=KEY.replace("0c0f", "1c0f"))
    assert "older backup" in site.refused("native_key_provider_restore", **wanted)


def pcr_policies(site: Site) -> None:
    site.converges("cluster", name="trusted")
    site.converges("cluster_host", cluster="trusted", name="host1", ek_digest="ab" * 32, scope="department")
    for name, content in (("1", GOOD), ("2", image(p11=pinned("22" * 32))), ("weak", image())):
        (site.directory / name).write_text(json.dumps(content))

    def of(name: str) -> dict[str, str]:
        return {"cluster": "trusted", "name": name, "path": str(site.directory / name)}

    site.converges("pcr_policy", **of("1"))
    site.converges("pcr_policy", **of("2"))
    assert "path (spec.base_image" in site.refused("pcr_policy", **of("weak"))
    assert "another name" in site.refused("pcr_policy", **{**of("1"), "path": of("2")["path"]})
    assert site.api.nodes.content("host1", "pcr_policy", "2") is not None
    site.converges("pcr_policy", cluster="trusted", name="1", state="absent")
    # How a provider is on a host: this one has an agent of another release, which does not know of any.
    site.converges("native_key_provider", name="edge")
    site.ok("native_key_provider_backup", name="edge", path=str(site.directory / "edge.p12"))
    (row,) = site.ok("native_key_provider_info", host="host1")["native_key_providers"]
    assert (row["provider"], row["health"]) == ("edge", "ERROR")

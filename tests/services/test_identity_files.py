# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and leaves as files: what ensure, sign and install refuse, and that a second run changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.identity import load_certificate, load_key
from trusted_infrastructure.identity.authority import (
    EnsureAuthority,
    SignRequests,
    ensure_authority,
    sign_requests,
)
from trusted_infrastructure.identity.files import (
    EnsureLeaves,
    InstallLeaves,
    WantedLeaf,
    certificate_expiries,
    ensure_leaves,
    install_leaves,
    place_file,
)
from trusted_infrastructure.refusal import InvalidField, Refusal

DAY = 86400
SERVER: dict[str, Any] = {
    "name": "server",
    "role": "server",
    "host": "ta1",
    "side": "trust_authority",
    "dns": ["ta1"],
    "ips": ["10.0.0.1"],
    "owner": pwd.getpwuid(os.getuid()).pw_name,
    "group": grp.getgrgid(os.getgid()).gr_name,
}
AGENT = {**SERVER, "name": "agent", "role": "agent", "dns": [], "ips": []}


class Machine:
    """A host's TLS directory and its side's CA directory."""

    def __init__(self, directory: Path) -> None:
        self.tls, self.ca = directory / "tls", directory / "ca"
        self.tls.mkdir()
        self.ca.mkdir()
        self.wanted = [SERVER, AGENT]
        self.make_authority()

    def make_authority(self, **more: Any) -> dict[str, Any]:
        fields = {"directory": str(self.ca), "side": "trust_authority", "common_name": "CA", **more}
        return ensure_authority(msgspec.convert(fields, EnsureAuthority), NOW)

    def ensure(self, now: int = NOW, *, check: bool = False) -> dict[str, Any]:
        fields = {"directory": str(self.tls), "leaves": self.wanted}
        return ensure_leaves(msgspec.convert(fields, EnsureLeaves), now, check=check)

    def sign(self, requests: list[dict[str, Any]], now: int = NOW) -> dict[str, Any]:
        return sign_requests(
            msgspec.convert({"directory": str(self.ca), "requests": requests}, SignRequests), now
        )

    def install(self, signed: dict[str, Any], now: int = NOW, *, check: bool = False) -> dict[str, Any]:
        fields = {
            "directory": str(self.tls),
            "certificates": signed["certificates"],
            "side_ca": signed["side_ca"],
        }
        return install_leaves(msgspec.convert(fields, InstallLeaves), now, check=check)

    def converge(self, now: int = NOW) -> bool:
        """One run of site.yml: whether anything changed."""
        ensured = self.ensure(now)
        installed = self.install(self.sign(ensured["requests"], now), now)
        return bool(ensured["changed"] or installed["changed"])

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.tls.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_run_makes_everything_and_the_next_changes_nothing(machine: Machine) -> None:
    assert machine.converge()
    assert set(machine.files()) == {"server.key", "server.pem", "agent.key", "agent.pem", "side_ca.pem"}
    before = machine.files()
    assert not machine.converge(NOW + 10 * DAY)
    assert machine.files() == before
    assert [item["name"] for item in machine.ensure()["valid"]] == ["server", "agent"]


def test_keys_are_private_and_certificates_public(machine: Machine) -> None:
    before = os.umask(0)
    try:
        machine.converge()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in machine.tls.iterdir()}
    assert {name: mode for name, mode in modes.items() if name.endswith(".key")} == {
        "server.key": 0o600,
        "agent.key": 0o600,
    }
    assert {mode for name, mode in modes.items() if name.endswith(".pem")} == {0o644}
    assert stat.S_IMODE((machine.ca / "ca.key").stat().st_mode) == 0o600


def test_between_request_and_installation_the_key_stays(machine: Machine) -> None:
    first, second = machine.ensure(), machine.ensure()
    assert (first["changed"], second["changed"]) == (True, False)
    assert [item["reason"] for item in second["requests"]] == ["missing", "missing"]
    keys = machine.files()
    machine.install(machine.sign(first["requests"]))
    assert machine.files()["server.key"] == keys["server.key"]


def test_check_mode_says_what_would_change_and_writes_nothing(machine: Machine) -> None:
    answer = machine.ensure(check=True)
    assert answer["changed"]
    assert [(item["csr"], item["reason"]) for item in answer["requests"]] == [(None, "missing")] * 2
    assert machine.files() == {}
    signed = machine.sign(machine.ensure()["requests"])
    before = machine.files()
    assert machine.install(signed, check=True)["changed"]
    assert machine.files() == before


def _rename(machine: Machine) -> int:
    machine.wanted = [{**SERVER, "dns": ["ta1", "ta1.example.org"]}, AGENT]
    return NOW


def _readdress(machine: Machine) -> int:
    machine.wanted = [{**SERVER, "ips": ["10.0.0.2"]}, AGENT]
    return NOW


def _new_key(machine: Machine) -> int:
    (machine.tls / "server.key").unlink()
    return NOW


def _spoil(machine: Machine) -> int:
    (machine.tls / "server.pem").write_text("hello")
    return NOW


def _new_authority(machine: Machine) -> int:
    for path in machine.ca.iterdir():
        path.unlink()
    machine.wanted = [SERVER]
    (machine.tls / "side_ca.pem").write_text(machine.make_authority()["certificate"])
    return NOW


def _age(_machine: Machine) -> int:
    return NOW + 60 * DAY


REASONS = {
    "other_names": _rename,
    "other_names ": _readdress,
    "other_key": _new_key,
    "missing": _spoil,
    "other_authority": _new_authority,
    "renewal": _age,
}


@pytest.mark.parametrize(
    ("reason", "change"), REASONS.items(), ids=lambda item: getattr(item, "__name__", item)
)
def test_a_leaf_is_signed_again_when_it_must_be_and_only_then(
    machine: Machine, reason: str, change: Any
) -> None:
    machine.converge()
    now = change(machine)
    reasons = {item["name"]: item["reason"] for item in machine.ensure(now)["requests"]}
    assert reasons["server"] == reason.strip()
    assert machine.converge(now)
    assert not machine.converge(now)


def test_wrong_modes_are_put_right(machine: Machine) -> None:
    machine.converge()
    key = machine.tls / "server.key"
    content = key.read_bytes()
    key.chmod(0o644)
    assert machine.ensure(check=True)["changed"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o644
    assert machine.ensure()["changed"]
    assert (stat.S_IMODE(key.stat().st_mode), key.read_bytes()) == (0o600, content)


def test_leftovers_of_a_killed_run_are_removed(machine: Machine) -> None:
    leftover = machine.tls / ".server.key.0123456789abcdef"
    leftover.write_text("half a key")
    machine.ensure(check=True)
    assert leftover.exists()
    machine.ensure()
    assert not leftover.exists()


WANTED = {
    "unknown role": ({"role": "root"}, "role"),
    "bad host": ({"host": "a b"}, "host"),
    "bad address": ({"ips": ["ta1"]}, "ips"),
    "bad DNS name": ({"dns": ["a b"]}, "dns"),
    "unknown user": ({"owner": "no-such-user"}, "leaves[server]"),
    "unknown group": ({"group": "no-such-group"}, "leaves[server]"),
}


@pytest.mark.parametrize(("change", "field"), WANTED.values(), ids=WANTED.keys())
def test_wrong_wishes_are_named(machine: Machine, change: dict[str, Any], field: str) -> None:
    machine.wanted = [{**SERVER, **change}]
    with pytest.raises(InvalidField) as refused:
        machine.ensure()
    assert refused.value.field == field


@pytest.mark.parametrize("name", ["../server", "a/b", "", "Server", "a\n", ".hidden", "a" * 65])
def test_names_cannot_leave_the_directory(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.convert({**SERVER, "name": name}, WantedLeaf)


def test_two_leaves_of_one_name_are_refused(machine: Machine) -> None:
    machine.wanted = [SERVER, {**AGENT, "name": "server"}]
    with pytest.raises(InvalidField, match="same name"):
        machine.ensure()


@pytest.mark.parametrize("directory", ["relative", "", "/no/such/directory"])
def test_the_directory_must_be_there(directory: str) -> None:
    with pytest.raises(InvalidField, match="directory"):
        ensure_leaves(EnsureLeaves(directory=directory, leaves=[]), NOW)


def test_a_key_file_that_is_no_key_is_not_overwritten(machine: Machine) -> None:
    (machine.tls / "server.key").write_text("important")
    with pytest.raises(Refusal, match=r"server\.key") as refused:
        machine.ensure()
    assert refused.value.remedy
    assert (machine.tls / "server.key").read_text() == "important"


def test_a_link_in_place_of_a_key_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(SideAuthority().key)
    (machine.tls / "server.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="not a regular file"):
        machine.ensure()


def _install_refused(
    machine: Machine, name: str, certificate: str, side_ca: str | None, now: int = NOW
) -> Refusal:
    before = machine.files()
    with pytest.raises(Refusal) as refused:
        machine.install(
            {"certificates": [{"name": name, "certificate": certificate}], "side_ca": side_ca}, now
        )
    assert machine.files() == before
    return refused.value


def test_leaves_that_do_not_fit_are_not_installed(machine: Machine) -> None:
    machine.ensure()
    own_ca = (machine.ca / "ca.pem").read_text()
    signed = {
        item["name"]: item["certificate"]
        for item in machine.sign(machine.ensure()["requests"])["certificates"]
    }
    stranger = SideAuthority()
    assert "does not belong to" in _install_refused(machine, "agent", signed["server"], own_ca).message
    assert "does not chain" in _install_refused(machine, "server", stranger.leaf()[1], own_ca).message
    assert (
        "does not chain"
        in _install_refused(machine, "server", signed["server"], stranger.certificate).message
    )
    assert "is not there" in _install_refused(machine, "other", signed["server"], own_ca).message
    assert _install_refused(machine, "server", "hello", own_ca).code == "certificate_invalid"
    assert _install_refused(machine, "server", signed["server"], "hello").code == "certificate_invalid"
    assert "side_ca" in _install_refused(machine, "server", signed["server"], None).message
    assert (
        _install_refused(machine, "server", signed["server"], own_ca, NOW + 91 * DAY).code
        == "certificate_expired"
    )


def test_one_bad_leaf_keeps_the_others_out(machine: Machine) -> None:
    signed = machine.sign(machine.ensure()["requests"])
    signed["certificates"][1]["certificate"] = SideAuthority().leaf()[1]
    with pytest.raises(Refusal):
        machine.install(signed)
    assert set(machine.files()) == {"server.key", "agent.key"}


# ---- the CA ----


def test_requests_for_other_names_are_not_signed(machine: Machine) -> None:
    requests = machine.ensure()["requests"]
    for change in (
        {"host": "ta2"},
        {"role": "manager"},
        {"dns": []},
        {"ips": ["10.0.0.9"]},
        {"csr": "hello"},
    ):
        with pytest.raises(Refusal, match=r"requests\[") as refused:
            machine.sign([requests[1], {**requests[0], **change}])
        assert refused.value.code == "request_invalid"


def test_the_other_sides_leaves_are_not_signed(machine: Machine) -> None:
    machine.wanted = [{**SERVER, "side": "workload"}]
    with pytest.raises(InvalidField, match="this CA is of side trust_authority"):
        machine.sign(machine.ensure()["requests"])


def test_without_a_ca_nothing_is_signed(machine: Machine) -> None:
    requests = machine.ensure()["requests"]
    (machine.ca / "ca.key").unlink()
    with pytest.raises(Refusal, match="authority_offline"):
        machine.sign(requests)
    assert machine.make_authority()["offline"] is True
    (machine.ca / "ca.pem").unlink()
    with pytest.raises(InvalidField, match="authority ensure"):
        machine.sign(requests)


def test_a_ca_is_made_once(machine: Machine) -> None:
    before = (machine.ca / "ca.pem").read_text()
    answer = machine.make_authority(common_name="other")
    assert (answer["changed"], answer["certificate"], answer["offline"]) == (False, before, False)
    with pytest.raises(Refusal, match="is the CA of side trust_authority"):
        machine.make_authority(side="workload")
    (machine.ca / "ca.key").write_bytes(SideAuthority().key)
    with pytest.raises(Refusal, match="does not belong"):
        machine.make_authority()


def test_a_run_that_was_killed_after_the_key_goes_on_with_it(machine: Machine) -> None:
    key = (machine.ca / "ca.key").read_bytes()
    (machine.ca / "ca.pem").unlink()
    answer = machine.make_authority()
    assert answer["changed"] and not answer["offline"]
    assert (machine.ca / "ca.key").read_bytes() == key
    assert load_certificate(answer["certificate"]).public_key() == load_key(key).public_key()


def test_check_mode_makes_no_ca(tmp_path: Path) -> None:
    wanted = EnsureAuthority(directory=str(tmp_path), side="workload", common_name="CA")
    assert ensure_authority(wanted, NOW, check=True)["changed"]
    assert list(tmp_path.iterdir()) == []


def test_an_operators_ca_is_put_in_place(tmp_path: Path) -> None:
    brought = SideAuthority("workload")
    wanted: dict[str, Any] = {"directory": str(tmp_path), "side": "workload", "common_name": "CA"}
    pair = {"certificate": brought.certificate, "private_key": brought.key.decode()}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"private_key": pair["private_key"]}, "certificate"),
        ({**pair, "private_key": SideAuthority().key.decode()}, "private_key"),
        ({"certificate": brought.leaf()[1]}, "certificate"),
    ]
    for change, field in refused:
        with pytest.raises(InvalidField) as invalid:
            ensure_authority(EnsureAuthority(**wanted, **change), NOW)
        assert invalid.value.field == field
        assert list(tmp_path.iterdir()) == []
    answer = ensure_authority(EnsureAuthority(**wanted, **pair), NOW)
    assert (answer["changed"], answer["offline"]) == (True, False)
    assert not ensure_authority(EnsureAuthority(**wanted, **pair), NOW)["changed"]
    other = {"certificate": SideAuthority("workload").certificate}
    with pytest.raises(Refusal, match="another CA"):
        ensure_authority(EnsureAuthority(**wanted, **other), NOW)


def test_an_offline_ca_and_ready_leaves(machine: Machine) -> None:
    for path in machine.ca.iterdir():
        path.unlink()
    offline = SideAuthority()
    answer = machine.make_authority(certificate=offline.certificate)
    assert (answer["changed"], answer["offline"]) == (True, True)
    elsewhere = machine.tls.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "ca.pem").write_text(offline.certificate)
    (elsewhere / "ca.key").write_bytes(offline.key)
    requests = machine.ensure()["requests"]
    machine.ca = elsewhere
    assert machine.install(machine.sign(requests))["changed"]
    assert machine.ensure()["requests"] == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.key"
    place_file(path, b"old", 0o600)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match="No space left"):
        place_file(path, b"new", 0o600)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.key"]


def test_expiries_for_health(machine: Machine) -> None:
    machine.converge()
    names = [item["name"] for item in certificate_expiries(machine.tls)]
    assert names == ["agent", "server", "side_ca"]
    assert certificate_expiries(machine.tls / "none") == []

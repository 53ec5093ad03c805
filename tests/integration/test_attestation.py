# SPDX-License-Identifier: GPL-3.0-or-later
"""The Attestation Service against a TPM that is not ours (swtpm), driven by tools that are not ours
(tpm2-tools)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.software_tpm import SoftwareTpm
from services.attestation.world import BOOT, BOOT_LOADER, Boot, Change, Host, World

from trusted_infrastructure.messages import Challenge
from trusted_infrastructure.tpm import event_types
from trusted_infrastructure.tpm.public_area import PublicArea, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import parse_quote
from trusted_infrastructure.tpm.structures import u32

CHANGED: Boot = (*BOOT[:BOOT_LOADER], (4, BOOT[BOOT_LOADER][1], b"other loader"), *BOOT[BOOT_LOADER + 1 :])


class TpmHost(Host):
    """A host whose TPM is swtpm. ek: RSA-2048 by the TCG template; ak: P-256, child of the EK."""

    def __init__(self, tpm: SoftwareTpm, ek_kind: str = "rsa") -> None:
        self.tpm = tpm
        self.kind = ek_kind
        super().__init__()

    def __post_init__(self) -> None:
        self.make_keys()
        ek, ak = self.ek, self.ak
        super().__post_init__()
        self.ek, self.ak = ek, ak

    def make_keys(self) -> None:
        """The EK, which is always the same, and a new AK."""
        tools = self.tpm
        tools.tool("tpm2_createek", "-G", self.kind, "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")
        tools.flush()
        options = "-G ecc -g sha256 -s ecdsa -u ak.pub -n ak.name -f tss"
        tools.tool("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", *options.split())
        tools.flush()
        self.ek: PublicArea = parse_tpm2b_public(tools.read("ek.pub"), "ek_public")
        self.ak: PublicArea = parse_tpm2b_public(tools.read("ak.pub"), "ak_public")

    def start(self, boot: Boot) -> None:
        """Measure a boot into the real PCRs."""
        super().start(boot)
        digests = [f"{pcr}:sha256={hashlib.sha256(content).hexdigest()}" for pcr, _kind, content in boot]
        for digest in digests:
            self.tpm.tool("tpm2_pcrextend", digest)

    def reboot(self, boot: Boot = BOOT) -> None:
        """The power is cut, as a crash does it: no TPM2_Shutdown."""
        self.tpm.power_off()
        self.tpm.power_on()
        self.make_keys()
        self.start(boot)

    def activate(self, challenge: Challenge) -> bytes:
        tools = self.tpm
        header = u32(0xBADCC0DE) + u32(1)
        (tools.folder / "credential").write_bytes(
            header + challenge.credential_blob + challenge.encrypted_secret
        )
        tools.tool("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
        try:
            tools.tool("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
            tools.tool(
                "tpm2_activatecredential",
                *("-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret"),
                *("-P", "session:session.ctx"),
            )
        finally:
            tools.tool("tpm2_flushcontext", "session.ctx")
            tools.flush()
        return tools.read("secret")

    def quote(
        self, challenge: Challenge, extra: bytes, change: Change, signing_key: Any
    ) -> tuple[bytes, bytes]:
        selection = f"{challenge.bank}:{','.join(map(str, challenge.pcrs))}"
        self.tpm.tool(
            "tpm2_quote",
            *("-c", "ak.ctx", "-l", selection, "-q", extra.hex(), "-g", "sha256"),
            *("-m", "quote", "-s", "signature", "-f", "tss"),
        )
        self.tpm.flush()
        return self.tpm.read("quote"), self.tpm.read("signature")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


@pytest.fixture
def tpm() -> Iterator[SoftwareTpm]:
    with SoftwareTpm() as started:
        yield started


def code_of(world: World, host: Host, **lies: Any) -> str:
    answer = world.attest(host, **lies)
    assert answer.status_code < 500, answer.text
    code: str = answer.json()["error"]["code"]
    return code


def test_a_real_tpm_attests_over_its_life(world: World, tpm: SoftwareTpm) -> None:
    host = TpmHost(tpm)
    world.add_host(host)
    first = world.attested(host)
    assert (first.sub, first.base_image, first.userspace) == ("host1", "image-1", "verity")
    assert first.ek_digest == hashlib.sha256(tpm.read("ek.pub")[2:]).hexdigest()
    again = world.attested(host)
    assert (again.reset_count, again.restart_count) == (first.reset_count, first.restart_count)

    # Evidence that is not from this boot, or not the whole truth about it.
    assert code_of(world, host, event_log=Host(boot=CHANGED).event_log) == "event_log_replay"
    tpm.tool("tpm2_pcrextend", f"4:sha256={'11' * 32}")
    assert code_of(world, host) == "event_log_replay"

    host.reboot(CHANGED)
    assert code_of(world, host) == "base_image_mismatch"

    # After a power cut the clock may not be safe; the counters are what is relied on.
    host.reboot()
    after = world.attested(host)
    assert after.reset_count == first.reset_count + 2

    # An administrator takes ownership anew: the counters begin again.
    tpm.tool("tpm2_clear", "-c", "p")
    host.reboot()
    assert code_of(world, host) == "tpm_cleared"
    path = f"/attestation/manage/v1/endorsement-keys/{host.ek.digest}/accept-clock"
    assert world.management.post(path).json() == {"changed": True}
    assert world.attested(host).reset_count < after.reset_count


def test_power_cut_leaves_the_clock_unsafe_and_the_host_attested(world: World, tpm: SoftwareTpm) -> None:
    host = TpmHost(tpm, "ecc")
    world.add_host(host)
    world.attested(host)
    host.reboot()
    world.attested(host)
    assert parse_quote(tpm.read("quote")).clock.safe is False


def test_another_tpm_cannot_take_its_place(world: World, tpm: SoftwareTpm) -> None:
    host = TpmHost(tpm)
    world.add_host(host)
    world.attested(host)
    with SoftwareTpm() as stolen:
        thief = TpmHost(stolen)
        thief.certificates = [world.vendor.certify(thief.ek)]
        answer = world.public.post("/attestation/v1/challenge", content=world.request(thief))
        assert answer.json()["error"]["code"] == "ek_not_enrolled"
        # With the real machine's assertion, keys and certificate, but without its TPM.
        thief_ak, thief.ek, thief.certificates = thief.ak, host.ek, host.certificates
        request = world.request(thief)
        challenge = world.challenge(request)
        assert thief_ak.name != host.ak.name
        with pytest.raises(RuntimeError, match="tpm2_activatecredential"):
            thief.activate(challenge)


def test_attestation_key_of_the_owner_hierarchy_is_refused(world: World, tpm: SoftwareTpm) -> None:
    host = TpmHost(tpm)
    world.add_host(host)
    tpm.tool(
        "tpm2_createprimary",
        *("-C", "o", "-G", "ecc256:ecdsa-sha256:null", "-g", "sha256", "-c", "ak.ctx"),
        *("-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"),
    )
    tpm.flush()
    tpm.tool("tpm2_readpublic", "-c", "ak.ctx", "-o", "ak.pub", "-f", "tss")
    tpm.flush()
    host.ak = parse_tpm2b_public(tpm.read("ak.pub"), "ak_public")
    assert code_of(world, host) == "quote_qualified_name"


def test_types_of_events_agree_with_what_was_measured(tpm: SoftwareTpm) -> None:
    host = TpmHost(tpm)
    values = tpm.tool("tpm2_pcrread", "sha256:0,4,7,9,12")
    for pcr in (0, 4, 7, 9, 12):
        assert host.pcrs[pcr].hex().upper() in values.upper()
    assert event_types.name_of(BOOT[0][1]) == "EV_S_CRTM_VERSION"

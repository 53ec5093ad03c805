# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench works: it attests, and gets keys, through the real front door and writes what it found. Its
figures do not count: a machine that runs other tests at the same time says nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from bench import key_site
from bench.attester import SessionKeys
from bench.boot import measured_boot
from bench.key_site import KeyHolder, Vault
from bench.plot import Plot
from bench.releases import InProcess
from bench.site import Site
from bench.verification import Verification
from integration.software_key_server import SoftwareKeyServer

from trusted_infrastructure.kmip.connection import ClientCredentials
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.event_log import parse_event_log, replay

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_all_figures(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--output", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=280,  # it takes 20 s; a machine with other work, longer
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert all(set(figure) == {"name", "value", "unit", "ratio_to_raw"} for figure in figures)
    found = {figure["name"]: figure for figure in figures}
    for name in (
        "raw: P-256 verifications on a core",
        "raw: RSA-2048 verifications on a core",
        "in process: evidence to token",
        "over HTTPS: attestations, 8 connections",
        "over HTTPS: latency p50",
        "over HTTPS: latency p99",
        "memory of worker 0: PSS",
        "processor time of an attestation: load generator",
        "raw: HPKE seals (ML-KEM-768, X25519) on a core",
        "raw: AES-256-GCM decryptions on a core",
        "in process: key release",
        "over HTTPS: key releases, 32 connections",
        "over HTTPS: key release, latency p50",
        "over HTTPS: key release, latency p99",
        "power cut, 16 hosts, 1 Trust Authority host: the last has its key after",
        "power cut, 16 hosts, 2 Trust Authority hosts: the last has its key after",
        "power cut, 16 hosts, standard provider: the last has its key after",
        "keys that the manager gets from the key server",
    ):
        assert found[name]["value"] > 0
    assert found["over HTTPS: refused"]["value"] == 0
    assert found["over HTTPS: key releases refused"]["value"] == 0
    assert not list(tmp_path.glob("bench-*"))
    for name in ("log_size", "images", "hosts"):
        ElementTree.parse(tmp_path / "performance" / f"{name}.svg")


@pytest.mark.parametrize("size", [5_000, 34_000, 200_000])
def test_logs_have_their_size_and_replay(size: int) -> None:
    boot = measured_boot(size)
    assert abs(len(boot.event_log) - size) < 100
    log = parse_event_log(boot.event_log)
    assert len(log.events) == boot.events + 1
    assert dict(replay(log, "sha256")).items() <= boot.pcrs.items()
    assert measured_boot(34_000).events == 111


def test_what_is_measured_is_a_full_verification(tmp_path: Path) -> None:
    one = Verification(Site(tmp_path, images=3, enrolled=5, denied=2))
    assert one.verify().base_image == "image-002"
    assert one.verify_stranger().token


def test_what_is_measured_is_a_release_of_the_host_s_own_key(tmp_path: Path) -> None:
    server = SoftwareKeyServer(tmp_path / "kms", "kms")
    held = Vault(server, ClientCredentials("", b""), bytes(range(32)))
    site = Site(tmp_path)
    key_site.provide(site, held)
    one = InProcess(site, held)
    holder, token = one.asker
    first, second = (msgspec.json.encode(one.release()) for _twice in range(2))
    assert first != second
    assert holder.opens(first, token)
    other = KeyHolder.make("host1", held, SessionKeys.generate())
    with pytest.raises(Refusal):
        other.opens(first, token)


def test_a_plot_is_a_picture() -> None:
    for logarithmic in (False, True):
        plot = Plot("Size", "kB", "ms", [(10, 0.4), (100, 0.9), (1000, 7.9)], logarithmic)
        root = ElementTree.fromstring(plot.svg())
        assert len([one for one in root.iter() if one.tag.endswith("circle")]) == 3

# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of each target, guided by coverage; FUZZ_SECONDS (for each target) makes it a long one.

A long run keeps what it found interesting below build/fuzz and goes on from there; a short one begins anew
with the same seed, so that it is the same on every machine as far as time lets it.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("FUZZ_SECONDS", "")
SECONDS = LONG or "2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what came of all targets."""
    folder = ROOT / "build" / "fuzz" if LONG else tmp_path_factory.mktemp("fuzz")
    if find_spec("atheris") is not None:
        command = [sys.executable, str(ROOT / "tests/fuzz/guided.py"), str(folder), SECONDS]
        subprocess.run([*command, "0" if LONG else "1", *TARGETS], check=True)
    return folder


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_refusals(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("atheris") is None:
        # There are wheels for this kind of machine alone; test_properties runs everywhere.
        assert platform.machine() != "x86_64"
        print("atheris: none for this machine")
        return
    log = (runs / name / "log").read_text(errors="replace")
    inputs = re.search(r"number_of_executed_units:\s*(\d+)", log)
    with capsys.disabled():
        print(f"\n{name}: {inputs[1] if inputs else '?'} inputs in {SECONDS} s", end=" ")
    found = sorted((runs / name / "found").iterdir())
    broken = [base64.b64encode(path.read_bytes()).decode() for path in found]
    assert (runs / name / "status").read_text() == "0", f"{log[-6000:]}\ninput: {broken}"
    assert inputs is not None and int(inputs[1]) > 0

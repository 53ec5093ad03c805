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
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("FUZZ_SECONDS", "")
SECONDS = LONG or "2"

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All targets, one for each core at a time."""
    folder = ROOT / "build" / "fuzz" if LONG else tmp_path_factory.mktemp("fuzz")
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    return {name: pool.submit(fuzz, name, folder / name) for name in TARGETS}


def fuzz(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/fuzz/guided.py"), name, SECONDS, str(folder)]
    command += [] if LONG else ["1"]
    limit = float(SECONDS) * 2 + 120
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_refusals(name: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("atheris") is None:
        # There are wheels for this kind of machine alone; test_properties runs everywhere.
        assert platform.machine() != "x86_64"
        print("atheris: none for this machine")
        return
    finished = runs[name].result()
    inputs = re.search(r"number_of_executed_units:\s*(\d+)", finished.stderr)
    with capsys.disabled():
        print(f"\n{name}: {inputs[1] if inputs else '?'} inputs in {SECONDS} s", end=" ")
    saved = re.search(r"Test unit written to (\S+)", finished.stderr)
    broken = base64.b64encode(Path(saved[1]).read_bytes()).decode() if saved else ""
    assert finished.returncode == 0, f"{finished.stdout[-4000:]}{finished.stderr[-4000:]}\ninput: {broken}"
    assert inputs is not None and int(inputs[1]) > 0

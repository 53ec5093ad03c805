# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz targets, guided by the coverage of our own code: libFuzzer, by way of atheris.

    python tests/fuzz/guided.py FOLDER SECONDS SEED TARGET...

SECONDS are for each target; SEED 0 is another one each time. FOLDER/TARGET/corpus keeps what was found and is
begun with the target's seeds, .../found has the input that broke it, .../log what libFuzzer says, .../status
the exit code. Targets run in processes of their own, one for each core, forked when all is loaded: loading
takes longer than a short run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

with atheris.instrument_imports(include=["trusted_infrastructure"]):
    from fuzz import limits, targets


def fuzz(name: str, folder: Path, seconds: str, seed: str) -> None:
    """Fuzz one target; ends the process."""
    corpus, found = folder / "corpus", folder / "found"
    for made in (corpus, found, folder / "temporary"):
        made.mkdir(parents=True, exist_ok=True)
    # libFuzzer ends the process without letting it tidy up; main() does.
    tempfile.tempdir = str(folder / "temporary")
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    target = targets.TARGETS[name]
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()).write_bytes(data[: target.largest])
        targets.run(name, data)  # what is made once is made now, and does not count

    def one(data: bytes) -> None:
        try:
            limits.measured(lambda: targets.run(name, data))
        except BaseException:
            (found / hashlib.sha256(data).hexdigest()).write_bytes(data)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.largest}",
        f"-seed={seed}",
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={found}/",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> None:
    folder, seconds, seed, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    waiting, running = list(names), dict[int, str]()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            name = waiting.pop(0)
            (folder / name).mkdir(parents=True, exist_ok=True)
            process = os.fork()
            if process == 0:
                fuzz(name, folder / name, seconds, seed)
            running[process] = name
        process, status = os.wait()
        name = running.pop(process)
        shutil.rmtree(folder / name / "temporary", ignore_errors=True)
        (folder / name / "status").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()

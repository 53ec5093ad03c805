# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz one target, guided by the coverage of our own code: libFuzzer, by way of atheris.

    python tests/fuzz/guided.py TARGET SECONDS FOLDER [SEED]

FOLDER/corpus keeps what was found and is begun with the target's seeds; FOLDER/found has the input that broke
it. Exit code 0: nothing was found. The last lines say how many inputs there were.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

with atheris.instrument_imports(include=["trusted_infrastructure"]):
    from fuzz import limits, targets


def main() -> None:
    name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    seed = sys.argv[4:5]
    corpus, found = folder / "corpus", folder / "found"
    for made in (corpus, found):
        made.mkdir(parents=True, exist_ok=True)
    target = targets.TARGETS[name]
    for data in target.seeds():
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data[: target.largest])
        targets.run(name, data)  # what is made once is made now, and does not count

    def one(data: bytes) -> None:
        limits.measured(lambda: targets.run(name, data))

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.largest}",
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={found}/",
        *(f"-seed={value}" for value in seed),
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

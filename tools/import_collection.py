# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the collection from a clean copy and let galaxy-importer judge it as Galaxy would.

    tools/run python tools/import_collection.py

Leaves the tarball in build/release. Exits with 1 where the importer reports an error or a warning.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from collection_tree import ROOT, make_tree

RELEASE = ROOT / "build" / "release"
IMPORTER = ROOT / "build" / "venv" / "importer"


def build() -> Path:
    """Build the tarball of what git tracks or would track. Returns its path."""
    # A fresh copy: the builder packs whatever lies there, what other gates wrote included.
    shutil.rmtree(RELEASE, ignore_errors=True)
    tree = make_tree(RELEASE / "tree")
    command = ["ansible-galaxy", "collection", "build", "--output-path", str(RELEASE), str(tree)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return next(RELEASE.glob("*.tar.gz"))


def judge(tarball: Path) -> int:
    """Run the importer, in its own environment and home, and pass its report on. Returns the exit code."""
    home = RELEASE / "home"
    home.mkdir(exist_ok=True)
    configuration = home / "galaxy-importer.cfg"
    # ansible-test and ansible-lint, the latter with a stricter profile, are gates of their own; the importer
    # would stop its ansible-lint after 180 s, which a busy machine needs.
    configuration.write_text(
        "[galaxy-importer]\nLOG_LEVEL_MAIN = INFO\nRUN_ANSIBLE_TEST = False\nRUN_ANSIBLE_LINT = False\n",
        encoding="utf-8",
    )
    # The importer starts ansible-doc and ansible-lint by name: its own must come first.
    environment = {
        "HOME": str(home),
        "PATH": f"{IMPORTER / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "GALAXY_IMPORTER_CONFIG": str(configuration),
    }
    done = subprocess.run(
        [str(IMPORTER / "bin" / "python"), "-m", "galaxy_importer.main", str(tarball)],
        cwd=RELEASE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    complaints = re.findall(r"^(?:WARNING|ERROR|CRITICAL): .*", done.stdout, re.MULTILINE)
    if complaints:
        print(f"galaxy-importer: {len(complaints)} complaints", *complaints, sep="\n  ")
    return done.returncode or int(bool(complaints))


if __name__ == "__main__":
    try:
        sys.exit(judge(build()))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Test material of real machines that is not part of the project: the folder that TRUST_CORPUS names, or
../shared/corpus beside the repository. Where it is absent, each list holds one marker instead of files, and
the test that gets it says 'corpus: absent'."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ABSENT = Path("corpus: absent")
_ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(os.environ.get("TRUST_CORPUS") or _ROOT.parent / "shared" / "corpus")


def files(pattern: str) -> list[Path]:
    """Files of the corpus, or the marker."""
    return sorted(path for path in FOLDER.glob(pattern) if path.is_file()) or [ABSENT]


def is_absent(path: Path) -> bool:
    """Whether `path` is the marker; says so."""
    if path is ABSENT:
        print("corpus: absent")
    return path is ABSENT


def parametrize(pattern: str, exclude: str = ".json") -> pytest.MarkDecorator:
    """Parametrize `path` over files of the corpus; the ids show that it is absent."""
    found = [path for path in files(pattern) if not path.name.endswith(exclude)]
    return pytest.mark.parametrize("path", found, ids=[path.name for path in found])

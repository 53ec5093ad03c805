# SPDX-License-Identifier: GPL-3.0-or-later
"""How much is measured, and where its files go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Effort:
    """How much is measured. seconds: for each figure in process; load: for each one over HTTPS. hosts: so
    many that none comes to the service's limit for one endorsement key, on a quick machine either. starting:
    hosts that want their keys after a power cut."""

    seconds: float
    load: float
    hosts: int
    starting: int
    log_sizes: Sequence[int]
    images: Sequence[int]
    enrolled: Sequence[int]


FULL = Effort(
    seconds=3.0,
    load=10.0,
    hosts=1000,
    starting=1000,
    log_sizes=(5_000, 20_000, 34_000, 68_000, 100_000, 150_000, 200_000),
    images=(1, 2, 5, 10, 20, 50),
    enrolled=(10, 100, 1_000, 10_000),
)
QUICK = Effort(
    seconds=0.05,
    load=0.5,
    hosts=128,
    starting=16,
    log_sizes=(5_000, 34_000),
    images=(1, 3),
    enrolled=(10, 50),
)


def made(folder: Path) -> Path:
    """The folder, made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder

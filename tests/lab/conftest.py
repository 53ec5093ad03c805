# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's program lies in its role, so that the role can be used from an installed collection."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "roles/lab/files")]

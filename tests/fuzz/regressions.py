# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs that once broke a target: name of the finding -> (target, bytes)."""

from __future__ import annotations

REGRESSIONS: dict[str, tuple[str, bytes]] = {}

# SPDX-License-Identifier: GPL-3.0-or-later
"""Event data."""

from __future__ import annotations

Decoded = object


def decode(pcr: int, event_type: int, data: bytes) -> Decoded | None:
    """Decode."""
    return None


def describe(pcr: int, event_type: int, data: bytes) -> str:
    """Describe."""
    return ""

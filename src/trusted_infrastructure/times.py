# SPDX-License-Identifier: GPL-3.0-or-later
"""Unix seconds as text: RFC 3339, UTC."""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec

LATEST = 253402300799  # Unix seconds of the end of the year 9999
# Unix seconds that a date has, in what somebody else says.
Moment = Annotated[int, msgspec.Meta(ge=0, le=LATEST)]


def rfc3339(seconds: float) -> str:
    """Such as 2026-01-31T12:00:00Z. Raises OverflowError, ValueError, OSError for a time that no date has."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def readable(seconds: float) -> str:
    """`rfc3339`, or the number where no date has that time. For people: what is wrong must be shown too."""
    try:
        return rfc3339(seconds)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f}"

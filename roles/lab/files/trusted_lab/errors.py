# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab says when it cannot go on."""

from __future__ import annotations


class LabError(Exception):
    """Something that the operator must know or do; its text names what was found and what to do about it."""

# SPDX-License-Identifier: GPL-3.0-or-later
"""What the key server's commands say when they cannot go on."""

from __future__ import annotations


class KeyServerError(Exception):
    """What is wrong, and on which server."""

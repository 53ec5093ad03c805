# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PEM texts taken apart, so that lists of certificates can be compared."""

from __future__ import annotations

import re
import typing as t

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def certificates(texts: t.Iterable[str]) -> list[str]:
    """Each certificate of the texts as one PEM block with a newline at its end; a text without one stays as it is."""
    found: list[str] = []
    for text in texts:
        blocks = _CERTIFICATE.findall(text)
        found += ["\n".join(line.strip() for line in block.splitlines()) + "\n" for block in blocks] or [text]
    return found

# SPDX-License-Identifier: GPL-3.0-or-later
"""An answer that is a file instead of JSON. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import quote

NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Download:
    """The output of an operation that answers with a file.

    content: the bytes, or pieces of them that are sent as they come; one that raises ends the connection, so
    that nobody takes a part for the whole. media_type: one of the operation's `media_types`. file_name: what
    to save it as; may hold names that people gave. length: of pieces together, where it is known; then a
    client has the whole before the pieces come to their end. sha256: of the whole, where it is known.
    """

    content: bytes | AsyncIterator[bytes] = field(repr=False)
    media_type: str
    file_name: str
    length: int | None = None
    sha256: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of the HTTP answer: saved under its name (RFC 6266, RFC 8187), shown and kept by nobody.

        What is known of the whole goes along, so that a client can tell a part from it (RFC 9530)."""
        plain, exact = NOT_PLAIN.sub("_", self.file_name), quote(self.file_name, safe="")
        known = {} if self.length is None else {"content-length": str(self.length)}
        if self.sha256 is not None:
            known["repr-digest"] = f"sha-256=:{base64.b64encode(self.sha256).decode()}:"
        return known | {
            "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}",
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }

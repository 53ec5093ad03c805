# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client certificates of key providers, trusted and standard, as the management APIs take and give them."""

from __future__ import annotations

import typing as t

from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import (
    certificates,
    key_of_certificate,
)


def chain(text: str) -> str:
    """A certificate and what follows it in the one form."""
    return "".join(certificates([text]))


def install(
    current: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any], again: bool
) -> tuple[dict[str, t.Any], dict[str, str] | None]:
    """What a given certificate leads to: `certificate` and `csr` afterwards, and what is sent.

    current: both as they are, None where there is none. params: certificate, private_key. again: also where it
    is installed already; nothing (None) is sent there without it.
    """
    wanted = chain(params["certificate"])
    if current["certificate"] == wanted and not again:
        return {name: current[name] for name in ("certificate", "csr")}, None
    body = {name: params[name] for name in ("certificate", "private_key") if params[name]}
    # One that comes with its key, or is for the key of the one of now, answers no request.
    stays = params["private_key"] or renews(current["certificate"], wanted)
    return {"certificate": wanted, "csr": current["csr"] if stays else None}, body


def renews(current: str | None, wanted: str) -> bool:
    """Whether a certificate (with what follows it) is for the same key as the one of now."""
    keys = [key_of_certificate(certificates([text])[0]) for text in (current, wanted) if text]
    return len(keys) == 2 and keys[0] is not None and keys[0] == keys[1]

# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which events are meant: the parameters of the doc fragment `event_filters`."""

from __future__ import annotations

import typing as t

LISTS = ("types", "hosts", "users", "objects", "key_ids", "operations")
SINGLE = ("since", "until", "after", "limit")


def filter_arguments() -> dict[str, t.Any]:
    """A fresh argument spec, without `limit`."""
    lists: dict[str, t.Any] = {name: {"type": "list", "elements": "str", "default": []} for name in LISTS}
    # A key's id is no secret; Ansible would guess so from the name.
    lists["key_ids"]["no_log"] = False
    return {
        **lists,
        "since": {"type": "str"},
        "until": {"type": "str"},
        "after": {"type": "int"},
    }


def filter_query(given: t.Mapping[str, t.Any]) -> tuple[tuple[str, str], ...]:
    """The parameters as the API's query; those that are not given are left out."""
    chosen = [(name, value) for name in LISTS for value in given[name]]
    return (*chosen, *((name, str(given[name])) for name in SINGLE if given[name] is not None))

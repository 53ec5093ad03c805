# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON objects that have each name once.

RFC 8259 (4) leaves open what an object with a name twice means: our decoder takes the last, others take the
first. So a message that one program has judged could mean something else to the next that reads the same
bytes. RFC 7515 (4) and RFC 7519 (4) ask for unique names, or for the last: we refuse.
"""

from __future__ import annotations

import json


class _Repeated(Exception):
    """args: the name."""


def repeated_name(data: bytes) -> str | None:
    """The first name that an object in `data` has more than once, None where there is none.

    data: JSON in UTF-8 that another decoder has accepted: nothing else is judged here. Numbers are not
    converted. Raises RecursionError for what is nested too deeply.
    """
    try:
        _DECODER.decode(data.decode())
    except _Repeated as error:
        return str(error)
    return None


def _names(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for name, _value in pairs:
        if name in seen:
            raise _Repeated(name)
        seen.add(name)


# A number of many digits would cost, and Python refuses to convert it.
_DECODER = json.JSONDecoder(object_pairs_hook=_names, parse_int=str, parse_float=str, parse_constant=str)

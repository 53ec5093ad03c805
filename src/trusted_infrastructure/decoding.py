# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON from outside, into typed structs: whatever is wrong with it becomes a refusal that names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.refusal import InvalidField

T = TypeVar("T")


def decode_json(
    data: bytes,
    wanted: type[T],
    *,
    whole: str = "body",
    invalid_code: str = "malformed_request",
    dec_hook: Callable[[type, Any], Any] | None = None,
) -> T:
    """Decode one JSON value of type `wanted`.

    whole: name of the whole value, for errors that belong to no single field. invalid_code: reason code for
    JSON that is not what we expect; what is no JSON at all is `malformed_request`. dec_hook: see msgspec.
    Raises InvalidField (400), also for a name that an object has twice.
    """
    try:
        value = msgspec.json.decode(data, type=wanted, dec_hook=dec_hook)
        repeated = repeated_name(data)
    except msgspec.ValidationError as error:
        reason, _separator, path = str(error).partition(" - at `$")
        raise InvalidField(path.rstrip("`").lstrip(".") or whole, reason, invalid_code) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidField(whole, f"is not JSON: {error}") from None
    except RecursionError:
        raise InvalidField(whole, "is nested too deeply") from None
    if repeated is not None:
        raise InvalidField(repeated[:64], "is given more than once")
    return value

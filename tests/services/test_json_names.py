# SPDX-License-Identifier: GPL-3.0-or-later
"""A name that an object has twice is refused wherever JSON comes in, at any depth."""

from __future__ import annotations

import json

import pytest

from trusted_infrastructure.config.documents import Scope
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.manager.vapi.binding import decode_body
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.refusal import InvalidField


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"a":1,"a":1}', "a"),
        ('{"a":1,"b":{"c":1,"c":2}}', "c"),
        ('[{"x":1},{"x":1,"y":[{"z":1,"z":2}]}]', "z"),
        (r'{"a":1,"\u0061":2}', "a"),
        ('{"":1,"":2}', ""),
        ('{"a":1,"A":2}', None),
        ('{"a":{"a":{"a":1}}}', None),
        ('[{"a":1},{"a":1}]', None),
        ('"a"', None),
        ("1" * 5000, None),
        ("-1e999", None),
        ("[]", None),
    ],
)
def test_repeated_names(text: str, name: str | None) -> None:
    assert repeated_name(text.encode()) == name


def test_what_is_refused_names_the_field() -> None:
    good = {"principal": "p", "trusted_cluster": "c", "base_images": [], "providers": []}
    text = json.dumps(good)[:-1] + ', "providers": ["*"]}'
    with pytest.raises(InvalidField, match="malformed_request: providers: is given more than once"):
        decode_json(text.encode(), Scope)
    assert decode_json(json.dumps(good).encode(), Scope).providers == []
    with pytest.raises(InvalidArgument, match="'providers' is given more than once"):
        decode_body(text.encode(), "body")

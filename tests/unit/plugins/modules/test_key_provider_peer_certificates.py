# SPDX-License-Identifier: GPL-3.0-or-later
"""What key servers must present."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.key_provider_peer_certificates import plan

BASE = "/trusted"


@pytest.mark.parametrize(
    "current, wanted, changed",
    [
        ([], [], False),
        (["a", "b"], ["a", "b"], False),
        (["a", "b"], ["b", "a"], False),
        ([], ["a"], True),
        (["a"], [], True),
        (["a"], ["a", "b"], True),
        (["a", "b"], ["a"], True),
        (["a"], ["b"], True),
    ],
)
def test_plan(current: list[str], wanted: list[str], changed: bool) -> None:
    before, after = {"certificates": current}, {"certificates": wanted}
    planned = plan(BASE, before, after)
    assert planned.before == before
    assert planned.after == (after if changed else before)
    assert planned.calls == ((Call("PATCH", BASE, after, task=True),) if changed else ())


def test_trusting_nothing_has_to_be_said(run_module: Any, client: Any) -> None:
    result = run_module("key_provider_peer_certificates", client({}), cluster="one", provider="p")
    assert result["msg"] == "missing required arguments: certificates"

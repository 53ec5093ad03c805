# SPDX-License-Identifier: GPL-3.0-or-later
"""Policy for TPMs."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import Call
from ansible_collections.trusted.infrastructure.plugins.modules.tpm2_settings import plan

BASE = "/settings"
BOTH = {"require_endorsement_keys": True, "require_certificate_validation": True}


@pytest.mark.parametrize(
    "wanted, different",
    [
        (BOTH, {}),
        ({"require_endorsement_keys": None, "require_certificate_validation": None}, {}),
        (
            {"require_endorsement_keys": False, "require_certificate_validation": None},
            {"require_endorsement_keys": False},
        ),
        (
            {"require_endorsement_keys": True, "require_certificate_validation": False},
            {"require_certificate_validation": False},
        ),
    ],
)
def test_plan(wanted: Any, different: Any) -> None:
    planned = plan(BASE, BOTH, wanted)
    calls = (Call("PATCH", BASE, different, task=True),) if different else ()
    assert (planned.before, planned.after, planned.calls) == (BOTH, {**BOTH, **different}, calls)

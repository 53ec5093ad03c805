# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of the collection against managers in this process: see managed_site.py and scenarios.py."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import argon2
import pytest
from collection_tree import ROOT

from trusted_infrastructure.manager import users

pytest.register_assert_rewrite("contract.managed_site", "contract.native_scenarios", "contract.scenarios")

# The collection is imported by the name that Ansible gives it, from where it lies.
for name, path in (
    ("ansible_collections", []),
    ("ansible_collections.trusted", []),
    ("ansible_collections.trusted.infrastructure", [str(ROOT)]),
):
    package = types.ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package


@pytest.fixture(autouse=True, scope="session")
def fast_hashes() -> Iterator[None]:
    """Argon2 with the least cost: its strength is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield

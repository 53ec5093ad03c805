# SPDX-License-Identifier: GPL-3.0-or-later
"""Every type of event that a manager knows is recorded by its code, provoked by a test, and documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from trusted_infrastructure.manager import events

ROOT = Path(__file__).resolve().parents[2]
MANAGER = ROOT / "src" / "trusted_infrastructure" / "manager"
CONSTANTS = {
    name: value
    for name, value in vars(events).items()
    if isinstance(value, str) and value.startswith("com.vmware.")
}

# The file with the test that makes the thing happen, and sees the event.
STANDARD = "integration/test_standard_provider.py"
STATES = "services/manager/test_attestation_states.py"
NATIVE = "services/manager/test_native_providers.py"
NATIVE_HOSTS = "services/manager/test_native_hosts.py"
DOWNLOADS = "services/manager/test_native_downloads.py"
HEALTH = "services/manager/test_provider_health.py"
WATCH = "services/manager/test_trusted_provider_watch.py"
PROVOKED = {
    "HOST_ATTESTED": STATES,
    "HOST_NOT_ATTESTED": STATES,
    "HOST_ATTESTATION_UNSET": STATES,
    "CRYPTO_OPERATION": STANDARD,
    "SEND_KEY_HOST_ERROR": STANDARD,
    "SEND_KEY_MISSING_ON_KMS": STANDARD,
    "SEND_KEY_KMS_CLUSTER_ERROR": STANDARD,
    "KEY_GENERATE_FAIL": STANDARD,
    "KMS_UNREACHABLE": STANDARD,
    "KMS_VENDOR": STANDARD,
    "NATIVE_NOT_BACKED_UP": NATIVE,
    "NATIVE_NOT_BACKED_UP_AFTER_UPDATE": NATIVE,
    "NATIVE_ALL_BACKED_UP": DOWNLOADS,
    "TRUST_AUTHORITY_UNHEALTHY": HEALTH,
    "TRUST_AUTHORITY_KMS_UNHEALTHY": HEALTH,
    "TRUST_AUTHORITY_UNAVAILABLE": HEALTH,
    "HOST_TPM_CONFIG_ENCRYPTION": NATIVE_HOSTS,
    "KMS_CLIENT_CERTIFICATE_EXPIRES": STANDARD,
    "KMS_SERVER_CERTIFICATE_EXPIRES": STANDARD,
    "TRUSTED_CLIENT_CERTIFICATE_EXPIRES": WATCH,
    "TRUSTED_SERVER_CERTIFICATE_EXPIRES": WATCH,
}


def sightings(text: str, name: str) -> list[str]:
    """Lines of a test's source that look for an event by its constant, another name of that, or its id. To
    give it another name, or to see none, is no sighting."""
    tree, constant = ast.parse(text), f"events.{name}"
    named = [
        item for item in tree.body if isinstance(item, ast.Assign) and ast.unparse(item.value) == constant
    ]
    words = [constant, CONSTANTS[name].removeprefix("com.vmware.vc.")]
    words += [ast.unparse(target) for item in named for target in item.targets]
    looks = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words))
    rest = "\n".join(ast.unparse(item) for item in tree.body if item not in named)
    return [line for line in rest.splitlines() if looks.search(line) and not line.endswith("== []")]


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_type_is_provoked(name: str) -> None:
    assert sightings((ROOT / "tests" / PROVOKED[name]).read_text(), name)


@pytest.mark.parametrize("name", CONSTANTS)
def test_every_type_is_recorded(name: str) -> None:
    if CONSTANTS[name] in events.OF_STATE.values():
        name = "OF_STATE"
    used = re.compile(rf"\bevents\.{name}\b")
    lines = [line for path in MANAGER.rglob("*.py") for line in path.read_text().splitlines()]
    assert [line for line in lines if used.search(line) and "Wanted(" not in line]


def test_every_type_is_in_the_tables() -> None:
    table = (ROOT / "docs" / "events.md").read_text().split("## Types")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(com\.vmware\.[A-Za-z.]+)` \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(CONSTANTS.values())
    assert PROVOKED.keys() == CONSTANTS.keys()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("VENDOR = events.KMS_VENDOR", 0),
        ("def test():\n    assert seen(events.KMS_VENDOR) == []", 0),
        ("def test():\n    assert seen(events.KMS_VENDORS)", 0),
        ("VENDOR = events.KMS_VENDOR\ndef test():\n    assert seen(VENDOR)", 1),
        ("def test():\n    assert seen('com.vmware.vc.kms.crypto.Vendor')", 1),
    ],
)
def test_what_a_sighting_is(text: str, count: int) -> None:
    assert len(sightings(text, "KMS_VENDOR")) == count

# SPDX-License-Identifier: GPL-3.0-or-later
"""audit_log_info and audit_log_assert: what they ask, and which logs do not pass."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call

LOGS = "/trust/clusters/domain-c1/audit-logs"
HEADS = "/trust/clusters/domain-c1/audit-heads"
GOOD = {"host": "ta1", "role": "attestation-service", "intact": True, "keepers": ["ta2"], "last": 7}
BROKEN = {
    **GOOD,
    "host": "ta2",
    "intact": False,
    "reason": "gone",
    "record": 5,
    "file": "/a.jsonl",
    "line": 2,
}
SILENT = {"host": "ta3", "role": "key-provider-service", "keepers": [], "reason": "unreachable: down"}


def test_info_checks_or_only_reads(run_module: Any, client: Any) -> None:
    fake = client({("POST", LOGS): [GOOD, BROKEN, SILENT], ("GET", HEADS): ["head"]})
    assert run_module("audit_log_info", fake, cluster="one")["audit_logs"] == [GOOD, BROKEN, SILENT]
    assert fake.calls[-1] == Call("POST", LOGS, query=(("action", "verify"),), task=True)
    assert run_module("audit_log_info", fake, cluster="one", verify=False)["audit_logs"] == ["head"]


def test_info_of_a_cluster_that_is_not_there(run_module: Any, client: Any) -> None:
    result = run_module("audit_log_info", client({}), cluster="two")
    assert result["audit_logs"] == [] and "no cluster is named two" in str(result["warnings"])


@pytest.mark.parametrize("check", [False, True])
def test_whole_logs_pass(run_module: Any, client: Any, check: bool) -> None:
    fake = client({("POST", LOGS): [GOOD]})
    result = run_module("audit_log_assert", fake, check=check, cluster="one")
    assert result["changed"] is False and result["failures"] == []


@pytest.mark.parametrize(
    ("logs", "given", "words"),
    [
        (
            [GOOD, BROKEN],
            {},
            "1 of 2 audit logs are not whole: attestation-service of ta2 is broken at record 5",
        ),
        ([BROKEN], {}, "(/a.jsonl, line 2): gone"),
        ([{**BROKEN, "record": None, "line": None}], {}, "is broken: gone"),
        ([SILENT], {"kept_elsewhere": False}, "of ta3 cannot be checked: unreachable: down"),
        ([{**GOOD, "keepers": []}], {}, "no heads that are kept elsewhere"),
        ([], {}, "nothing was checked"),
        (ApiError("no such thing", "NOT_FOUND", 404), {}, "no such thing"),
        ([{}], {}, "not understood"),
        (None, {}, "not understood"),
    ],
)
def test_what_fails(run_module: Any, client: Any, logs: Any, given: dict[str, Any], words: str) -> None:
    result = run_module("audit_log_assert", client({("POST", LOGS): logs}), cluster="one", **given)
    assert result["failed"] and words in result["msg"]


def test_nobody_keeps_heads_can_be_allowed(run_module: Any, client: Any) -> None:
    fake = client({("POST", LOGS): [{**GOOD, "keepers": []}]})
    assert run_module("audit_log_assert", fake, cluster="one", kept_elsewhere=False)["failures"] == []

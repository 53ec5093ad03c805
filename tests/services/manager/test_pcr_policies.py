# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed PCR policies of a cluster."""

from __future__ import annotations

import base64
import hashlib
import stat
from pathlib import Path
from typing import Any

import pytest
from services.manager.harness import Api

from trusted_infrastructure.manager import pcr_policies
from trusted_infrastructure.manager.inventory import all_clusters
from trusted_infrastructure.messages import pcr_policy_reference
from trusted_infrastructure.refusal import Unavailable
from trusted_infrastructure.tpm.policy import is_signed, pcr_policy_digest

POLICIES = "/trust/clusters/trusted/pcr-policies"
ONE, TWO, ZERO = "11" * 32, "22" * 32, "00" * 32


def image(**pcrs: Any) -> dict[str, Any]:
    """A base image document with these PCRs (p4: events or a value), the others by value."""
    return {
        "version": 1,
        "image_version": "debian-12-1",
        "display_name": "Debian 12",
        "bank": "sha256",
        "pcrs": {name.removeprefix("p"): reference for name, reference in pcrs.items()},
    }


def pinned(value: str) -> dict[str, Any]:
    return {"value": value}


def exact(*digests: str) -> dict[str, Any]:
    return {"events": [{"type": "EV_IPL", "digest": digest} for digest in digests]}


VARYING = {"events": [{"type": "EV_IPL", "content": "root={uuid}", "description": "kernel command line"}]}
GOOD = image(p0=pinned(ONE), p4=exact(ONE), p7=pinned(TWO), p8=VARYING, p9=pinned(ZERO), p10=pinned(ONE))


@pytest.mark.parametrize(
    ("pcrs", "said"),
    [
        ({"p7": pinned(ONE)}, "PCR 4: the image does not have it"),
        ({"p7": pinned(ONE), "p12": exact(ONE)}, "PCR 11: the image does not have it"),
        ({"p8": VARYING, "p7": pinned(ONE)}, "PCR 8: varies in kernel command line"),
        ({"p4": pinned(ZERO), "p9": pinned(ZERO)}, "PCR 4: nothing is measured into it"),
        ({"p0": pinned(ONE), "p2": pinned(ONE)}, "PCR 4: the image does not have it"),
    ],
)
def test_an_image_that_does_not_say_what_runs_is_refused(
    workload: Api, pcrs: dict[str, Any], said: str
) -> None:
    body = {"name": "weak", "base_image": image(**pcrs)}
    error = workload.failed("POST", POLICIES, json=body)
    assert (error["error_type"], error["messages"][0]["args"]) == ("INVALID_ARGUMENT", ["spec.base_image"])
    assert error["messages"][0]["id"] == "trusted.infrastructure.pcrs_not_fixed"
    assert said in error["messages"][0]["default_message"]
    answer = workload.request("POST", f"{POLICIES}?action=query", json={"base_image": image(**pcrs)})
    assert (answer.status_code, said in answer.text) == (400, True)
    assert workload.ok("GET", POLICIES) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"base_image": GOOD}, "spec.name"),
        ({"name": "a/b", "base_image": GOOD}, "spec.name"),
        ({"name": "a"}, "spec.base_image"),
        ({"name": "a", "base_image": {}}, "spec.base_image.image_version"),
        ({"name": "a", "base_image": {**GOOD, "bank": "sha1"}}, "spec.base_image.bank"),
        ({"name": "a", "base_image": {**GOOD, "pcrs": {"24": pinned(ONE)}}}, "spec.base_image"),
        ({"name": "a", "base_image": image(p4=pinned("11"))}, "spec.base_image.pcrs.4.value"),
        ({"name": "a", "base_image": image(p4={})}, "spec.base_image.pcrs.4"),
    ],
)
def test_a_bad_policy_names_the_field(workload: Api, spec: dict[str, Any], field: str) -> None:
    info = workload.request("POST", f"{POLICIES}?vmw-task=true", json=spec)
    if info.status_code == 202:
        found = workload.ok("GET", f"/cis/tasks/{info.json()}")["error"]["messages"][0]["args"][0]
    else:
        found = info.json()["messages"][0]["args"][0]
    assert found.startswith(field)


def test_a_policy_covers_what_the_image_fixes(workload: Api) -> None:
    covered = {"bank": "sha256", "pcrs": {"4": fixed(ONE), "7": TWO, "9": ZERO}}
    assert workload.ok("POST", f"{POLICIES}?action=query", json={"base_image": GOOD}) == covered
    assert workload.ok("GET", POLICIES) == []
    workload.done("POST", POLICIES, json={"name": "debian-12-1", "base_image": GOOD})
    info = {"name": "debian-12-1", "current_key": True, "health": "OK", "details": [], **covered}
    assert workload.ok("GET", POLICIES) == [info]
    error = workload.failed("POST", POLICIES, json={"name": "debian-12-1", "base_image": GOOD})
    assert error["error_type"] == "ALREADY_EXISTS"


def fixed(digest: str) -> str:

    return hashlib.sha256(bytes(32) + bytes.fromhex(digest)).hexdigest()


def test_every_host_has_the_policy_and_its_signature_is_the_managers(workload: Api, tmp_path: Path) -> None:
    workload.done("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    reference = pcr_policy_reference(group_of(workload, "trusted"))
    for host in ("host1", "host2"):
        content = workload.nodes.content(host, "pcr_policy", "now")
        values = {int(number): bytes.fromhex(value) for number, value in content["pcrs"].items()}

        signature = base64.b64decode(content["signature"])
        digest = pcr_policy_digest(content["bank"], values)
        assert is_signed(content["public_key"], digest, reference, signature)
        assert not is_signed(content["public_key"], digest, b"another use", signature)
        values[7] = bytes(32)
        other = pcr_policy_digest(content["bank"], values)
        assert not is_signed(content["public_key"], other, reference, signature)
    mode = stat.S_IMODE((tmp_path / "pcr-policy.key").stat().st_mode)
    assert mode == 0o600


def group_of(api: Api, cluster: str) -> str:
    with api.manager.database.transaction() as connection:
        return next(one.group for one in all_clusters(connection) if one.name == cluster)


def test_a_signature_is_for_one_cluster(workload: Api) -> None:
    workload.ok("POST", "/trust/clusters", json={"name": "other"})
    body = {"name": "host3", "ek_digest": "cd" * 32, "scope": "lab"}
    workload.done("POST", "/trust/clusters/other/hosts", json=body)
    signatures = {}
    for cluster, host in (("trusted", "host1"), ("other", "host3")):
        policies = f"/trust/clusters/{cluster}/pcr-policies"
        workload.done("POST", policies, json={"name": "now", "base_image": GOOD})
        content = workload.nodes.content(host, "pcr_policy", "now")
        values = {int(number): bytes.fromhex(value) for number, value in content["pcrs"].items()}
        digest = pcr_policy_digest(content["bank"], values)
        signatures[cluster] = base64.b64decode(content["signature"])
    for signer, signature in signatures.items():
        for cluster in signatures:
            reference = pcr_policy_reference(group_of(workload, cluster))
            assert is_signed(content["public_key"], digest, reference, signature) is (signer == cluster)


def test_a_policy_that_is_not_the_present_keys_for_this_cluster_is_signed_anew(
    workload: Api, tmp_path: Path
) -> None:
    """Another policy key, or a policy of an earlier release, which was for every cluster."""
    workload.done("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    before = workload.nodes.content("host1", "pcr_policy", "now")
    (tmp_path / "pcr-policy.key").unlink()
    assert [item["current_key"] for item in workload.ok("GET", POLICIES)] == [False]
    workload.done("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    assert [item["current_key"] for item in workload.ok("GET", POLICIES)] == [True]
    after = workload.nodes.content("host2", "pcr_policy", "now")
    assert (after["pcrs"], after["public_key"] == before["public_key"]) == (before["pcrs"], False)
    error = workload.failed("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    assert error["error_type"] == "ALREADY_EXISTS"


def test_the_next_image_is_staged_beside_the_present_one(workload: Api) -> None:
    workload.done("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    key = workload.nodes.content("host1", "pcr_policy", "now")["public_key"]
    workload.done("POST", POLICIES, json={"name": "next", "base_image": image(p11=pinned(TWO))})
    assert [item["name"] for item in workload.ok("GET", POLICIES)] == ["next", "now"]
    assert workload.nodes.content("host2", "pcr_policy", "next")["public_key"] == key
    workload.done("DELETE", f"{POLICIES}/now")
    assert workload.nodes.content("host1", "pcr_policy", "now") is None
    assert workload.failed("DELETE", f"{POLICIES}/now")["error_type"] == "NOT_FOUND"


def test_a_host_that_did_not_take_it_shows(workload: Api) -> None:
    workload.nodes.down = {"host2"}
    error = workload.failed("POST", POLICIES, json={"name": "now", "base_image": GOOD})
    assert error["error_type"] == "RESOURCE_INACCESSIBLE"
    found = workload.ok("GET", POLICIES)[0]
    assert (found["health"], found["details"][0]["args"]) == ("ERROR", ["host2"])


@pytest.mark.parametrize("content", [b"", b"no key", None])
def test_a_key_file_that_is_none_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pcr-policy.key"
    if content is None:
        pcr_policies.PolicyKey(path)
        path.chmod(0o640)
    else:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(Unavailable, match="pcr-policy.key"):
        pcr_policies.PolicyKey(path)


def test_the_key_stays(tmp_path: Path) -> None:
    path = tmp_path / "pcr-policy.key"
    assert pcr_policies.PolicyKey(path).public_key == pcr_policies.PolicyKey(path).public_key

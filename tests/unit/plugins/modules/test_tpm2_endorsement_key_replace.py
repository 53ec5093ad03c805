# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM that was replaced: the new key is enrolled, and the host released from the old one, once."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import ApiError, Call
from ansible_collections.trusted.infrastructure.plugins.modules.tpm2_endorsement_key_replace import (
    key_digest,
    plan,
    wanted_of,
)

KEYS = "/vcenter/trusted-infrastructure/trust-authority-clusters/domain-c1/attestation/tpm2/endorsement-keys"
IDENTITIES = "/trust/clusters/domain-c1/host-identities"
ISSUER = "https://workload-manager/sts"


def key(name: str) -> str:
    """What stands for a public key in PEM."""
    text = base64.b64encode(name.encode()).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def seen(service: str, name: str, principal: str = ISSUER) -> dict[str, Any]:
    return {
        "service": service,
        "host": "host1",
        "principal": principal,
        "ek_digest": f"area of {name}",
        "key_digest": digest(name),
        "since": 1,
    }


def wanted(**changes: Any) -> Any:
    fields = {"host": "host1", "principal": None, "name": "host1", "key": key("new"), "certificate": ""}
    return {**fields, "enroll": True, "release": False, "accept_clock": False, **changes}


def found(enrolled: str, *identities: dict[str, Any]) -> Any:
    return {"cluster": "domain-c1", "enrolled": enrolled, "identities": list(identities)}


DELETE = Call("DELETE", f"{KEYS}/host1", task=True)
CREATE = Call("POST", KEYS, {"name": "host1", "public_key": key("new")}, task=True)
CERTIFIED = Call("POST", KEYS, {"name": "host1", "certificate": "PEM"}, task=True)
BACK = Call("POST", KEYS, {"name": "host1", "public_key": key("old")}, task=True)
RELEASE = Call(
    "POST", f"{IDENTITIES}/host1", {"principal": ISSUER}, query=(("action", "release"),), task=True
)


def accept(name: str) -> Call:
    path = f"/trust/clusters/domain-c1/tpm-clocks/area%20of%20{name}"
    return Call("POST", path, query=(("action", "accept"),), task=True)


OLD = (seen("ta1", "old"), seen("ta2", "old"))
NEW = (seen("ta1", "new"), seen("ta2", "new"))


@pytest.mark.parametrize(
    "current, given, calls, undo, bound",
    [
        # A replaced TPM, in every state that an interrupted run may leave.
        (found(key("old"), *OLD), wanted(), (DELETE, CREATE, RELEASE), (BACK,), {}),
        (found("", *OLD), wanted(), (CREATE, RELEASE), (), {}),
        (found(key("new"), *OLD), wanted(), (RELEASE,), (), {}),
        (found(key("new"), NEW[0], OLD[1]), wanted(), (RELEASE,), (), {"ta1": digest("new")}),
        (found(key("new"), *NEW), wanted(), (), (), {"ta1": digest("new"), "ta2": digest("new")}),
        (found(key("new")), wanted(), (), (), {}),
        (found(""), wanted(), (CREATE,), (), {}),
        # A policy of certificates alone.
        (found("", *OLD), wanted(enroll=False), (RELEASE,), (), {}),
        (found(key("old"), *OLD), wanted(certificate="PEM"), (DELETE, CERTIFIED, RELEASE), (BACK,), {}),
        # A TPM that was cleared is the same TPM: nothing is released.
        (
            found(key("old"), *OLD),
            wanted(key="", accept_clock=True),
            (accept("old"),),
            (),
            {"ta1": digest("old"), "ta2": digest("old")},
        ),
        (found(""), wanted(key="", accept_clock=True), (), (), {}),
        # A host that is removed.
        (found("", *OLD), wanted(key="", release=True), (RELEASE,), (), {}),
        (found(""), wanted(key="", release=True), (), (), {}),
        (found(key("new"), NEW[0]), wanted(release=True), (), (), {"ta1": digest("new")}),
        # The old TPM's history is not touched when it is replaced.
        (found(key("new"), *OLD), wanted(accept_clock=True), (RELEASE,), (), {}),
        (
            found(key("new"), *NEW),
            wanted(accept_clock=True),
            (accept("new"),),
            (),
            {"ta1": digest("new"), "ta2": digest("new")},
        ),
        (found(key("old"), *OLD), wanted(key=""), (), (), {"ta1": digest("old"), "ta2": digest("old")}),
    ],
)
def test_plan(current: Any, given: Any, calls: Any, undo: Any, bound: dict[str, str]) -> None:
    planned = plan(current, given)
    assert (planned.calls, planned.undo) == (calls, undo)
    assert planned.after is not None and planned.after["bound_to"] == bound
    enrolled = given["key"] if given["key"] and given["enroll"] else current["enrolled"]
    assert planned.after["enrolled"] == enrolled


def test_a_host_of_several_principals() -> None:
    with pytest.raises(
        ApiError, match="several principals have a host host1: https://another/, https://work"
    ):
        plan(found("", *OLD, seen("ta1", "old", "https://another/")), wanted())


def test_what_is_wanted() -> None:
    given = {"host": "host1", "principal": None, "name": None, "public_key": None, "certificate": None}
    given |= {"enroll": True, "release": False, "accept_clock": True}
    assert wanted_of(given) == wanted(key="", accept_clock=True)
    assert wanted_of({**given, "public_key": key("new"), "name": "n"})["name"] == "n"
    for field in ("public_key", "certificate"):
        with pytest.raises(ValueError, match=f"{field}: this is not"):
            wanted_of({**given, field: "text"})
    assert key_digest(key("new")) == digest("new")


@pytest.mark.parametrize("check", [True, False])
def test_it_is_done_once(run_module: Any, client: Any, check: bool) -> None:
    other = seen("ta1", "old", "https://another/")
    fake = client(
        {
            ("GET", f"{KEYS}/host1"): {"public_key": key("old")},
            ("GET", IDENTITIES): [*OLD, other],
            ("DELETE", f"{KEYS}/host1"): None,
            ("POST", KEYS): None,
            ("POST", f"{IDENTITIES}/host1"): True,
        }
    )
    given = {"cluster": "one", "host": "host1", "principal": ISSUER, "public_key": key("new")}
    result = run_module("tpm2_endorsement_key_replace", fake, **given, check=check)
    assert result["changed"] and fake.changes == ([] if check else [DELETE, CREATE, RELEASE])
    assert result["diff"]["before"]["bound_to"] == {"ta1": digest("old"), "ta2": digest("old")}


def test_something_must_be_wanted(run_module: Any, client: Any) -> None:
    result = run_module("tpm2_endorsement_key_replace", client({}), cluster="one", host="host1")
    assert result["failed"] and "one of these is needed" in result["msg"]
    result = run_module(
        "tpm2_endorsement_key_replace", client({}), cluster="one", host="host1", public_key="text"
    )
    assert result["failed"] and "this is not a public key" in result["msg"]

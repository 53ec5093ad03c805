# SPDX-License-Identifier: GPL-3.0-or-later
"""The life cycle of base images, who uses which, and what scopes may name."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.manager.harness import Api
from services.manager.test_attestation_configuration import (
    IMAGES,
    IMPORT,
    PRINCIPALS,
    SCOPES,
    authority,
    blob,
    image,
    principal,
)

from trusted_infrastructure.config.documents import BaseImage, Scope
from trusted_infrastructure.manager.base_image_states import STEPS, State, check_step, last_of
from trusted_infrastructure.manager.base_image_use import HostResult, use
from trusted_infrastructure.manager.scope_references import check_references
from trusted_infrastructure.manager.vapi.errors import InvalidArgument, NotAllowedInCurrentState

__all__ = ["authority"]
OWN = "/trust/clusters/authority/base-images"
STATES: tuple[State, ...] = ("STAGED", "ACTIVE", "RETIRED")
ISSUER = "https://workload-manager/"

# before, after -> without `reactivate`, with it: "" for allowed, or the reason of the refusal.
EXPECTED = {
    ("STAGED", "STAGED"): ("", ""),
    ("STAGED", "ACTIVE"): ("", ""),
    ("STAGED", "RETIRED"): ("", ""),
    ("ACTIVE", "STAGED"): ("life_cycle_step", "life_cycle_step"),
    ("ACTIVE", "ACTIVE"): ("", ""),
    ("ACTIVE", "RETIRED"): ("", ""),
    ("RETIRED", "STAGED"): ("reactivation_required", ""),
    ("RETIRED", "ACTIVE"): ("reactivation_required", ""),
    ("RETIRED", "RETIRED"): ("", ""),
}


def refusal(before: State, after: State, reactivate: bool) -> str:
    """The reason why a step is refused; empty when it is not."""
    try:
        check_step("1", before, after, reactivate)
    except NotAllowedInCurrentState as error:
        assert "'1'" in error.text
        return error.reason
    return ""


@pytest.mark.parametrize("before, after", list(product(STATES, STATES)))
def test_every_step(before: State, after: State) -> None:
    found = (refusal(before, after, False), refusal(before, after, True))
    assert found == EXPECTED[before, after]


def test_nothing_leads_out_of_retired_for_free() -> None:
    assert {step for (before, _after), step in STEPS.items() if before == "RETIRED"} == {"explicit"}


def base_image(state: State) -> BaseImage:
    return BaseImage(image_version="x", display_name="x", bank="sha256", pcrs={}, state=state)


def scope(*images: str) -> Scope:
    return Scope(principal=ISSUER, trusted_cluster="c", base_images=list(images), providers=[])


@pytest.mark.parametrize(
    "states, scopes, expected",
    [
        ({"1": "ACTIVE"}, {"a": ["*"], "b": ["1"], "c": []}, ["a", "b"]),
        ({"1": "ACTIVE", "2": "STAGED"}, {"a": ["*"], "b": ["1"], "c": ["1", "2"]}, ["b"]),
        ({"1": "ACTIVE", "2": "RETIRED"}, {"a": ["*"], "b": ["1", "2"]}, ["a", "b"]),
        ({"1": "ACTIVE"}, {"a": ["1", "unknown"]}, ["a"]),
        ({"1": "RETIRED"}, {"a": ["*"]}, []),
        ({}, {"a": ["*"]}, []),
    ],
)
def test_the_last_image_of_a_scope(
    states: dict[str, State], scopes: dict[str, list[str]], expected: list[str]
) -> None:
    images = {name: base_image(state) for name, state in states.items()}
    assert last_of("1", images, {name: scope(*allowed) for name, allowed in scopes.items()}) == expected


def result(host: str, last: int, image: str | None, **changes: Any) -> HostResult:
    values = {"state": "ATTESTED", "principal": ISSUER, "until": last + 60, **changes}
    return HostResult(host=host, since=last, last=last, base_image=image, **values)


def test_a_host_counts_for_the_image_of_its_latest_attestation() -> None:
    found = use(
        [
            ("ta1", result("host1", 100, "1")),
            ("ta2", result("host1", 200, "2")),
            ("ta1", result("host2", 100, "1")),
            ("ta2", result("host2", 150, "1", state="EXPIRED")),
            ("ta1", result("host3", 300, None, state="FAILED")),
            ("ta1", result("host1", 50, "1", principal="https://other/")),
        ]
    )
    rows = {
        version: [(one.host, one.principal, one.services) for one in hosts]
        for version, hosts in found.items()
    }
    assert rows == {
        "1": [("host1", "https://other/", ["ta1"]), ("host2", ISSUER, ["ta1", "ta2"])],
        "2": [("host1", ISSUER, ["ta2"])],
    }
    assert found["1"][1].attested_until == "1970-01-01T00:03:30.000Z"


def test_from_staged_to_retired_and_back(authority: Api, tmp_path: Path) -> None:
    authority.done("POST", IMPORT, json=blob(image(state="STAGED")))
    assert authority.nodes.content("ta2", "base_image", "2026.11")["state"] == "STAGED"
    one = f"{OWN}/2026.11"
    assert authority.done("GET", one)["state"] == "STAGED"
    for wanted, before in [("ACTIVE", "STAGED"), ("ACTIVE", "ACTIVE"), ("RETIRED", "ACTIVE")]:
        updated = authority.done("PATCH", one, json={"state": wanted})
        assert updated == {"version": "2026.11", "before": before, "state": wanted, "warnings": []}
        assert authority.nodes.content("ta2", "base_image", "2026.11")["state"] == wanted
    generation = authority.nodes.documents["ta1"]["base_image", "2026.11"].generation
    error = authority.failed("PATCH", one, json={"state": "ACTIVE"})
    assert error["error_type"] == "NOT_ALLOWED_IN_CURRENT_STATE"
    assert error["messages"][0]["id"] == "trusted.infrastructure.reactivation_required"
    assert authority.nodes.documents["ta1"]["base_image", "2026.11"].generation == generation
    authority.done("PATCH", one, json={"state": "ACTIVE", "reactivate": True})
    assert authority.done("GET", one)["state"] == "ACTIVE"
    error = authority.failed("PATCH", one, json={"state": "STAGED", "reactivate": True})
    assert error["messages"][0]["id"] == "trusted.infrastructure.life_cycle_step"
    # vSphere's operations know nothing of it.
    assert set(authority.done("GET", f"{IMAGES}/2026.11")) == {"display_name", "health", "details"}
    lines = [msgspec.json.decode(line) for line in (tmp_path / "audit.log").read_bytes().splitlines()]
    ends = [
        (line["code"], line["detail"]["before"], line["detail"]["state"], line["detail"]["reactivate"])
        for line in lines
        if line["detail"]["operation"].endswith("base_images.update$task") and line["code"] != "started"
    ]
    assert ends == [
        ("ok", "STAGED", "ACTIVE", "false"),
        ("ok", "ACTIVE", "ACTIVE", "false"),
        ("ok", "ACTIVE", "RETIRED", "false"),
        ("reactivation_required", "RETIRED", "ACTIVE", "false"),
        ("ok", "RETIRED", "ACTIVE", "true"),
        ("life_cycle_step", "ACTIVE", "STAGED", "true"),
    ]


def test_an_import_is_active_unless_its_document_says_otherwise(authority: Api) -> None:
    authority.done("POST", IMPORT, json=blob(image()))
    authority.done("POST", IMPORT, json=blob(image(image_version="2", state="RETIRED")))
    listed = authority.done("GET", OWN)
    assert [(item["version"], item["state"], item["health"]) for item in listed] == [
        ("2", "RETIRED", "OK"),
        ("2026.11", "ACTIVE", "OK"),
    ]
    assert (
        authority.failed("POST", IMPORT, json=blob(image(image_version="2")))["error_type"]
        == "ALREADY_EXISTS"
    )
    response = authority.request("POST", f"{IMPORT}&vmw-task=true", json=blob(image(state="active")))
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, ["imgdb.state"])


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "spec.state"),
        ({"state": "GONE"}, "spec.state"),
        ({"state": "ACTIVE", "reactivate": "yes"}, "spec.reactivate"),
        ({"state": "ACTIVE", "force": True}, "spec.force"),
    ],
)
def test_a_bad_update_names_the_field(authority: Api, body: object, field: str) -> None:
    response = authority.request("PATCH", f"{OWN}/x?vmw-task=true", json=body)
    assert (response.status_code, response.json()["messages"][0]["args"]) == (400, [field])


def test_an_unknown_image(authority: Api) -> None:
    assert authority.failed("GET", f"{OWN}/x")["error_type"] == "NOT_FOUND"
    assert authority.failed("PATCH", f"{OWN}/x", json={"state": "RETIRED"})["error_type"] == "NOT_FOUND"


def test_use_and_what_retiring_takes(authority: Api) -> None:
    authority.done("POST", PRINCIPALS, json=principal())
    authority.done("POST", IMPORT, json=blob(image()))
    body = {
        "scope": "lab",
        "principal": ISSUER,
        "trusted_cluster": "t",
        "base_images": ["*"],
        "providers": ["*"],
    }
    authority.done("POST", SCOPES, json=body)
    attested = {"host": "host1", "state": "ATTESTED", "since": 1_800_000_000, "last": 1_800_000_000}
    attested |= {"base_image": "2026.11", "principal": ISSUER, "until": 1_800_003_600, "reason": ""}
    authority.nodes.answers["GET", "/attestation/manage/v1/hosts"] = lambda _host: {"hosts": [attested]}
    found = authority.done("GET", f"{OWN}/2026.11")
    assert (found["scopes"], found["last_of"]) == (["lab"], ["lab"])
    assert found["hosts"] == [
        {
            "host": "host1",
            "principal": ISSUER,
            "last_attested_time": "2027-01-15T08:00:00.000Z",
            "attested_until": "2027-01-15T09:00:00.000Z",
            "services": ["ta1", "ta2"],
        }
    ]
    (warning,) = authority.done("PATCH", f"{OWN}/2026.11", json={"state": "RETIRED"})["warnings"]
    assert (warning["id"], warning["args"]) == ("trusted.infrastructure.last_base_image", ["lab"])


@pytest.mark.parametrize("field", ["since", "last", "until"])
@pytest.mark.parametrize("value", [-1, 253402300800, 10**30])
def test_times_that_no_date_has_are_no_answer(authority: Api, field: str, value: int) -> None:
    authority.done("POST", IMPORT, json=blob(image()))
    attested = {"host": "host1", "state": "ATTESTED", "since": 1, "last": 1, "base_image": "2026.11"}
    attested |= {"principal": ISSUER, "until": 2}
    authority.nodes.answers["GET", "/attestation/manage/v1/hosts"] = lambda host: {
        "hosts": [{**attested, field: value} if host == "ta1" else attested]
    }
    (used,) = authority.done("GET", f"{OWN}/2026.11")["hosts"]
    assert used["services"] == ["ta2"]


def test_a_change_that_a_host_missed_is_kept(authority: Api) -> None:
    authority.done("POST", IMPORT, json=blob(image()))
    authority.nodes.down = {"ta2"}
    error = authority.failed("PATCH", f"{OWN}/2026.11", json={"state": "RETIRED"})
    assert error["messages"][0]["args"] == ["ta2"]
    found = authority.done("GET", f"{OWN}/2026.11")
    assert (found["state"], found["health"], found["details"][0]["args"]) == ("RETIRED", "ERROR", ["ta2"])


KNOWN = {"principals": [ISSUER], "base_images": ["1"], "providers": ["finance"]}


@pytest.mark.parametrize(
    "changes, field",
    [
        ({}, ""),
        ({"base_images": ["*"], "providers": []}, ""),
        ({"principal": "https://x/"}, "spec.principal"),
        ({"base_images": ["1", "2"]}, "spec.base_images[1]"),
        ({"providers": ["sales"]}, "spec.providers[0]"),
    ],
)
def test_a_scope_names_what_there_is(changes: dict[str, Any], field: str) -> None:
    wanted = Scope(principal=ISSUER, trusted_cluster="t", base_images=["1"], providers=["finance"])
    wanted = msgspec.structs.replace(wanted, **changes)
    if not field:
        check_references(wanted, None, **KNOWN)
        return
    with pytest.raises(InvalidArgument) as caught:
        check_references(wanted, None, **KNOWN)
    assert caught.value.field == field
    # What it named before stays changeable.
    check_references(wanted, wanted, **KNOWN)


def test_unknown_names_in_a_scope_are_errors(authority: Api) -> None:
    body = {
        "scope": "lab",
        "principal": ISSUER,
        "trusted_cluster": "t",
        "base_images": ["1"],
        "providers": ["p"],
    }
    error = authority.failed("POST", SCOPES, json=body)
    assert (error["error_type"], error["messages"][0]["args"]) == ("INVALID_ARGUMENT", ["spec.principal"])
    authority.done("POST", PRINCIPALS, json=principal())
    assert authority.failed("POST", SCOPES, json=body)["messages"][0]["args"] == ["spec.base_images[0]"]
    authority.done("POST", IMPORT, json=blob(image(image_version="1")))
    error = authority.failed("POST", SCOPES, json=body)
    assert error["messages"][0]["default_message"] == (
        "spec.providers[0]: there is no key provider 'p'; there is none yet"
    )
    authority.done("POST", SCOPES, json={**body, "providers": ["*"]})
    error = authority.failed("PATCH", f"{SCOPES}/lab", json={"base_images": ["1", "2"]})
    assert error["messages"][0]["args"] == ["spec.base_images[1]"]
    # An image that is deleted while it is named does not lock the scope.
    authority.done("DELETE", f"{IMAGES}/1")
    authority.done("PATCH", f"{SCOPES}/lab", json={"trusted_cluster": "other"})
    assert authority.done("GET", f"{SCOPES}/lab")["base_images"] == ["1"]

# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what: the rules on their own, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from trusted_infrastructure.manager import privileges as known
from trusted_infrastructure.manager.authorization import (
    ROOT,
    Grant,
    Place,
    Rights,
    check_held,
    check_object,
    may_run,
    visible_clusters,
    visible_hosts,
)
from trusted_infrastructure.manager.delegation import check_delegation, check_given, check_power_over
from trusted_infrastructure.manager.inventory import Cluster, Host
from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.roles import SYSTEM_ROLES
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState, Unauthorized
from trusted_infrastructure.manager.vapi.operation import AnyOperation, Operation, privileges
from trusted_infrastructure.manager.vapi.structure import Nothing

ONE, TWO = Cluster(1, "one", "group"), Cluster(2, "two", "group")
HOST = Host(1, 1, "first", "first", 443, None, None)


def grant(*held: str, cluster: int | None = None, own: bool = True, propagate: bool = True) -> Grant:
    return Grant(frozenset(held), cluster, own, propagate)


def operation(path: str = "/x", name: str = "get", *wanted: str) -> AnyOperation:
    return Operation(
        service="x",
        operation=name,
        method="GET",
        path=path,
        summary="x",
        input=Nothing,
        output=None,
        handler=None,  # type: ignore[arg-type]
        privileges=privileges(*wanted),
    )


CLUSTER_ONE, HOSTS_OF_ONE, CLUSTER_TWO = Place(1), Place(1, True), Place(2)
RULES: dict[str, tuple[tuple[Grant, ...], dict[Place, str]]] = {
    "nothing": ((), {ROOT: "", CLUSTER_ONE: "", HOSTS_OF_ONE: ""}),
    "what is on the root counts below": (
        (grant("A"),),
        {ROOT: "A", CLUSTER_ONE: "A", HOSTS_OF_ONE: "A"},
    ),
    "unless it does not propagate": (
        (grant("A", propagate=False),),
        {ROOT: "A", CLUSTER_ONE: "", HOSTS_OF_ONE: ""},
    ),
    "what is on a cluster counts there": (
        (grant("A", cluster=1),),
        {ROOT: "", CLUSTER_ONE: "A", HOSTS_OF_ONE: "A", CLUSTER_TWO: ""},
    ),
    "and overrides the root": (
        (grant("A"), grant("B", cluster=1)),
        {ROOT: "A", CLUSTER_ONE: "B", HOSTS_OF_ONE: "B", CLUSTER_TWO: "A"},
    ),
    "also with nothing": (
        (grant("A"), grant(cluster=1)),
        {ROOT: "A", CLUSTER_ONE: "", HOSTS_OF_ONE: "", CLUSTER_TWO: "A"},
    ),
    "without propagating it leaves the root's to the hosts": (
        (grant("A"), grant("B", cluster=1, propagate=False)),
        {CLUSTER_ONE: "B", HOSTS_OF_ONE: "A"},
    ),
    "of groups all count": (
        (grant("A", own=False), grant("B", own=False)),
        {ROOT: "AB", CLUSTER_ONE: "AB"},
    ),
    "the user's own overrides those of his groups": (
        (grant("A", own=False), grant("B", own=False), grant("C")),
        {ROOT: "C", CLUSTER_ONE: "C"},
    ),
    "on its own level only": (
        (grant("C"), grant("A", cluster=1, own=False)),
        {ROOT: "C", CLUSTER_ONE: "A", HOSTS_OF_ONE: "A"},
    ),
    "a group's on the cluster overrides another group's on the root": (
        (grant("A", own=False), grant("B", cluster=1, own=False)),
        {ROOT: "A", CLUSTER_ONE: "B"},
    ),
    "the user's own that does not propagate overrides nothing below": (
        (grant("C", propagate=False), grant("A", own=False)),
        {ROOT: "C", CLUSTER_ONE: "A"},
    ),
}


@pytest.mark.parametrize("case", RULES)
def test_which_permissions_count(case: str) -> None:
    grants, expected = RULES[case]
    rights = Rights(name="u", grants=grants)
    assert {place: "".join(sorted(rights.on(place))) for place in expected} == expected


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [(None, {ROOT: "AF", CLUSTER_ONE: "F", CLUSTER_TWO: "AF"}), (1, {ROOT: "A", CLUSTER_ONE: "F"})],
)
def test_what_the_inventory_gives_is_never_overridden(cluster: int | None, expected: Any) -> None:
    rights = Rights(
        name="u", fixed=frozenset("F"), fixed_cluster=cluster, grants=(grant("A"), grant(cluster=1))
    )
    assert {place: "".join(sorted(rights.on(place))) for place in expected} == expected


ALL = grant("*")
READER = operation("/x", "get", "A", "B")
CHANGER = operation("/x", "update", "A")
OF_CLUSTER = operation("/x/{cluster}", "update", "A", "B@cluster")
OF_HOST = operation("/x/{host}", "update", "A@host")
TRUST = operation("/x/{cluster}", "update", "TrustedAdmin.ManageKMSTrust", "System.View@cluster")
TRUST_HELD = grant("TrustedAdmin.ManageKMSTrust", "System.View")
READS_TRUST = operation("/x", "get", "TrustedAdmin.ReadKMSTrust")
HELD: list[tuple[str, AnyOperation, Rights, str]] = [
    ("nobody", READER, Rights(name="u"), "privilege_missing"),
    ("one of two", READER, Rights(name="u", grants=(grant("A"),)), "privilege_missing"),
    ("each on another cluster", READER, Rights(name="u", grants=(grant("A", cluster=1), grant("B"))), "x"),
    ("both", READER, Rights(name="u", grants=(grant("A", "B"),)), ""),
    ("all", READER, Rights(name="u", grants=(ALL,)), ""),
    ("reading with one cluster", READER, Rights(name="u", grants=(grant("A", "B", cluster=1),)), ""),
    ("changing with one", CHANGER, Rights(name="u", grants=(grant("A", cluster=1),)), "limited_to_cluster"),
    ("changing with all others", CHANGER, Rights(name="u", grants=(ALL, grant(cluster=1))), ""),
    ("a cluster with one", OF_CLUSTER, Rights(name="u", grants=(grant("A", "B", cluster=1),)), ""),
    ("not a member", TRUST, Rights(name="u", grants=(TRUST_HELD,)), "not_trusted_admin"),
    ("with everything and no member", TRUST, Rights(name="u", grants=(ALL,)), "not_trusted_admin"),
    ("of the inventory and no member", TRUST, Rights(name="u", fixed=frozenset("*")), "not_trusted_admin"),
    ("a member without privileges", TRUST, Rights(name="u", trusted_admin=True), "privilege_missing"),
    ("a member", TRUST, Rights(name="u", grants=(TRUST_HELD,), trusted_admin=True), ""),
    ("reading without membership", READS_TRUST, Rights(name="u", grants=(ALL,)), ""),
]


@pytest.mark.parametrize(
    ("asked", "rights", "reason"), [row[1:] for row in HELD], ids=[row[0] for row in HELD]
)
def test_asking_at_all(asked: AnyOperation, rights: Rights, reason: str) -> None:
    if reason:
        with pytest.raises(Unauthorized) as error:
            check_held(asked, rights)
        assert error.value.reason == ("privilege_missing" if reason == "x" else reason)
    else:
        check_held(asked, rights)


OBJECTS: list[tuple[str, AnyOperation, tuple[Grant, ...], Cluster, Host | None, bool]] = [
    ("the cluster", OF_CLUSTER, (grant("A", "B", cluster=1),), ONE, None, True),
    ("another cluster", OF_CLUSTER, (grant("A", "B", cluster=1),), TWO, None, False),
    ("overridden there", OF_CLUSTER, (ALL, grant("A", cluster=1)), ONE, None, False),
    ("overridden elsewhere", OF_CLUSTER, (ALL, grant("A", cluster=1)), TWO, None, True),
    ("a host of the cluster", OF_HOST, (grant("A", cluster=1),), ONE, HOST, True),
    ("a host, not propagated", OF_HOST, (grant("A", cluster=1, propagate=False),), ONE, HOST, False),
    ("a host, root not propagated", OF_HOST, (grant("A", propagate=False),), ONE, HOST, False),
]


@pytest.mark.parametrize(
    ("asked", "grants", "cluster", "host", "allowed"),
    [row[1:] for row in OBJECTS],
    ids=[row[0] for row in OBJECTS],
)
def test_asking_about_an_object(
    asked: AnyOperation, grants: tuple[Grant, ...], cluster: Cluster, host: Host | None, allowed: bool
) -> None:
    rights = Rights(name="u", grants=grants)
    assert may_run(asked, rights, cluster, host) is allowed
    if allowed:
        check_object(asked, rights, cluster, host)
    else:
        with pytest.raises(Unauthorized, match=r"lacks the privilege [AB] on the (cluster|host)"):
            check_object(asked, rights, cluster, host)


def test_tasks_of_no_object_are_for_those_of_the_root() -> None:
    assert may_run(READER, Rights(name="u", grants=(grant("A", "B"),)), None, None)
    assert not may_run(READER, Rights(name="u", grants=(grant("A", "B", cluster=1),)), None, None)


def test_what_lists_show() -> None:
    rights = Rights(name="u", grants=(grant("V"), grant(cluster=1), grant("V", "A", cluster=2)))
    assert visible_clusters(rights, ["V"], [ONE, TWO]) == [TWO]
    assert visible_clusters(rights, ["V", "A"], [ONE, TWO]) == [TWO]
    assert visible_clusters(Rights(name="u"), ["V"], [ONE, TWO]) == []
    assert visible_hosts(rights, ["V"], [HOST]) == []
    assert visible_hosts(Rights(name="u", grants=(grant("V"),)), ["V"], [HOST]) == [HOST]


ADMIN = Rights(name="admin", grants=(ALL,), trusted_admin=True)
NO_CRYPTO = Rights(name="nocrypto", grants=(Grant(SYSTEM_ROLES["NoCryptoAdmin"].privileges),))
NOBODY = Rights(name="nobody")


def with_grants(*grants: Grant, trusted_admin: bool = False) -> Rights:
    return Rights(name="nobody", grants=grants, trusted_admin=trusted_admin)


GAINS: list[tuple[str, Rights, Rights, Rights, bool]] = [
    ("everything from an administrator", ADMIN, NOBODY, with_grants(ALL, trusted_admin=True), True),
    ("everything from another", NO_CRYPTO, NOBODY, with_grants(ALL), False),
    ("what he holds", NO_CRYPTO, NOBODY, with_grants(grant("Global.Whatever")), False),
    ("a part of what he holds", NO_CRYPTO, NOBODY, with_grants(grant("System.View")), True),
    ("a cryptographic operation", NO_CRYPTO, NOBODY, with_grants(grant("Cryptographer.Access")), False),
    ("on one cluster", NO_CRYPTO, NOBODY, with_grants(grant("Cryptographer.Access", cluster=1)), False),
    ("membership", NO_CRYPTO, NOBODY, with_grants(trusted_admin=True), False),
    ("what he had", NO_CRYPTO, with_grants(ALL, trusted_admin=True), with_grants(ALL), True),
    ("less than he had", NO_CRYPTO, with_grants(ALL), with_grants(grant("Cryptographer.Access")), True),
    ("an override that is gone", NO_CRYPTO, with_grants(ALL, grant(cluster=1)), with_grants(ALL), False),
    (
        "what the giver holds on the root and not on the cluster",
        Rights(name="limited", grants=(grant("A"), grant(cluster=1))),
        NOBODY,
        with_grants(grant("A")),
        False,
    ),
    (
        "below the root, from one who holds it on the root alone",
        Rights(name="limited", grants=(grant("A", propagate=False),)),
        NOBODY,
        with_grants(grant("A")),
        False,
    ),
]


@pytest.mark.parametrize(
    ("caller", "then", "now", "allowed"), [row[1:] for row in GAINS], ids=[row[0] for row in GAINS]
)
def test_nobody_gives_away_more_than_he_holds(
    caller: Rights, then: Rights, now: Rights, allowed: bool
) -> None:
    before, after = {"nobody": then, "admin": ADMIN}, {"nobody": now, "admin": ADMIN}
    if allowed:
        check_delegation(before, after, caller)
        return
    with pytest.raises(Unauthorized) as error:
        check_delegation(before, after, caller)
    assert error.value.reason == "beyond_own_rights"


def test_a_password_is_set_for_weaker_users_only() -> None:
    check_power_over(NO_CRYPTO, ADMIN)
    for stronger in (ADMIN, Rights(name="u", grants=(grant("Cryptographer.Access", cluster=9),))):
        with pytest.raises(Unauthorized):
            check_power_over(stronger, NO_CRYPTO)
    with pytest.raises(Unauthorized):
        check_given({"*"}, NO_CRYPTO)


@pytest.mark.parametrize("left", [with_grants(ALL), with_grants(trusted_admin=True)])
def test_the_last_administrator_stays(left: Rights) -> None:
    before = {"admin": ADMIN, "nobody": left}
    with pytest.raises(NotAllowedInCurrentState) as error:
        check_delegation(before, {"nobody": left}, ADMIN)
    assert error.value.reason == "last_administrator"
    check_delegation(before, {"nobody": with_grants(ALL, trusted_admin=True)}, ADMIN)
    # Where there never was one, none is missing.
    check_delegation({"nobody": NOBODY}, {}, NOBODY)


def test_every_privilege_of_an_operation_is_known() -> None:
    used = {privilege.id for item in TABLE for privilege in item.privileges}
    assert used <= known.IDS
    assert len(known.IDS) == len(known.KNOWN)
    assert {item.group for item in known.KNOWN} == set(known.GROUP_NAMES)
    assert all(item.name and item.purpose for item in known.KNOWN)


def test_the_groups_are_those_of_vsphere() -> None:
    assert {identifier.removeprefix("Cryptographer.") for identifier in known.CRYPTOGRAPHIC} == {
        "Access",
        "AddDisk",
        "Clone",
        "Decrypt",
        "Encrypt",
        "EncryptNew",
        "ManageEncryptionPolicy",
        "ManageKeyServers",
        "ReadKeyServersInfo",
        "ManageKeys",
        "Migrate",
        "Recrypt",
        "RegisterHost",
        "RegisterVM",
    }
    assert {identifier.removeprefix("TrustedAdmin.") for identifier in known.TRUSTED} == {
        "ManageTrustedHosts",
        "ReadTrustedHosts",
        "ManageAttestingSSO",
        "ReadAttestingSSO",
        "ConfigureHostCertificates",
        "RetrieveTPMHostCertificates",
        "ConfigureHostMetadata",
        "RetrieveHostMetadata",
        "ManageKMSTrust",
        "ReadKMSTrust",
        "ReadStsInfo",
        "ConfigureTokenConversionPolicy",
    }
    assert {identifier.split(".")[1][:4] for identifier in known.TRUST_CHANGING} == {"Mana", "Conf"}


def test_no_cryptography_administrator_lacks_what_vsphere_says() -> None:
    lacking = known.IDS - SYSTEM_ROLES["NoCryptoAdmin"].privileges
    assert lacking == known.CRYPTOGRAPHIC | {
        "Global.Diagnostics",
        "Host.Inventory.AddHostToCluster",
        "Host.Inventory.AddStandaloneHost",
        "Host.Local.ManageUserGroups",
    }

# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what: the privileges of an operation against what a user holds where. Pure.

Objects are the manager (the root), its clusters, and their hosts. A permission gives a user or a group a role
on the root or on a cluster. vSphere's rules decide which count on an object:

- the nearest level counts alone: what stands on a cluster overrides what stands on the root there;
- on one level, a permission of the user himself overrides those of his groups;
- of several groups on that level, the privileges of all count;
- a permission without `propagate` counts on its own object only, and is no level for what is below.

What the users file gives is held beside all that and is never overridden: who writes it has the machine.

All privileges of an operation must be held on the object that its path names; without one on the root, or, to
read a list, on the root or any cluster: the list then has those objects alone on which they are held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from trusted_infrastructure.manager.inventory import Cluster, Host
from trusted_infrastructure.manager.privileges import TRUST_CHANGING, missing
from trusted_infrastructure.manager.vapi.errors import Unauthorized
from trusted_infrastructure.manager.vapi.operation import AnyOperation

TRUSTED_ADMINS = "TrustedAdmins"
# Numbers of clusters begin with 1. This one stands for every cluster that no permission names.
OTHER_CLUSTERS = 0
NOTHING: frozenset[str] = frozenset()


class Place(NamedTuple):
    """An object: the root without a cluster, a cluster by its number, or the hosts of that cluster."""

    cluster: int | None = None
    host: bool = False


ROOT = Place()


@dataclass(frozen=True)
class Grant:
    """A permission of a user: what his role has. cluster: number, None for the root. own: his, not that of a
    group."""

    privileges: frozenset[str]
    cluster: int | None = None
    own: bool = True
    propagate: bool = True


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What a user may do. fixed: privileges of the users file, which hold on the cluster of that number and
    its hosts, or everywhere. trusted_admin: member of TrustedAdmins."""

    name: str
    fixed: frozenset[str] = NOTHING
    fixed_cluster: int | None = None
    grants: tuple[Grant, ...] = ()
    trusted_admin: bool = False

    def on(self, place: Place) -> frozenset[str]:
        """The privileges that he holds on an object."""
        everywhere = self.fixed_cluster is None
        fixed = self.fixed if everywhere or self.fixed_cluster == place.cluster else NOTHING
        return fixed | granted(self.grants, place)

    def lacks(self, wanted: Iterable[str], place: Place) -> list[str]:
        """Those of the privileges that he does not hold on an object, sorted."""
        return missing(self.on(place), list(wanted))

    def places(self) -> list[Place]:
        """Objects of each kind on which he may hold different privileges."""
        numbers = {grant.cluster for grant in self.grants if grant.cluster is not None}
        if self.fixed_cluster is not None:
            numbers.add(self.fixed_cluster)
        each = [OTHER_CLUSTERS, *sorted(numbers)]
        return [ROOT, *(Place(number, host) for number in each for host in (False, True))]


def granted(grants: Collection[Grant], place: Place) -> frozenset[str]:
    """What permissions give on an object, by the rules above."""
    levels: list[tuple[int | None, bool]] = [(None, place.cluster is None)]
    if place.cluster is not None:
        levels.insert(0, (place.cluster, not place.host))
    for cluster, exact in levels:
        here = [grant for grant in grants if grant.cluster == cluster and (exact or grant.propagate)]
        counting = [grant for grant in here if grant.own] or here
        if counting:
            return NOTHING.union(*(grant.privileges for grant in counting))
    return NOTHING


def wanted_of(operation: AnyOperation) -> list[str]:
    """Ids of the operation's privileges, without repetition, in their order."""
    return list(dict.fromkeys(privilege.id for privilege in operation.privileges))


def names_object(operation: AnyOperation) -> bool:
    """Whether the path names a cluster or host."""
    return bool({"cluster", "host"} & set(operation.path_parameters))


def administers_trust(operation: AnyOperation) -> bool:
    """Whether only members of TrustedAdmins do this: it changes the trusted infrastructure."""
    return bool(TRUST_CHANGING.intersection(wanted_of(operation)))


def check_held(operation: AnyOperation, rights: Rights) -> None:
    """The user holds all privileges of the operation on some object that it can be about.

    This is checked before objects are looked up: who may not ask at all does not learn what exists. Raises
    Unauthorized."""
    wanted = wanted_of(operation)
    if not wanted:
        return
    lacking_where = [rights.lacks(wanted, place) for place in rights.places()]
    fewest = min(lacking_where, key=len)
    if fewest:
        raise lacking(rights, fewest[0])
    if administers_trust(operation) and not rights.trusted_admin:
        raise Unauthorized(
            f"User {rights.name!r} is no member of the group {TRUSTED_ADMINS}, whose members alone change "
            "the trusted infrastructure.",
            TRUSTED_ADMINS,
            reason="not_trusted_admin",
        )
    if operation.changes and not names_object(operation) and rights.lacks(wanted, ROOT):
        raise Unauthorized(
            f"User {rights.name!r} holds {wanted[0]} on single clusters only; this operation is not about "
            "one cluster.",
            reason="limited_to_cluster",
        )


def check_object(
    operation: AnyOperation, rights: Rights, cluster: Cluster | None, host: Host | None = None
) -> None:
    """All privileges hold on the object that the path names: the cluster, or the host that is in it.

    Raises Unauthorized."""
    if cluster is None:
        return
    lacks = rights.lacks(wanted_of(operation), place_of(cluster, host))
    if lacks:
        where = f"the cluster {cluster.name!r}" if host is None else f"the host {host.name!r}"
        raise lacking(rights, lacks[0], f" on {where}")


def place_of(cluster: Cluster | None, host: Host | None = None) -> Place:
    """The object as a place. A host comes with its cluster."""
    return Place(None if cluster is None else cluster.number, host is not None)


def visible_clusters(rights: Rights, wanted: Collection[str], clusters: list[Cluster]) -> list[Cluster]:
    """Those of the clusters on which the user holds the privileges."""
    return [cluster for cluster in clusters if not rights.lacks(wanted, Place(cluster.number))]


def visible_hosts(rights: Rights, wanted: Collection[str], hosts: list[Host]) -> list[Host]:
    """Those of the hosts on which the user holds the privileges."""
    return [host for host in hosts if not rights.lacks(wanted, Place(host.cluster, True))]


def may_run(operation: AnyOperation, rights: Rights, cluster: Cluster | None, host: Host | None) -> bool:
    """Whether the user could run the operation on this object, or on the root without one: then he may also
    see its tasks."""
    try:
        check_held(operation, rights)
        check_object(operation, rights, cluster, host)
    except Unauthorized:
        return False
    return cluster is not None or not rights.lacks(wanted_of(operation), ROOT)


def lacking(rights: Rights, privilege: str, where: str = "") -> Unauthorized:
    """The error, which names the privilege."""
    return Unauthorized(
        f"User {rights.name!r} lacks the privilege {privilege}{where}.", privilege, reason="privilege_missing"
    )

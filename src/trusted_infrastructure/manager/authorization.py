# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what: the privileges of an operation against those of a user. Pure.

A user without `cluster` holds his privileges everywhere. A user with one holds them for operations that name
this cluster or one of its hosts, and for reading lists (which then show him this cluster only).
"""

from __future__ import annotations

from trusted_infrastructure.manager.inventory import Cluster, Host
from trusted_infrastructure.manager.users import User
from trusted_infrastructure.manager.vapi.errors import Unauthorized
from trusted_infrastructure.manager.vapi.operation import AnyOperation


def check_held(operation: AnyOperation, user: User) -> None:
    """The user holds all privileges of the operation, on some object at least. Raises Unauthorized.

    This is checked before objects are looked up: who may not ask at all does not learn what exists."""
    for privilege in operation.privileges:
        if not user.holds(privilege.id):
            raise lacking(user, privilege.id)
    named = {"cluster", "host"} & set(operation.path_parameters)
    if user.cluster is not None and operation.changes and operation.privileges and not named:
        raise Unauthorized(
            f"User {user.name!r} is limited to the cluster {user.cluster!r}; this operation is not about one "
            "cluster.",
            reason="limited_to_cluster",
        )


def check_object(operation: AnyOperation, user: User, cluster: Cluster | None) -> None:
    """The privileges hold on the object that the path names. `cluster` is it, or its host's.

    Raises Unauthorized."""
    if cluster is not None and operation.privileges and not sees(user, cluster):
        raise lacking(user, operation.privileges[-1].id, f" on the cluster {cluster.name!r}")


def sees(user: User, cluster: Cluster) -> bool:
    """Whether the user's privileges hold on this cluster and its hosts."""
    return user.cluster is None or user.cluster in {cluster.id, cluster.name}


def visible_clusters(user: User, clusters: list[Cluster]) -> list[Cluster]:
    """Those of the clusters on which the user's privileges hold."""
    return [cluster for cluster in clusters if sees(user, cluster)]


def visible_hosts(user: User, hosts: list[Host], clusters: list[Cluster]) -> list[Host]:
    """Those of the hosts on which the user's privileges hold."""
    numbers = {cluster.number for cluster in visible_clusters(user, clusters)}
    return [host for host in hosts if host.cluster in numbers]


def may_run(operation: AnyOperation, user: User, cluster: Cluster | None) -> bool:
    """Whether the user could run the operation on this cluster: then he may also see its tasks."""
    try:
        check_held(operation, user)
        check_object(operation, user, cluster)
    except Unauthorized:
        return False
    return True


def lacking(user: User, privilege: str, where: str = "") -> Unauthorized:
    """The error, which names the privilege."""
    return Unauthorized(
        f"User {user.name!r} lacks the privilege {privilege}{where}.", privilege, reason="privilege_missing"
    )

# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation's handler is given: the manager's parts, and who is asking about what."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from trusted_infrastructure.manager.accounts import Accounts
from trusted_infrastructure.manager.audit_records import Auditor
from trusted_infrastructure.manager.authorization import ROOT, Rights, visible_clusters, visible_hosts
from trusted_infrastructure.manager.database import Database
from trusted_infrastructure.manager.database_secrets import DatabaseSecrets
from trusted_infrastructure.manager.inventory import Cluster, Host, all_clusters, all_hosts
from trusted_infrastructure.manager.key_quota import KeyQuota
from trusted_infrastructure.manager.nodes import Nodes
from trusted_infrastructure.manager.principal import Principal
from trusted_infrastructure.manager.replication import Replication
from trusted_infrastructure.manager.sessions import Session, Sessions
from trusted_infrastructure.manager.settings import ManagerSettings
from trusted_infrastructure.manager.standard_key_servers import KeyServers
from trusted_infrastructure.manager.tasks import Running, Tasks
from trusted_infrastructure.manager.users import LoginLimiter
from trusted_infrastructure.manager.vapi.operation import Table


@dataclass(frozen=True, kw_only=True)
class Manager:
    """The parts of a running manager. principal: who vouches for hosts; the workload side has one. secrets:
    what encrypts keys and passwords in the database. push_locks: by host, held while native providers are
    pushed to it: what is read first must not arrive last."""

    settings: ManagerSettings
    clock: Callable[[], float]
    database: Database
    users: Accounts
    limiter: LoginLimiter
    sessions: Sessions
    tasks: Tasks
    nodes: Nodes
    replication: Replication
    auditor: Auditor
    principal: Principal | None
    secrets: DatabaseSecrets
    key_servers: KeyServers
    key_quota: KeyQuota
    table: Table
    push_locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))


@dataclass(frozen=True)
class Basic:
    """Credentials of an Authorization header."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Context:
    """One call of an operation.

    session: who is asking; absent for public operations. bearer: token of an Authorization header. cluster,
    host: the objects that the path names, looked up and authorized. address: of the caller, as the reverse
    proxy saw it. running: the task, in a task. rights: what the caller may do, as it was when he asked;
    wanted: the privileges that the operation asks for.
    audit_detail: what the handler adds to the audit record of its change; never a secret.
    """

    manager: Manager
    address: str
    session: Session | None = None
    rights: Rights | None = None
    wanted: tuple[str, ...] = ()
    basic: Basic | None = None
    bearer: str | None = field(default=None, repr=False)
    cluster_named: Cluster | None = None
    host_named: Host | None = None
    running: Running | None = None
    audit_detail: dict[str, str] = field(default_factory=dict)

    @property
    def caller(self) -> Session:
        """The session; every operation but login has one."""
        if self.session is None:
            raise RuntimeError("this operation has no session")
        return self.session

    @property
    def cluster(self) -> Cluster:
        """The cluster that the path names."""
        if self.cluster_named is None:
            raise RuntimeError("this operation's path has no cluster")
        return self.cluster_named

    @property
    def host(self) -> Host:
        """The host that the path names."""
        if self.host_named is None:
            raise RuntimeError("this operation's path has no host")
        return self.host_named

    @property
    def caller_rights(self) -> Rights:
        """What the caller may do."""
        if self.rights is None:
            raise RuntimeError("this operation has no session")
        return self.rights

    def clusters(self) -> list[Cluster]:
        """The clusters that the caller may see: on which he holds what the operation asks for."""
        with self.manager.database.transaction() as connection:
            return visible_clusters(self.caller_rights, self.wanted, all_clusters(connection))

    def hosts(self) -> list[Host]:
        """The hosts that the caller may see."""
        with self.manager.database.transaction() as connection:
            return visible_hosts(self.caller_rights, self.wanted, all_hosts(connection))

    def limited_to(self) -> list[int] | None:
        """Numbers of the clusters about which alone the caller may read; None: nothing is hidden from him."""
        with self.manager.database.transaction() as connection:
            clusters = all_clusters(connection)
        visible = visible_clusters(self.caller_rights, self.wanted, clusters)
        if visible == clusters and not self.caller_rights.lacks(self.wanted, ROOT):
            return None
        return [cluster.number for cluster in visible]

    def progress(self, completed: int, text: str) -> None:
        """Tells a task's progress (0 to 100); nothing outside a task."""
        if self.running is not None:
            self.running.progress(completed, text)

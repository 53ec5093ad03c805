# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a manager: one typed JSON file, written at deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from trusted_infrastructure.settings import ServiceSettings

Seconds = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ManagerSettings(ServiceSettings, frozen=True):
    """What a manager must know before it starts.

    side, host: which side this manager is of, and its inventory name. public_names: names of its API; the
    first is the one that it calls itself. database: SQLAlchemy URL. side_ca: PEM of its side's CA;
    client_certificate, client_key: its identity towards the configuration servers of its hosts. users: JSON
    file of users (users.py). principal_certificate, principal_key: identity that vouches for hosts, PEM,
    chain leaf first; the workload side has it. event_limit: events that are kept at most. host_key_limit,
    host_key_rate: keys of standard providers that a host can have made, in all and within a minute. Times in
    seconds.
    """

    side: Literal["trust_authority", "workload"]
    host: str
    public_names: Annotated[list[str], msgspec.Meta(min_length=1)]
    database: str
    side_ca: Path
    client_certificate: Path
    client_key: Path
    run_directory: Path
    state_directory: Path
    users: Path
    principal_certificate: Path | None = None
    principal_key: Path | None = None
    session_idle: Seconds = 1800
    session_lifetime: Seconds = 86400
    task_retention: Seconds = 86400
    node_timeout: Seconds = 10
    assertion_lifetime: Seconds = 30 * 86400
    maintenance_interval: Seconds = 60
    attestation_poll_interval: Seconds = 60
    event_retention: Seconds = 90 * 86400
    event_limit: Count = 100_000
    host_key_limit: Count = 10_000
    host_key_rate: Count = 600

    def __post_init__(self) -> None:
        if (self.principal_certificate is None) != (self.principal_key is None):
            raise ValueError("principal_certificate and principal_key belong together")

    @property
    def issuer(self) -> str:
        """Issuer of host assertions: what the Trust Authority side knows this manager's principal by."""
        return f"https://{self.public_names[0]}/"

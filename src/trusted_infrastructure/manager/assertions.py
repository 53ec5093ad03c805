# SPDX-License-Identifier: GPL-3.0-or-later
"""Host assertions: the workload manager vouches for its hosts. Which are due is decided here.

A host has one assertion while its cluster uses an Attestation Service: for the Trust Authority Cluster's
group, with the scope and EK digest that were recorded when it was added. It is made again at half life, or
when one of these, the issuer or the signing certificate changes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping

import msgspec
import sqlalchemy as sql
from cryptography.hazmat.primitives.serialization import Encoding

from trusted_infrastructure.config.documents import HostAssertion, RegisteredService
from trusted_infrastructure.manager import desired
from trusted_infrastructure.manager.context import Manager
from trusted_infrastructure.manager.desired import Change
from trusted_infrastructure.manager.inventory import Cluster, Host, hosts_of
from trusted_infrastructure.manager.principal import Principal
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState
from trusted_infrastructure.tokens import AssertionClaims, sign_assertion

KIND = "host_assertion"
ID = "assertion"
SERVICE_KIND = "attestation_service"


def changes(
    connection: sql.Connection,
    manager: Manager,
    cluster: Cluster,
    services: Mapping[str, RegisteredService],
) -> list[Change]:
    """The assertions that are due for the hosts of a cluster which uses these Attestation Services.

    services: as they will be, when they are being changed. Raises NotAllowedInCurrentState."""
    hosts = hosts_of(connection, cluster)
    current = {
        host.name: desired.content(connection, cluster, KIND, ID, HostAssertion, host.name) for host in hosts
    }
    group = one_group(cluster, services)
    if group is None:
        return [Change(KIND, ID, None, name) for name, assertion in current.items() if assertion is not None]
    principal = required_principal(manager)
    now, lifetime = int(manager.clock()), manager.settings.assertion_lifetime
    return [
        Change(KIND, ID, make(principal, host, group, now, lifetime), host.name)
        for host in hosts
        if host.ek_digest and host.scope and is_due(current[host.name], principal, host, group, now)
    ]


def current_services(connection: sql.Connection, cluster: Cluster) -> Mapping[str, RegisteredService]:
    """The Attestation Services that the cluster uses now."""
    return desired.contents(connection, cluster, SERVICE_KIND, RegisteredService)


def one_group(cluster: Cluster, services: Mapping[str, RegisteredService]) -> str | None:
    """The group of the services; None without services. Raises NotAllowedInCurrentState for several."""
    groups = sorted({service.group for service in services.values()})
    if len(groups) > 1:
        raise NotAllowedInCurrentState(
            f"The cluster {cluster.name!r} would use Attestation Services of several groups "
            f"({', '.join(groups)}); a trusted cluster uses one Trust Authority Cluster.",
            reason="several_groups",
        )
    return groups[0] if groups else None


def required_principal(manager: Manager) -> Principal:
    """The principal. Raises NotAllowedInCurrentState on a manager without one."""
    if manager.principal is None:
        raise NotAllowedInCurrentState(
            "This manager has no principal (settings principal_certificate and principal_key), so it cannot "
            "vouch for hosts.",
            reason="no_principal",
        )
    return manager.principal


def make(principal: Principal, host: Host, group: str, now: int, lifetime: int) -> HostAssertion:
    """A new assertion for a host whose EK digest and scope are recorded."""
    claims = AssertionClaims(
        iss=principal.issuer,
        sub=host.name,
        scope=host.scope or "",
        ek_digest=host.ek_digest or "",
        aud=group,
        iat=now,
        exp=now + lifetime,
        jti=secrets.token_hex(16),
    )
    signed = sign_assertion(claims, principal.key, principal.pem_chain()[0])
    return HostAssertion(host=host.name, scope=host.scope or "", assertion=signed)


def is_due(assertion: HostAssertion | None, principal: Principal, host: Host, group: str, now: int) -> bool:
    """Whether a host needs a new assertion."""
    if assertion is None:
        return True
    header, claims = read(assertion.assertion)
    if claims is None or header.get("x5t#S256") != certificate_thumbprint(principal):
        return True
    said = (claims.iss, claims.sub, claims.scope, claims.ek_digest, claims.aud)
    if said != (principal.issuer, host.name, host.scope, host.ek_digest, group):
        return True
    return now >= (claims.iat + claims.exp) // 2


def read(assertion: str) -> tuple[Mapping[str, object], AssertionClaims | None]:
    """Header and claims of an assertion that this manager made itself, and so need not verify."""
    try:
        header, payload, _signature = assertion.split(".")
        claims = msgspec.json.decode(segment(payload), type=AssertionClaims)
        return msgspec.json.decode(segment(header), type=dict[str, object]), claims
    except (ValueError, binascii.Error, msgspec.DecodeError):
        return {}, None


def segment(text: str) -> bytes:
    """RFC 7515 base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def certificate_thumbprint(principal: Principal) -> str:
    """x5t#S256 of the signing certificate (RFC 7515, 4.1.8)."""
    der = principal.certificates[0].public_bytes(Encoding.DER)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


async def renew(manager: Manager, cluster: Cluster) -> None:
    """Makes and sends the assertions that are due. Raises ResourceInaccessible naming hosts."""
    async with manager.replication.lock(cluster):
        with manager.database.transaction() as connection:
            due = changes(connection, manager, cluster, current_services(connection, cluster))
        await manager.replication.change(cluster, due)

# SPDX-License-Identifier: GPL-3.0-or-later
"""A side's CA in memory, and leaves of it: what tests of management sockets and key sets need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from trusted_infrastructure.identity import (
    create_authority,
    create_request,
    generate_key,
    role_uri,
    sign_request,
)

NOW = 1_800_000_000


@dataclass
class SideAuthority:
    """CA of one side. now: Unix seconds at which certificates are made."""

    side: str = "trust_authority"
    common_name: str = "CA"
    now: int = NOW
    days: int = 3650
    key: bytes = field(init=False)
    certificate: str = field(init=False)

    def __post_init__(self) -> None:
        self.key, self.certificate = create_authority(
            self.common_name, self.side, self.days, now=self.now - 30 * 86400
        )

    def leaf(
        self,
        role: str = "manager",
        host: str = "ta-manager",
        *,
        side: str | None = None,
        dns: tuple[str, ...] = (),
        ips: tuple[str, ...] = (),
        days: int = 90,
        now: int | None = None,
    ) -> tuple[bytes, str]:
        """(private key PEM, certificate PEM) of a new leaf."""
        key, uri = generate_key(), role_uri(side or self.side, role, host)
        request = create_request(key, uri, dns, ips)
        moment = self.now if now is None else now
        return key, sign_request(request, self.key, self.certificate, uri, dns, ips, days, now=moment)

    def write_leaf(self, directory: Path, name: str, role: str, host: str, dns: tuple[str, ...] = ()) -> None:
        """Write <name>.key and <name>.pem."""
        key, certificate = self.leaf(role, host, dns=dns)
        (directory / f"{name}.key").write_bytes(key)
        (directory / f"{name}.key").chmod(0o600)
        (directory / f"{name}.pem").write_text(certificate)


def forwarded(certificate: str) -> dict[str, str]:
    """The header in which nginx hands on a client certificate."""
    return {"X-Client-Certificate": quote(certificate)}

# SPDX-License-Identifier: GPL-3.0-or-later
"""The services of the Trust Authority that the workload manager registered, measured against the anchor.

The anchor is a file that only local root writes: the CA of the Trust Authority that this host may use
(docs/protocol.md 2). A registered service counts only when its own CA is the anchor, or was issued by it. So
a workload manager that was taken over can keep this host from working, but cannot send it to a Trust
Authority of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from trusted_infrastructure.config.documents import NetworkAddress, RegisteredService
from trusted_infrastructure.identity import issued_by, load_certificates
from trusted_infrastructure.refusal import Refusal, Unavailable


@dataclass(frozen=True)
class Service:
    """A registered service that chains to the anchor. id: of its document. group: pairs attestation services
    with the key provider services that accept their tokens."""

    id: str
    address: NetworkAddress
    group: str

    @property
    def url(self) -> str:
        """Base URL, in the form that DPoP's `htu` has: lower case, no default port."""
        host = self.address.hostname.lower()
        host = f"[{host}]" if ":" in host else host
        return f"https://{host}" + ("" if self.address.port == 443 else f":{self.address.port}")

    @property
    def name(self) -> str:
        """For messages: host name and port."""
        return f"{self.address.hostname}:{self.address.port}"


def read_anchor(anchors_directory: Path) -> str:
    """PEM of the Trust Authority's CA (two during a rollover). Raises Unavailable `anchor_missing`."""
    path = anchors_directory / "trust_authority_ca.pem"
    try:
        anchor = path.read_text("ascii")
        load_certificates(anchor)
        return anchor
    except OSError as error:
        reason = error.strerror
    except (UnicodeDecodeError, Refusal):
        reason = "it has no certificate in PEM"
    raise Unavailable(
        "anchor_missing",
        f"cannot read {path}: {reason}",
        "run site.yml for this host, which places the Trust Authority's CA there",
    )


def check_anchored(registered: RegisteredService, anchor: str) -> None:
    """Refuse a service that the anchor (PEM) does not vouch for. Raises Refusal `service_not_anchored`.

    During a rollover a document may name the old CA, the new one, or both: one that is anchored is enough,
    because connections are verified against the anchor, never against what the document says.
    """
    anchors = load_certificates(anchor)
    try:
        named = [certificate for pem in registered.trusted_ca for certificate in load_certificates(pem)]
    except Refusal as error:
        raise _not_anchored(registered, f"its CA cannot be read ({error.message})") from None
    if not any(_vouched_for(certificate, anchors) for certificate in named):
        subjects = ", ".join(certificate.subject.rfc4514_string() for certificate in named) or "none"
        raise _not_anchored(registered, f"its CA ({subjects}) is not this host's anchor, nor issued by it")


def _vouched_for(certificate: x509.Certificate, anchors: list[x509.Certificate]) -> bool:
    return any(certificate == anchor or issued_by(certificate, anchor) for anchor in anchors)


def _not_anchored(registered: RegisteredService, reason: str) -> Refusal:
    return Refusal(
        "service_not_anchored",
        f"service {registered.address.hostname}:{registered.address.port}: {reason}",
        "register services of the Trust Authority that this host is anchored to, or let site.yml change the "
        "anchor",
    )

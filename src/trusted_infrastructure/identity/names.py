# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of our own parts: sides, roles, and the URI SAN that holds both. docs/protocol.md 2. Pure.

The role of a certificate is in a URI SAN, `urn:trusted-infrastructure:<side>:<role>:<host>`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from trusted_infrastructure.identity.pem import invalid
from trusted_infrastructure.refusal import InvalidField

SIDES = ("trust_authority", "workload")
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # id-kp-documentSigning, RFC 9336
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH
# What a role's key may do. The two services sign their key sets, and call peers.
ROLE_USAGES: dict[str, tuple[x509.ObjectIdentifier, ...]] = {
    "manager": (_CLIENT,),
    "configuration-service": (_SERVER,),
    "attestation-service": (_CLIENT, DOCUMENT_SIGNING),
    "key-provider-service": (_CLIENT, DOCUMENT_SIGNING),
    "agent": (_CLIENT,),
    "server": (_SERVER,),
}
ROLES = tuple(ROLE_USAGES)
# Used with fullmatch: "$" would let a line end through.
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True)
class LeafIdentity:
    """Who a leaf certificate speaks for."""

    side: str
    role: str
    host: str


@dataclass(frozen=True)
class LeafNames:
    """The whole subject alternative name of a leaf: role URI, DNS names, IP addresses (text)."""

    uri: str
    dns: tuple[str, ...]
    ips: tuple[str, ...]


def role_uri(side: str, role: str, host: str) -> str:
    """The URI SAN of a role. Raises InvalidField when a part is not one that we use."""
    if side not in SIDES:
        raise InvalidField("side", f"is {side!r}; expected one of {', '.join(SIDES)}")
    if role not in ROLES:
        raise InvalidField("role", f"is {role!r}; expected one of {', '.join(ROLES)}")
    if not HOST.fullmatch(host):
        raise InvalidField("host", f"is {host!r}; expected letters, digits, '.', '_' and '-'")
    return f"urn:trusted-infrastructure:{side}:{role}:{host}"


def parse_role_uri(uri: str) -> LeafIdentity:
    """The parts of a role's URI SAN. Raises Refusal `certificate_invalid`."""
    parts = uri.split(":", 4)
    if parts[:2] != ["urn", "trusted-infrastructure"] or len(parts) != 5:
        raise invalid(
            f"the URI {uri!r} does not name a role", "use a certificate of a trusted infrastructure CA"
        )
    try:
        role_uri(*parts[2:])
    except InvalidField as error:
        raise invalid(f"the URI {uri!r} does not name a role: {error.message}") from None
    return LeafIdentity(*parts[2:])


def leaf_identity(certificate: x509.Certificate) -> LeafIdentity:
    """Side, role and host that a certificate claims; says nothing of who signed it.

    Raises Refusal `certificate_invalid` when it does not have exactly one URI, or not one of ours.
    """
    names = leaf_names(certificate)
    return parse_role_uri(names.uri)


def leaf_names(certificate: x509.Certificate | x509.CertificateSigningRequest) -> LeafNames:
    """The names in a leaf's, or a request's, SAN. Raises Refusal `certificate_invalid`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise invalid("no subject alternative name, so no role") from None
    except ValueError:
        raise invalid("the extensions cannot be read") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise invalid(f"{len(uris)} URIs in the subject alternative name; expected exactly one")
    dns = names.get_values_for_type(x509.DNSName)
    ips = [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    if len(uris) + len(dns) + len(ips) != len(list(names)):
        raise invalid("the subject alternative name holds other kinds of names than URI, DNS and IP")
    return LeafNames(uris[0], tuple(dns), tuple(ips))


def canonical_ip(text: str) -> str:
    """The one form of an IP address, as certificates give it back. Raises InvalidField."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidField("ips", f"{text!r} is not an IP address") from None

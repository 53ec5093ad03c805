# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of our own parts: one CA per side, and leaves whose URI SAN says the role."""

from trusted_infrastructure.identity.issuing import create_authority, create_request, sign_request
from trusted_infrastructure.identity.names import (
    ROLES,
    SIDES,
    LeafIdentity,
    LeafNames,
    leaf_identity,
    leaf_names,
    parse_role_uri,
    role_uri,
)
from trusted_infrastructure.identity.pem import (
    generate_key,
    load_certificate,
    load_certificates,
    load_der_certificate,
    load_key,
    private_pem,
)
from trusted_infrastructure.identity.verification import (
    LeafVerifier,
    issued_by,
    key_matches,
    renewal_due,
    verify_leaf,
)

__all__ = [
    "ROLES",
    "SIDES",
    "LeafIdentity",
    "LeafNames",
    "LeafVerifier",
    "create_authority",
    "create_request",
    "generate_key",
    "issued_by",
    "key_matches",
    "leaf_identity",
    "leaf_names",
    "load_certificate",
    "load_certificates",
    "load_der_certificate",
    "load_key",
    "parse_role_uri",
    "private_pem",
    "renewal_due",
    "role_uri",
    "sign_request",
    "verify_leaf",
]

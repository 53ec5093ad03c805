# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations of the management API: one module for each resource, one table of all."""

from __future__ import annotations

from trusted_infrastructure.manager.operations import (
    base_images,
    ca_certificates,
    client_certificate,
    consumer_principals,
    endorsement_keys,
    host_tpm,
    key_providers,
    peer_certificates,
    principal,
    registered_services,
    service_status,
    services_applied_config,
    session,
    tasks,
    tpm2_settings,
    trust_audit_heads,
    trust_authority_clusters,
    trust_authority_hosts,
    trust_cluster_hosts,
    trust_clusters,
    trust_denied_hosts,
    trust_hosts,
    trust_openapi,
    trust_scopes,
    trust_settings,
    trusted_clusters,
    trusted_key_providers,
    vcenter,
)
from trusted_infrastructure.manager.vapi.operation import Table

MODULES = (
    session,
    tasks,
    vcenter,
    trust_authority_clusters,
    consumer_principals,
    base_images,
    ca_certificates,
    endorsement_keys,
    tpm2_settings,
    service_status,
    key_providers,
    client_certificate,
    peer_certificates,
    trust_authority_hosts,
    principal,
    registered_services,
    trusted_clusters,
    services_applied_config,
    host_tpm,
    trust_clusters,
    trust_cluster_hosts,
    trust_settings,
    trust_scopes,
    trust_denied_hosts,
    trust_audit_heads,
    trusted_key_providers,
    trust_hosts,
    trust_openapi,
)

TABLE: Table = tuple(operation for module in MODULES for operation in module.OPERATIONS)

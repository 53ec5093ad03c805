# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileges that there are: ids and names of vSphere, in its groups. Pure.

Every privilege that an operation asks for is one of these, and so is what a role can be given. Those that no
operation asks for yet are here because roles tell them apart: "No cryptography administrator" lacks four of
them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

ALL_PRIVILEGES = "*"


@dataclass(frozen=True)
class KnownPrivilege:
    """id: stable, of vSphere. name: as vSphere's client shows it. group: the part of the id before the last
    dot. purpose: what it permits here, or with vSphere where nothing here asks for it."""

    id: str
    name: str
    purpose: str

    @property
    def group(self) -> str:
        """Group of the id: "TrustedAdmin" of "TrustedAdmin.ReadStsInfo", "Host.Tpm" of "Host.Tpm.Read"."""
        return self.id.rpartition(".")[0]


GROUP_NAMES = {
    "Authorization": "Permissions",
    "Cryptographer": "Cryptographic operations",
    "Global": "Global",
    "Host.Inventory": "Host inventory",
    "Host.Local": "Host local operations",
    "Host.Tpm": "Host TPM",
    "System": "System",
    "TrustedAdmin": "Trusted infrastructure",
}

KNOWN: tuple[KnownPrivilege, ...] = (
    KnownPrivilege("System.Anonymous", "Anonymous", "What needs no session"),
    KnownPrivilege("System.Read", "Read", "Reading what is no secret"),
    KnownPrivilege("System.View", "View", "Names of clusters and hosts; events; users, roles, permissions"),
    KnownPrivilege("Authorization.ModifyPermissions", "Modify permission", "Users, groups and permissions"),
    KnownPrivilege("Authorization.ModifyRoles", "Modify role", "Roles"),
    KnownPrivilege("Cryptographer.Access", "Direct access", "Reading what is encrypted from outside"),
    KnownPrivilege("Cryptographer.AddDisk", "Add disk", "Attaching a disk to an encrypted machine"),
    KnownPrivilege("Cryptographer.Clone", "Clone", "Cloning an encrypted machine"),
    KnownPrivilege("Cryptographer.Decrypt", "Decrypt", "Decrypting a machine or disk"),
    KnownPrivilege("Cryptographer.Encrypt", "Encrypt", "Encrypting a machine or disk that is there"),
    KnownPrivilege("Cryptographer.EncryptNew", "Encrypt new", "Encrypting while a machine or disk is made"),
    KnownPrivilege(
        "Cryptographer.ManageEncryptionPolicy", "Manage encryption policies", "Encryption storage policies"
    ),
    KnownPrivilege(
        "Cryptographer.ManageKeyServers", "Manage KMS", "Key providers of the workload side, and the default"
    ),
    KnownPrivilege("Cryptographer.ManageKeys", "Manage keys", "Making, listing and removing keys"),
    KnownPrivilege("Cryptographer.Migrate", "Migrate", "Moving an encrypted machine to another host"),
    KnownPrivilege(
        "Cryptographer.ReadKeyServersInfo", "Read KMS information", "Listing key providers and their state"
    ),
    KnownPrivilege("Cryptographer.Recrypt", "Recrypt", "New keys for what is encrypted"),
    KnownPrivilege("Cryptographer.RegisterHost", "Register host", "Encryption mode and key of a host"),
    KnownPrivilege(
        "Cryptographer.RegisterVM", "Register VM", "Registering or unlocking an encrypted machine"
    ),
    KnownPrivilege("Global.Diagnostics", "Diagnostics", "Diagnostic files"),
    KnownPrivilege("Host.Inventory.AddHostToCluster", "Add host to cluster", "Adding a host to a cluster"),
    KnownPrivilege(
        "Host.Inventory.AddStandaloneHost", "Add standalone host", "Adding a host without cluster"
    ),
    KnownPrivilege("Host.Local.ManageUserGroups", "Manage user groups", "Accounts of a host itself"),
    KnownPrivilege("Host.Tpm.Read", "Read TPM", "A host's TPM, its keys and event log; booted base image"),
    KnownPrivilege("Host.Tpm.Unseal", "Unseal with TPM", "Unsealing data with a host's TPM"),
    KnownPrivilege(
        "TrustedAdmin.ConfigureHostCertificates",
        "Configure Trust Authority Host TPM certificates",
        "CAs, endorsement keys, TPM settings; accepting a TPM's clock or replacement",
    ),
    KnownPrivilege(
        "TrustedAdmin.ConfigureHostMetadata", "Configure Trust Authority Host metadata", "Base images"
    ),
    KnownPrivilege(
        "TrustedAdmin.ConfigureTokenConversionPolicy", "Configure token conversion policy", "Token conversion"
    ),
    KnownPrivilege(
        "TrustedAdmin.ManageAttestingSSO",
        "Configure attesting SSO",
        "Principals that vouch for hosts; scopes",
    ),
    KnownPrivilege(
        "TrustedAdmin.ManageKMSTrust", "Configure Key Server Trust", "Key providers of the Trust Authority"
    ),
    KnownPrivilege(
        "TrustedAdmin.ManageTrustedHosts",
        "Manage Trusted Infrastructure Hosts",
        "Clusters, hosts, services, remediation, denials, settings",
    ),
    KnownPrivilege("TrustedAdmin.ReadAttestingSSO", "Read attesting SSO", "Reading principals and scopes"),
    KnownPrivilege("TrustedAdmin.ReadKMSTrust", "Read Key Server Trust", "Reading key providers"),
    KnownPrivilege(
        "TrustedAdmin.ReadStsInfo", "List information about the STS", "The principal of this manager"
    ),
    KnownPrivilege(
        "TrustedAdmin.ReadTrustedHosts",
        "List Trusted Infrastructure Hosts",
        "Reading clusters, hosts, services, and how hosts stand; a key check",
    ),
    KnownPrivilege(
        "TrustedAdmin.RetrieveHostMetadata", "Retrieve Trust Authority Host metadata", "Reading base images"
    ),
    KnownPrivilege(
        "TrustedAdmin.RetrieveTPMHostCertificates",
        "Retrieve Trust Authority Host TPM certificates",
        "Reading CAs, endorsement keys, TPM settings; health of attestation",
    ),
)

IDS = frozenset(privilege.id for privilege in KNOWN)
# What vSphere puts into every role but NoAccess.
SYSTEM = frozenset(identifier for identifier in IDS if identifier.startswith("System."))
CRYPTOGRAPHIC = frozenset(identifier for identifier in IDS if identifier.startswith("Cryptographer."))
TRUSTED = frozenset(identifier for identifier in IDS if identifier.startswith("TrustedAdmin."))
# Those that change the trusted infrastructure: of their operations, membership in TrustedAdmins is asked too.
TRUST_CHANGING = frozenset(
    identifier for identifier in TRUSTED if not identifier.split(".")[1].startswith(("Read", "Retrieve"))
)
# What vSphere takes from "No cryptography administrator" beside the cryptographic operations.
NOT_WITHOUT_CRYPTOGRAPHY = frozenset(
    {
        "Global.Diagnostics",
        "Host.Inventory.AddHostToCluster",
        "Host.Inventory.AddStandaloneHost",
        "Host.Local.ManageUserGroups",
    }
)


def covers(held: Collection[str], wanted: str) -> bool:
    """Whether a set of privileges has one; "*" has all."""
    return wanted in held or ALL_PRIVILEGES in held


def missing(held: Collection[str], wanted: Collection[str]) -> list[str]:
    """Those of `wanted` that `held` does not cover, sorted. "*" is covered by "*" alone."""
    return sorted(identifier for identifier in wanted if not covers(held, identifier))

# SPDX-License-Identifier: GPL-3.0-or-later
"""The typed documents that managers replicate to hosts and that services read. Pure: no I/O.

A document is {kind, id, generation, content}. The content of each kind is one struct below; `null` content
says that the document was deleted (the generation stays, so that an old copy cannot come back). Unknown
fields are refused on the way in: a document that means more than this release understands is not used.
docs/protocol.md 11.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import Annotated, Any, Literal

import msgspec

from trusted_infrastructure.refusal import InvalidField

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
# `$(?!\n)`: `$` alone also matches before a final newline, and a digest that ends with one equals no digest.
Hex256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
PcrNumber = Annotated[str, msgspec.Meta(pattern=r"^(1?[0-9]|2[0-3])$(?!\n)")]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
# Ids come from names that people give; a control character in one would deceive who reads it.
DocumentId = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every document content. version: 1 in this release."""

    version: Literal[1] = 1


class Generation(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Order of the versions of one document: epoch first (a restore starts a new one), then counter."""

    epoch: Annotated[int, msgspec.Meta(ge=1)]
    counter: Annotated[int, msgspec.Meta(ge=1)]


class NetworkAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Host name or IP address, and port."""

    hostname: Name
    port: Port = 443


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secret, HPKE-sealed for each host that may open it. docs/protocol.md 11.

    digest: "salt:digest" (hex), scrypt over a random salt and the secret, to tell it from others without
    opening; slow on purpose, because managers see it. See `sealing.secret_digest`.
    sealed: host name -> HPKE ciphertext for that host's configuration key. suite: name from `sealing.SUITES`.
    """

    suite: str
    digest: str
    sealed: dict[str, bytes]


# ---- Trust Authority side


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Trust Authority host of the cluster: its host id and the public name of its services."""

    host: Name
    public_name: Name
    port: Port = 443


class TrustAuthorityCluster(Content, frozen=True):
    """id "cluster". What the services of a Trust Authority host must know of their cluster.

    cluster: the manager's id; name: its name; group: opaque id that pairs attestation results with key
    provider services, and the audience of tokens. Times in seconds.
    """

    cluster: Name
    name: Name
    state: Literal["ENABLE", "DISABLE"]
    group: Name
    peers: list[Peer] = []
    token_lifetime: Annotated[int, msgspec.Meta(ge=60, le=86400)] = 3600
    grace_period: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 60
    key_cache_max_age: Annotated[int, msgspec.Meta(ge=0, le=604800)] = 86400
    hpke_suite: str = "MLKEM768_X25519"


class StsPrincipalId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name and domain of a principal."""

    name: Name
    domain: Name


class StsPrincipal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user or group of the workload manager's token service."""

    id: StsPrincipalId
    type: Literal["STS_USER", "STS_GROUP"]


class ConsumerPrincipal(Content, frozen=True):
    """A workload manager whose host assertions are accepted. certificates: chains of PEM, leaf first."""

    issuer: Name
    issuer_alias: Name
    principal: StsPrincipal
    certificates: list[list[str]]


class Scope(Content, frozen=True):
    """What the hosts of one trusted cluster may use. docs/protocol.md 2.

    principal: issuer of the consumer principal. base_images, providers: ids, or ["*"] for all.
    """

    principal: Name
    trusted_cluster: Name
    base_images: list[str]
    providers: list[str]


class DeniedHost(Content, frozen=True):
    """A host that was removed: neither service serves it, whatever token it still has."""

    host: Name
    ek_digest: Hex256
    reason: str = ""


class CaCertificate(Content, frozen=True):
    """A TPM vendor's CA. cert_chain: PEM, root first. eku_exception: its EK certificates have no EKU.

    crls: PEM certificate revocation lists (RFC 5280 section 5) of CAs of the chain; where a CA has one, it
    counts.
    """

    cert_chain: Annotated[list[str], msgspec.Meta(min_length=1)]
    eku_exception: bool = False
    crls: list[str] = []


class EndorsementKey(Content, frozen=True):
    """An enrolled TPM. public_key: PEM SubjectPublicKeyInfo; certificate: PEM, where it was given."""

    public_key: str
    certificate: str | None = None


class Tpm2Settings(Content, frozen=True):
    """id "settings". Default policy: both. Both off can be stored, and attests nobody (`ek_policy_none`)."""

    require_endorsement_keys: bool = True
    require_certificate_validation: bool = True


class ReferenceEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One expected event of a PCR that is appraised by events: a rule. docs/base_images.md.

    type: TCG event type name ("EV_EFI_BOOT_SERVICES_APPLICATION"); description: plain words for refusals;
    class: what it is ("kernel", "db", ...), see `tpm.event_class`.
    Accepted is an event of the type whose digest (hex in the image's bank) is `digest`, or one of `digests`,
    or whose measured content matches the template `content`. varies: any digest, where the event is of the
    class; stands alone. presence: once, optional (or absent), repeated (once or more), any (as often as it
    likes). Which rules a PCR takes: `base_images.rules`.
    """

    type: str
    digest: str | None = None
    description: str = ""
    class_: str = msgspec.field(default="", name="class")
    digests: list[str] = []
    content: str | None = None
    varies: bool = False
    presence: Literal["once", "optional", "repeated", "any"] = "once"


class ReferencePcr(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """Reference values of one PCR: exactly one of `value` (the PCR's final value, hex) and `events`
    (the events in order). secure_boot: PCR 7 only, whether the configuration in the log must say that Secure
    Boot is on (true) or off (false)."""

    value: str | None = None
    events: list[ReferenceEvent] | None = None
    secure_boot: bool | None = None

    @functools.cached_property
    def exact(self) -> list[tuple[str, str]]:
        """(type, digest) of the events from the first on that must be there once, with that digest alone."""
        rules = itertools.takewhile(
            lambda rule: rule.digest is not None and rule.presence == "once", self.events or ()
        )
        return [(rule.type, rule.digest or "") for rule in rules]


class BaseImage(Content, frozen=True):
    """Reference values of one blessed software state: what vSphere calls imgdb. docs/base_images.md.

    image_version: unique id; display_name: for people; bank: TPM hash name; pcrs: PCR number (decimal text,
    JSON has no integer keys) -> reference values. userspace: what covers user space.
    state: STAGED (accepted, and reported as such) -> ACTIVE (accepted) -> RETIRED (refused). It is the only
    part of an image that changes.
    """

    image_version: Annotated[
        str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)")
    ]
    display_name: Name
    bank: Literal["sha256", "sha384", "sha512"]
    pcrs: dict[PcrNumber, ReferencePcr]
    userspace: Literal["verity", "ima", "none"] = "none"
    state: Literal["STAGED", "ACTIVE", "RETIRED"] = "ACTIVE"


class KmipServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key server of a provider."""

    name: Name
    address: NetworkAddress


class PasswordBinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a provider's password may go: what the provider had when the password was set.

    servers, proxy_server: addresses. certificates: SHA-256 (hex) over the DER of the trusted certificates;
    empty where none was trusted yet, which binds to addresses alone.
    """

    servers: list[NetworkAddress]
    proxy_server: NetworkAddress | None
    certificates: list[Hex256]


class PreviousPrimaryKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A primary key that a provider was rotated from: opens what is still wrapped under it, wraps nothing.

    master_key_id: id on the key servers. check_value: see wrapping. since: when it was replaced (Unix
    seconds). compromised: what it wrapped gets new key encryption keys, and is not wrapped again as it is.
    """

    master_key_id: Name
    check_value: Hex256
    since: Annotated[int, msgspec.Meta(ge=0)]
    compromised: bool = False


class KeyProvider(Content, frozen=True):
    """A trusted key provider: one primary key on one or more key servers. docs/protocol.md 7.4.

    connection_timeout: seconds. client_certificate: PEM. client_private_key, password: sealed to the hosts.
    csr: outstanding request (PEM), csr_private_key: its key. trusted_certificates: PEM of what the key
    servers must present (CA or leaf); nothing is trusted until set. primary_key_check_value: hex, see
    wrapping. previous_keys: primary keys that it was rotated from and that are not disabled yet.
    required_userspace: coverage that a token must state. password_binding: for people; what counts is the one
    that is sealed with the password.
    """

    master_key_id: Name
    servers: Annotated[list[KmipServer], msgspec.Meta(min_length=1)]
    description: str = ""
    username: str | None = None
    proxy_server: NetworkAddress | None = None
    connection_timeout: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10
    client_certificate: str | None = None
    client_private_key: Sealed | None = None
    csr: str | None = None
    csr_private_key: Sealed | None = None
    password: Sealed | None = None
    password_binding: PasswordBinding | None = None
    trusted_certificates: list[str] = []
    primary_key_check_value: Hex256 | None = None
    previous_keys: list[PreviousPrimaryKey] = []
    required_userspace: Literal["verity", "ima", "none"] = "none"


# ---- workload side


class RegisteredService(Content, frozen=True):
    """An Attestation Service or Key Provider Service that hosts of the cluster use. trusted_ca: PEM chain."""

    address: NetworkAddress
    trusted_ca: list[str]
    group: Name
    trust_authority_cluster: Name


class HostAssertion(Content, frozen=True):
    """id "assertion". The workload manager vouches for this host with a JWT. docs/protocol.md 3.0."""

    host: Name
    scope: Name
    assertion: str


class TrustedKeyProvider(Content, frozen=True):
    """A trusted key provider as the workload side knows it: a name, and whether it is the default."""

    group: Name
    default: bool = False


KeyProviderType = Literal["STANDARD", "TRUSTED", "NATIVE"]


class KeyProviders(Content, frozen=True):
    """id "key_providers". The key providers that hosts of a cluster may name, of all three kinds.

    default: name of the one that is used where none is named; None where there is none.
    """

    providers: dict[Name, KeyProviderType]
    default: str | None = None


class PcrPolicy(Content, frozen=True):
    """PCR values under which a host's TPM may open what is sealed to it: signed by the workload manager.

    bank: TPM hash name; pcrs: PCR number (decimal text) -> value (hex). public_key: PEM of the signing key
    (P-256). signature: ECDSA with SHA-256, r and s, 32 bytes each, big-endian, over the policy digest of
    TPM2_PolicyPCR for these values, and `messages.pcr_policy_reference` of the cluster (TCG TPM 2.0 Part 3,
    23.16: TPM2_PolicyAuthorize).
    """

    bank: Literal["sha256", "sha384", "sha512"]
    pcrs: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern=r"^(1?[0-9]|2[0-3])$(?!\n)")], str],
        msgspec.Meta(min_length=1),
    ]
    public_key: str
    signature: bytes


KINDS: dict[str, type[Content]] = {
    "trust_authority_cluster": TrustAuthorityCluster,
    "consumer_principal": ConsumerPrincipal,
    "scope": Scope,
    "denied_host": DeniedHost,
    "ca_certificate": CaCertificate,
    "endorsement_key": EndorsementKey,
    "tpm2_settings": Tpm2Settings,
    "base_image": BaseImage,
    "key_provider": KeyProvider,
    "attestation_service": RegisteredService,
    "kms_service": RegisteredService,
    "host_assertion": HostAssertion,
    "trusted_key_provider": TrustedKeyProvider,
    "key_providers": KeyProviders,
    "pcr_policy": PcrPolicy,
}

SIDE_KINDS: dict[str, frozenset[str]] = {
    "trust_authority": frozenset(
        {
            "trust_authority_cluster",
            "consumer_principal",
            "scope",
            "denied_host",
            "ca_certificate",
            "endorsement_key",
            "tpm2_settings",
            "base_image",
            "key_provider",
        }
    ),
    "workload": frozenset(
        {
            "attestation_service",
            "kms_service",
            "host_assertion",
            "trusted_key_provider",
            "key_providers",
            "pcr_policy",
        }
    ),
}


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One document as stored and replicated. content: JSON of the kind's struct, or null when deleted."""

    kind: str
    id: DocumentId
    generation: Generation
    content: dict[str, Any] | None

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the content; of "null" when deleted."""
        return hashlib.sha256(msgspec.json.encode(self.content, order="sorted")).hexdigest()


def typed(kind: str, content: dict[str, Any], field: str = "content") -> Content:
    """The content as its kind's struct. Raises InvalidField naming the field below `field`."""
    if kind not in KINDS:
        raise InvalidField("kind", f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
    try:
        return msgspec.convert(content, type=KINDS[kind], builtin_types=())
    except msgspec.ValidationError as error:
        reason, _separator, path = str(error).partition(" - at `$")
        raise InvalidField(field + path.rstrip("`"), reason, code="invalid_document") from None


def content_of(content: Content) -> dict[str, Any]:
    """The JSON form (dict of plain types, bytes as base64) of a typed content."""
    plain: dict[str, Any] = msgspec.to_builtins(content)
    return plain

# SPDX-License-Identifier: GPL-3.0-or-later
"""hosts/{host}/hardware/tpm: the TPM of a host, its endorsement keys and event log, read by its agent."""

from __future__ import annotations

import base64
import binascii
from typing import Literal, TypeVar, get_args

import msgspec

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.nodes import AGENT, NodeError, ask
from trusted_infrastructure.manager.operations.structures import PresentedCertChain
from trusted_infrastructure.manager.vapi.errors import (
    InvalidArgument,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Blob, Identifier, Structure

SERVICE = "com.vmware.vcenter.trusted_infrastructure.hosts.hardware.tpm"
PATH = "/vcenter/trusted-infrastructure/hosts/{host}/hardware/tpm"
TPM = "tpm0"
# Visits to a TPM wait for each other; still shorter than proxies and clients wait for an answer.
TIMEOUT = 45.0

HashAlgorithm = Literal["SHA256", "SHA384", "SHA512", "SM3_256"]
KeyType = Literal["RSA_2048", "RSA_3072", "ECC_NIST_P_256", "ECC_NIST_P_384"]
Answer = TypeVar("Answer")


class PcrBank(Structure, frozen=True):
    """PCRs of a bank: number -> value. Banks that the API has no name for (SHA-1) are left out."""

    algorithm: HashAlgorithm
    pcrs: dict[str, Blob]


class Summary(Structure, frozen=True):
    """A TPM."""

    tpm: str
    major_version: int
    minor_version: int
    active: bool


class Info(Structure, frozen=True):
    """A TPM and its PCRs."""

    major_version: int
    minor_version: int
    active: bool
    banks: list[PcrBank]
    manufacturer: str | None = None
    model: str | None = None
    firmware_version: str | None = None


class FilterSpec(Structure, frozen=True):
    """TPMs of one of the versions, active or not, where given."""

    major_versions: list[int] | None = None
    active: bool | None = None


class ListInput(Structure, frozen=True):
    """Input of list."""

    host: Identifier
    filter: FilterSpec = FilterSpec()


class TpmInput(Structure, frozen=True):
    """Input that is a TPM."""

    host: Identifier
    tpm: Identifier


class KeyFilterSpec(Structure, frozen=True):
    """Keys of one of the types, where given."""

    types: list[KeyType] | None = None


class KeyListInput(Structure, frozen=True):
    """Input of endorsement_keys.list."""

    host: Identifier
    tpm: Identifier
    filter: KeyFilterSpec = KeyFilterSpec()


class KeyInput(Structure, frozen=True):
    """Input of endorsement_keys.get."""

    host: Identifier
    tpm: Identifier
    key: Identifier


class KeySummary(Structure, frozen=True):
    """An endorsement key. key: SHA-256 (hex) of its public area, as in enrolment and assertions."""

    key: str
    type: KeyType


class KeyInfo(Structure, frozen=True):
    """An endorsement key: TPM2B_PUBLIC, TPM2B_NAME; PEM. identity is ours: the host attests with this one."""

    type: KeyType
    public_area: Blob
    name: Blob
    qualified_name: Blob
    identity: bool
    public_key: str | None = None
    certificate: str | None = None
    manufacturer_certificate_uri: str | None = None
    manufacturer_certificates: PresentedCertChain | None = None


class EventLogInfo(Structure, frozen=True):
    """The firmware's event log, and the PCRs that it leads to."""

    type: Literal["EFI_TCG2_EVENT_LOG_FORMAT_TCG_2"]
    truncated: bool
    banks: list[PcrBank]
    data: Blob | None = None


class AgentTpm(msgspec.Struct, frozen=True):
    """The agent's answer about its TPM. banks: hash name -> PCR number -> hex."""

    tpm: str
    active: bool
    major_version: int
    minor_version: int
    manufacturer: str
    model: str
    firmware_version: str
    banks: dict[str, dict[str, str]]


class AgentKey(msgspec.Struct, frozen=True):
    """The agent's answer about an endorsement key."""

    key: str
    type: KeyType
    identity: bool
    public_area: str
    name: str
    qualified_name: str
    public_key: str | None = None
    certificate: str | None = None
    manufacturer_certificate_uri: str | None = None
    manufacturer_certificates: list[str] = []


class AgentKeys(msgspec.Struct, frozen=True):
    """The agent's endorsement keys."""

    endorsement_keys: list[AgentKey]


class AgentEventLog(msgspec.Struct, frozen=True):
    """The agent's event log."""

    type: Literal["EFI_TCG2_EVENT_LOG_FORMAT_TCG_2"]
    data: str
    truncated: bool
    banks: dict[str, dict[str, str]]


async def ask_agent(context: Context, path: str, wanted: type[Answer]) -> Answer:
    """An answer of the host's agent. Raises NotFound on hosts without one, ServiceUnavailable."""
    if context.manager.settings.side != "workload":
        raise NotFound(
            f"{context.host.name!r} is a Trust Authority host, which has no agent and needs no TPM.",
            context.host.name,
            reason="no_tpm",
        )
    host = context.host.name
    try:
        return await ask(context.manager.nodes, host, "GET", f"{AGENT}{path}", wanted, timeout=TIMEOUT)
    except NodeError as error:
        raise ServiceUnavailable(str(error), error.host, reason=error.code) from None


def check_tpm(context: Context, tpm: str) -> None:
    """Agents know one TPM. Raises NotFound; the agent is not asked, a visit to the TPM is slow."""
    if tpm != TPM:
        raise NotFound(f"The host {context.host.name!r} has no TPM {tpm!r}.", tpm, reason="no_tpm")


def banks_of(banks: dict[str, dict[str, str]]) -> list[PcrBank]:
    """As the API gives them: base64 values."""
    found = []
    for name, pcrs in banks.items():
        for algorithm in get_args(HashAlgorithm):
            if algorithm.replace("_", "").lower() == name.replace("_", "").lower():
                values = {number: base64_of(value) for number, value in pcrs.items()}
                found.append(PcrBank(algorithm=algorithm, pcrs=values))
    return found


def base64_of(text: str) -> Blob:
    """Hex as base64."""
    try:
        return base64.b64encode(binascii.unhexlify(text)).decode()
    except (binascii.Error, ValueError):
        raise ServiceUnavailable("The host's agent gave a PCR that is not hexadecimal.") from None


async def list_tpms(context: Context, given: ListInput) -> list[Summary]:
    if context.manager.settings.side != "workload":
        return []
    found = await ask_agent(context, "/tpm", AgentTpm)
    wanted = given.filter
    if wanted.major_versions and found.major_version not in wanted.major_versions:
        return []
    if wanted.active is not None and found.active != wanted.active:
        return []
    return [
        Summary(
            tpm=found.tpm,
            major_version=found.major_version,
            minor_version=found.minor_version,
            active=found.active,
        )
    ]


async def get_tpm(context: Context, given: TpmInput) -> Info:
    check_tpm(context, given.tpm)
    found = await ask_agent(context, "/tpm", AgentTpm)
    return Info(
        major_version=found.major_version,
        minor_version=found.minor_version,
        active=found.active,
        manufacturer=found.manufacturer or None,
        model=found.model or None,
        firmware_version=found.firmware_version or None,
        banks=banks_of(found.banks),
    )


async def list_keys(context: Context, given: KeyListInput) -> list[KeySummary]:
    check_tpm(context, given.tpm)
    keys = (await ask_agent(context, "/tpm/endorsement-keys", AgentKeys)).endorsement_keys
    types = given.filter.types
    return [KeySummary(key=key.key, type=key.type) for key in keys if not types or key.type in types]


async def get_key(context: Context, given: KeyInput) -> KeyInfo:
    check_tpm(context, given.tpm)
    for key in (await ask_agent(context, "/tpm/endorsement-keys", AgentKeys)).endorsement_keys:
        if key.key == given.key:
            chain = key.manufacturer_certificates
            return KeyInfo(
                type=key.type,
                public_area=key.public_area,
                name=key.name,
                qualified_name=key.qualified_name,
                identity=key.identity,
                public_key=key.public_key,
                certificate=key.certificate,
                manufacturer_certificate_uri=key.manufacturer_certificate_uri,
                manufacturer_certificates=PresentedCertChain(cert_chain=chain) if chain else None,
            )
    raise NotFound(f"The TPM has no endorsement key {given.key!r}.", given.key)


async def get_event_log(context: Context, given: TpmInput) -> EventLogInfo:
    check_tpm(context, given.tpm)
    found = await ask_agent(context, "/tpm/event-log", AgentEventLog)
    return EventLogInfo(
        type=found.type, data=found.data, truncated=found.truncated, banks=banks_of(found.banks)
    )


READ = privileges("Host.Tpm.Read@host")
ERRORS = (InvalidArgument, NotFound, ServiceUnavailable, Unauthorized)

OPERATIONS: Table = (
    Operation(
        service=SERVICE,
        operation="list",
        method="GET",
        path=PATH,
        summary="TPMs of a host",
        input=ListInput,
        output=list[Summary],
        handler=list_tpms,
        privileges=READ,
        errors=ERRORS,
        query="filter",
    ),
    Operation(
        service=SERVICE,
        operation="get",
        method="GET",
        path=f"{PATH}/{{tpm}}",
        summary="A TPM and its PCRs",
        input=TpmInput,
        output=Info,
        handler=get_tpm,
        privileges=READ,
        errors=ERRORS,
    ),
    Operation(
        service=f"{SERVICE}.endorsement_keys",
        operation="list",
        method="GET",
        path=f"{PATH}/{{tpm}}/endorsement-keys",
        summary="Endorsement keys of a TPM",
        input=KeyListInput,
        output=list[KeySummary],
        handler=list_keys,
        privileges=READ,
        errors=ERRORS,
        query="filter",
    ),
    Operation(
        service=f"{SERVICE}.endorsement_keys",
        operation="get",
        method="GET",
        path=f"{PATH}/{{tpm}}/endorsement-keys/{{key}}",
        summary="One endorsement key",
        input=KeyInput,
        output=KeyInfo,
        handler=get_key,
        privileges=READ,
        errors=ERRORS,
    ),
    Operation(
        service=f"{SERVICE}.event_log",
        operation="get",
        method="GET",
        path=f"{PATH}/{{tpm}}/event-log",
        summary="The firmware's event log of a host",
        input=TpmInput,
        output=EventLogInfo,
        handler=get_event_log,
        privileges=READ,
        errors=ERRORS,
    ),
)

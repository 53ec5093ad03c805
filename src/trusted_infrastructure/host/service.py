# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as a service: settings, what is read at the start, sockets."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from trusted_infrastructure.config.documents import Name
from trusted_infrastructure.host.agent import Agent, HostFacts
from trusted_infrastructure.host.configuration import ConfigurationReader
from trusted_infrastructure.host.key_service import key_application
from trusted_infrastructure.host.management import local_application, management_application
from trusted_infrastructure.host.service_client import ServiceClient
from trusted_infrastructure.host.tpm_device import TpmDevice
from trusted_infrastructure.host.tpm_values import EndorsementKeyType
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.sealing import DEFAULT_SUITE, SUITES
from trusted_infrastructure.settings import ServiceSettings, group_id, load_settings
from trusted_infrastructure.tpm.event_log import MAXIMUM_SIZE
from trusted_infrastructure.transport import configure_logging, serve

log = structlog.get_logger("trusted_infrastructure.host")


class Settings(ServiceSettings, frozen=True):
    """Settings of the agent (/etc/trusted-infrastructure/agent.json).

    host: this host's id. side_ca: PEM file of the workload side's CA, whose manager may ask. snapshot:
    published configuration. anchors_directory: has trust_authority_ca.pem. tcti: libtss2's way to the TPM,
    such as "device:/dev/tpmrm0". event_log: file with the firmware's log; may begin with
    $CREDENTIALS_DIRECTORY. endorsement_key: type of the key that is this host's identity. hpke_suite: for
    keys sealed to this host. key_users: who may use keys of objects on this host, besides root, by name.
    """

    host: Name
    side_ca: Path
    snapshot: Path
    anchors_directory: Path
    state_directory: Path
    run_directory: Path
    tcti: Name
    event_log: Name
    endorsement_key: EndorsementKeyType = "RSA_2048"
    hpke_suite: str = DEFAULT_SUITE
    key_users: list[Name] = []


def event_log_path(setting: str) -> Path:
    """The path in a setting. systemd gives credentials in a directory of which only the unit knows the name.

    Raises InvalidField `settings_invalid`.
    """
    prefix = "$CREDENTIALS_DIRECTORY/"
    if setting.startswith(prefix):
        directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory:
            raise InvalidField(
                "event_log",
                "names $CREDENTIALS_DIRECTORY, but the service was given no credentials",
                "settings_invalid",
                "start the agent by its unit, which has LoadCredential=event_log:...",
            )
        return Path(directory) / setting.removeprefix(prefix)
    if not setting.startswith("/"):
        raise InvalidField("event_log", f"{setting!r} is not an absolute path", "settings_invalid")
    return Path(setting)


def read_event_log(path: Path) -> bytes:
    """The log, or nothing where it cannot be read: the status then says so, and nothing is attested."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAXIMUM_SIZE + 1)
    except OSError as error:
        log.error("event_log_missing", path=str(path), error=error.strerror)
        return b""
    if len(data) > MAXIMUM_SIZE:
        log.error("event_log_missing", path=str(path), error=f"is larger than {MAXIMUM_SIZE} bytes")
        return b""
    return data


def build(settings: Settings) -> Agent:
    """The agent of these settings. Raises InvalidField `settings_invalid`."""
    if settings.hpke_suite not in SUITES:
        known = ", ".join(sorted(SUITES))
        raise InvalidField(
            "hpke_suite", f"unknown suite {settings.hpke_suite!r}; known: {known}", "settings_invalid"
        )
    log_path = event_log_path(settings.event_log)
    facts = HostFacts(
        host=settings.host,
        endorsement_key=settings.endorsement_key,
        state_directory=settings.state_directory,
        event_log=read_event_log(log_path),
        hpke_suite=settings.hpke_suite,
        read_event_log=lambda: read_event_log(log_path),
    )
    return Agent(
        facts,
        ConfigurationReader(settings.host, settings.snapshot, settings.anchors_directory),
        TpmWorker(lambda: TpmDevice(settings.tcti)),
        ServiceClient(),
        time.time,
    )


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when the settings or the sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("agent", settings.log_level)
    agent = build(settings)
    authenticate = LeafVerifier(settings.side_ca, "workload", {"manager"}, time.time)
    management = settings.run_directory / "management.sock"
    local = settings.run_directory / "local.sock"
    keys = settings.run_directory / "keys.sock"

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            agent.host_keys.native.read()
            yield
        finally:
            await agent.close()

    serve(
        {
            management: management_application(agent, authenticate, time.time),
            local: local_application(agent, time.time),
            keys: key_application(agent.host_keys),
        },
        root_only=[local],
        own_users={keys: settings.key_users},
        allowed_users=settings.allowed_users,
        socket_group=group_id(settings.socket_group),
        lifespan=lifespan,
        background=[agent.run, agent.host_keys.run],
    )

# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration service: what a side's manager replicates documents to, on every host of the side.

It answers on the config server alone, to the manager of its own side. A batch is acknowledged when it is
committed *and* published: then the services of this host judge by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from trusted_infrastructure.config.anchors import read_anchors
from trusted_infrastructure.config.documents import Document, Name
from trusted_infrastructure.config.snapshot import publish, remove_leftovers, snapshot_of
from trusted_infrastructure.config.store import GENERATION_LIMIT, Applied, ConfigStore
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.identity import LeafVerifier
from trusted_infrastructure.identity.files import certificate_expiries
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.settings import ServiceSettings, group_id, load_settings
from trusted_infrastructure.transport import Application, JSONAnswer, configure_logging, serve

log = structlog.get_logger("trusted_infrastructure.config")

BODY_LIMIT = 32 << 20
DOCUMENTS_LIMIT = 20_000

T = TypeVar("T")


class Settings(ServiceSettings, frozen=True):
    """Settings of the configuration service (/etc/trusted-infrastructure/config.json).

    side_ca: PEM file of the CA whose manager may write. snapshot: where the state is published (tmpfs).
    snapshot_group: group that may read the snapshot; null takes the directory's.
    tls_directory: certificates whose expiry the health answer tells.
    """

    host: Name
    side: Literal["trust_authority", "workload"]
    side_ca: Path
    snapshot: Path
    state_directory: Path
    run_directory: Path
    anchors_directory: Path
    snapshot_group: str | None = None
    tls_directory: Path = Path("/etc/trusted-infrastructure/tls")


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST documents. security_generation: what the cluster has reached, see ConfigStore.apply."""

    documents: list[Document]
    security_generation: int = 0


class Configuration:
    """The store and its published snapshot, used from one thread of its own: one writer, in order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ConfigStore(settings.state_directory / "config.db", settings.side)
        self._group = group_id(settings.snapshot_group)
        self._published = ""
        self._generation = -1
        self._stale = True
        self._thread = ThreadPoolExecutor(1, "config-store")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on the store's thread. It is finished there even if the caller has given up waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def start(self) -> None:
        """Publish what is stored, so that services that start with us find it."""
        remove_leftovers(self._settings.snapshot)
        self._publish()

    def apply(self, batch: Batch) -> Applied:
        """Commit, then publish. A batch that is committed and could not be published is not acknowledged; the
        sender repeats it, which changes nothing and publishes again."""
        applied = self._store.apply(batch.documents, batch.security_generation)
        if applied.changed or self._stale or applied.security_generation != self._generation:
            self._publish()
        return applied

    def overview(self) -> dict[str, Any]:
        """Answer of GET documents."""
        return {
            "documents": [
                {
                    "kind": document.kind,
                    "id": document.id,
                    "generation": document.generation,
                    "digest": document.digest,
                    "deleted": document.content is None,
                }
                for document in self._store.documents()
            ],
            "security_generation": self._store.security_generation,
        }

    def get(self, kind: str, document_id: str) -> Document:
        """One document. Raises Refusal `not_found` (404)."""
        document = self._store.get(kind, document_id)
        if document is None:
            raise Refusal("not_found", f"no {kind} '{document_id}' on this host", status=404)
        return document

    def health(self) -> dict[str, Any]:
        """Answer of GET health. Reading the store proves that it can be read."""
        generation = self._store.security_generation
        if self._stale:
            raise Unavailable(
                "configuration_unavailable", "the snapshot could not be published", "check /run"
            )
        return {
            "status": "OK",
            "host": self._settings.host,
            "side": self._settings.side,
            "security_generation": generation,
            "snapshot": self._published,
            "certificates": certificate_expiries(self._settings.tls_directory),
        }

    def close(self) -> None:
        """Wait for the work under way, and close the store."""
        self._thread.shutdown(wait=True)
        self._store.close()

    def _publish(self) -> None:
        self._stale = True
        settings, store = self._settings, self._store
        generation = store.security_generation
        snapshot = snapshot_of(settings.host, settings.side, generation, store.documents())
        try:
            self._published = publish(settings.snapshot, snapshot, self._group)
        except OSError as error:
            raise Unavailable(
                "configuration_unavailable",
                f"committed, but not published to {settings.snapshot}: {error.strerror}",
                "check the run directory, then send the batch again",
            ) from None
        self._generation = generation
        self._stale = False


def application(
    configuration: Configuration, settings: Settings, clock: Callable[[], float] = time.time
) -> Application:
    """The management application. Every path needs the certificate of the side's manager."""

    async def list_documents(_request: Request) -> Response:
        return JSONAnswer(await configuration.run(configuration.overview))

    async def get_document(request: Request) -> Response:
        kind, document_id = request.path_params["kind"], request.path_params["id"]
        return JSONAnswer(await configuration.run(lambda: configuration.get(kind, document_id)))

    async def apply_documents(request: Request) -> Response:
        batch = parse_batch(await request.body())
        applied = await configuration.run(lambda: configuration.apply(batch))
        log.info("applied", changed=len(applied.changed), security_generation=applied.security_generation)
        return JSONAnswer(
            {
                "changed": [{"kind": kind, "id": document_id} for kind, document_id in applied.changed],
                "security_generation": applied.security_generation,
            }
        )

    async def anchors(_request: Request) -> Response:
        return JSONAnswer({"anchors": read_anchors(settings.anchors_directory)})

    async def health(_request: Request) -> Response:
        return JSONAnswer(await configuration.run(configuration.health))

    return Application(
        [
            Route("/config/v1/documents", list_documents, methods=["GET"]),
            Route("/config/v1/documents", apply_documents, methods=["POST"]),
            Route("/config/v1/documents/{kind}/{id:path}", get_document, methods=["GET"]),
            Route("/config/v1/anchors", anchors, methods=["GET"]),
            Route("/config/v1/health", health, methods=["GET"]),
        ],
        authenticate_client=LeafVerifier(settings.side_ca, settings.side, {"manager"}, clock),
        body_limit=BODY_LIMIT,
    )


def parse_batch(body: bytes) -> Batch:
    """The batch in a request's body. Raises InvalidField `invalid_document` naming the field."""
    batch = decode_json(body, Batch, invalid_code="invalid_document")
    if len(batch.documents) > DOCUMENTS_LIMIT:
        raise InvalidField("documents", f"more than {DOCUMENTS_LIMIT} documents", "invalid_document")
    if not 0 <= batch.security_generation <= GENERATION_LIMIT:
        raise InvalidField(
            "security_generation", f"must be between 0 and {GENERATION_LIMIT}", "invalid_document"
        )
    return batch


def run(settings_path: Path) -> None:
    """Serve until SIGTERM. Raises Refusal when the settings, the store or the sockets cannot be used."""
    settings = load_settings(settings_path, Settings)
    configure_logging("config", settings.log_level)
    configuration = Configuration(settings)

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await configuration.run(configuration.start)
        try:
            yield
        finally:
            configuration.close()

    serve(
        {settings.run_directory / "management.sock": application(configuration, settings)},
        allowed_users=settings.allowed_users,
        socket_group=group_id(settings.socket_group),
        lifespan=lifespan,
    )

# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration service: who may call, what it refuses, and what an answer promises."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from services.asgi_client import AsgiClient
from services.config.documents_of import DENIED, document, image
from services.side_authority import NOW, SideAuthority, forwarded

from trusted_infrastructure.config import anchors as anchors_module
from trusted_infrastructure.config.anchors import read_anchors
from trusted_infrastructure.config.documents import Document
from trusted_infrastructure.config.service import Configuration, Settings, application
from trusted_infrastructure.config.snapshot import SnapshotReader

PATHS = [
    ("GET", "/config/v1/documents"),
    ("POST", "/config/v1/documents"),
    ("GET", "/config/v1/documents/base_image/image-1"),
    ("GET", "/config/v1/anchors"),
    ("GET", "/config/v1/health"),
    ("GET", "/config/v1/no-such-path"),
    ("DELETE", "/config/v1/documents"),
    ("GET", "/"),
]


@dataclass
class Service:
    configuration: Configuration
    settings: Settings
    client: AsgiClient
    reader: SnapshotReader

    def send(self, *documents: Document, **more: Any) -> tuple[int, dict[str, Any]]:
        body = msgspec.json.encode({"documents": list(documents), **more})
        return self.send_raw(body)

    def send_raw(self, body: bytes) -> tuple[int, dict[str, Any]]:
        response = self.client.post("/config/v1/documents", content=body)
        return response.status_code, response.json()

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        response = self.client.get(path)
        return response.status_code, response.json()


@pytest.fixture(scope="module")
def authority() -> SideAuthority:
    return SideAuthority()


@pytest.fixture
def service(tmp_path: Path, authority: SideAuthority) -> Iterator[Service]:
    for name in ("state", "run", "anchors", "tls"):
        (tmp_path / name).mkdir()
    (tmp_path / "side_ca.pem").write_text(authority.certificate)
    settings = Settings(
        host="ta1",
        side="trust_authority",
        side_ca=tmp_path / "side_ca.pem",
        snapshot=tmp_path / "run" / "snapshot.json",
        state_directory=tmp_path / "state",
        run_directory=tmp_path / "run",
        anchors_directory=tmp_path / "anchors",
        tls_directory=tmp_path / "tls",
    )
    configuration = Configuration(settings)
    configuration.start()
    manager = forwarded(authority.leaf()[1])
    client = AsgiClient(application(configuration, settings, lambda: NOW), headers=manager)
    yield Service(configuration, settings, client, SnapshotReader(settings.snapshot))
    configuration.close()


# ---- who may call ----

HOUR = 3600


def _callers(own: SideAuthority) -> dict[str, tuple[dict[str, str], int, str]]:
    workload, impostor = SideAuthority("workload"), SideAuthority(common_name="CA")
    good = own.leaf()[1]
    return {
        "no certificate": ({}, 401, "client_certificate_missing"),
        "empty header": ({"X-Client-Certificate": ""}, 401, "client_certificate_missing"),
        "not a certificate": ({"X-Client-Certificate": "hello"}, 403, "certificate_invalid"),
        "broken certificate": (forwarded(good.replace("MII", "MIA")), 403, "certificate_invalid"),
        "two certificates": (forwarded(good + good), 403, "certificate_invalid"),
        "too large": ({"X-Client-Certificate": "a" * 20_000}, 400, "malformed_request"),
        "other side": (forwarded(workload.leaf()[1]), 403, "certificate_invalid"),
        "other side by our CA": (forwarded(own.leaf(side="workload")[1]), 403, "certificate_invalid"),
        "other CA of the same name": (forwarded(impostor.leaf()[1]), 403, "certificate_invalid"),
        "the CA itself": (forwarded(own.certificate), 403, "certificate_invalid"),
        "agent": (forwarded(own.leaf("agent", "ta1")[1]), 403, "certificate_invalid"),
        "server": (forwarded(own.leaf("server", "ta1")[1]), 403, "certificate_invalid"),
        "attestation service": (
            forwarded(own.leaf("attestation-service", "ta1")[1]),
            403,
            "certificate_invalid",
        ),
        "expired": (forwarded(own.leaf(days=1, now=NOW - 2 * 86400)[1]), 403, "certificate_expired"),
        "not yet valid": (forwarded(own.leaf(now=NOW + HOUR)[1]), 403, "certificate_invalid"),
    }


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda item: item)
def test_every_path_is_closed_to_everybody_else(
    service: Service, authority: SideAuthority, method: str, path: str
) -> None:
    service.send(image(1))
    stranger = AsgiClient(service.client.app)
    for name, (headers, status, code) in _callers(authority).items():
        body = msgspec.json.encode({"documents": [image(2)]}) if method == "POST" else None
        response = stranger.request(method, path, headers=headers, content=body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), name
    assert [item.id for item in service.configuration._store.documents()] == ["image-1"]


def test_two_headers_are_not_ours(service: Service, authority: SideAuthority) -> None:
    value = forwarded(authority.leaf()[1])["X-Client-Certificate"]
    headers = [("X-Client-Certificate", value), ("x-client-certificate", value)]
    response = AsgiClient(service.client.app).get("/config/v1/health", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_request")


def test_the_expired_certificate_is_named_with_its_date(service: Service, authority: SideAuthority) -> None:
    headers = forwarded(authority.leaf(days=1, now=NOW - 2 * 86400)[1])
    error = AsgiClient(service.client.app).get("/config/v1/health", headers=headers).json()["error"]
    assert error["message"] == "certificate 'CN=manager ta-manager' expired at 2027-01-14T08:00:00Z"
    assert error["remedy"]


def test_a_ca_rollover_trusts_both_and_then_one(service: Service, authority: SideAuthority) -> None:
    new = SideAuthority(common_name="CA 2")
    path, old_leaf, new_leaf = (
        service.settings.side_ca,
        forwarded(authority.leaf()[1]),
        forwarded(new.leaf()[1]),
    )
    client = AsgiClient(service.client.app)

    def statuses() -> tuple[int, int]:
        first, second = (client.get("/config/v1/health", headers=leaf) for leaf in (old_leaf, new_leaf))
        return first.status_code, second.status_code

    assert statuses() == (200, 403)
    path.write_text(authority.certificate + new.certificate)
    assert statuses() == (200, 200)
    path.write_text(new.certificate)
    assert statuses() == (403, 200)
    path.unlink()
    assert statuses() == (503, 503)


# ---- bodies ----

GENERATION = b'"generation":{"epoch":1,"counter":1}'
DELETED = b'{"kind":"scope","id":"x","content":null,' + GENERATION + b"}"


def _one(found: bytes = b"", replaced: bytes = b"") -> bytes:
    """A batch of one deleted document, with something replaced in it."""
    return b'{"documents":[' + DELETED.replace(found, replaced) + b"]}"


NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

BODIES: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"{", "malformed_request", "body"),
    "not UTF-8": (_one(b"scope", b"\xff"), "malformed_request", "body"),
    "empty": (b"", "malformed_request", "body"),
    "a list": (b"[]", "invalid_document", "body"),
    "no documents": (b"{}", "invalid_document", "body"),
    "null": (b"null", "invalid_document", "body"),
    "unknown field": (b'{"documents":[],"more":1}', "invalid_document", "body"),
    "documents of a wrong type": (b'{"documents":{}}', "invalid_document", "documents"),
    "document of a wrong type": (b'{"documents":[7]}', "invalid_document", "documents[0]"),
    "no generation": (_one(b"," + GENERATION), "invalid_document", "documents[0]"),
    "no content": (_one(b'"content":null,'), "invalid_document", "documents[0]"),
    "epoch zero": (_one(b'"epoch":1', b'"epoch":0'), "invalid_document", "documents[0].generation.epoch"),
    "control character in an id": (
        _one(b'"x"', b'"x\\u0000"'),
        "invalid_document",
        "documents[0].id",
    ),
    "line end after an id": (_one(b'"x"', b'"x\\n"'), "invalid_document", "documents[0].id"),
    "empty id": (_one(b'"x"', b'""'), "invalid_document", "documents[0].id"),
    "huge counter": (
        _one(b'"counter":1', b'"counter":99999999999999999999'),
        "invalid_document",
        "documents[0].generation",
    ),
    "generation below zero": (
        b'{"documents":[],"security_generation":-1}',
        "invalid_document",
        "security_generation",
    ),
    "generation too large": (
        b'{"documents":[],"security_generation":9007199254740993}',
        "invalid_document",
        "security_generation",
    ),
    "deep nesting": (_one(b"null", NESTED), "malformed_request", "body"),
    "too many documents": (
        b'{"documents":[' + b",".join([DELETED] * 20_001) + b"]}",
        "invalid_document",
        "documents",
    ),
}


@pytest.mark.parametrize(("body", "code", "field"), BODIES.values(), ids=BODIES.keys())
def test_bad_bodies_are_named_and_change_nothing(
    service: Service, body: bytes, code: str, field: str
) -> None:
    service.send(image(1))
    before = service.settings.snapshot.read_bytes()
    got, answer = service.send_raw(body)
    assert (got, answer["error"]["code"]) == (400, code)
    assert answer["error"]["message"].startswith(field)
    assert service.settings.snapshot.read_bytes() == before


def test_a_body_over_the_limit_is_refused_before_it_is_read(service: Service) -> None:
    service.client.app.body_limit = 1000
    status, answer = service.send_raw(b" " * 1001)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * 600
        yield b" " * 600

    response = service.client.post("/config/v1/documents", content=chunks())
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


# ---- what it does ----


def test_an_answer_means_stored_and_published(service: Service) -> None:
    status, answer = service.send(image(1), image(2))
    assert status == 200
    assert answer == {
        "changed": [{"kind": "base_image", "id": "image-1"}, {"kind": "base_image", "id": "image-2"}],
        "security_generation": 0,
    }
    assert set(service.reader.current().documents("base_image")) == {"image-1", "image-2"}
    status, answer = service.send(
        document("base_image", "image-1", None, 2), document("denied_host", "h", DENIED)
    )
    assert (status, answer["security_generation"]) == (200, 1)
    assert set(service.reader.current().documents("base_image")) == {"image-2"}
    assert service.reader.current().security_generation == 1


def test_lists_and_gets_documents(service: Service) -> None:
    gone = document("base_image", "image-2", None, 4)
    service.send(image(1), gone)
    status, answer = service.get("/config/v1/documents")
    assert status == 200
    assert [(item["id"], item["deleted"], item["digest"]) for item in answer["documents"]] == [
        ("image-1", False, image(1).digest),
        ("image-2", True, gone.digest),
    ]
    assert service.get("/config/v1/documents/base_image/image-1")[1]["content"] == image(1).content
    assert service.get("/config/v1/documents/base_image/image-2")[1]["content"] is None
    status, answer = service.get("/config/v1/documents/base_image/image-3")
    assert (status, answer["error"]["code"]) == (404, "not_found")


def test_ids_may_hold_what_a_path_does_not(service: Service) -> None:
    service.send(document("key_provider", "a/b c", None))
    assert service.get("/config/v1/documents/key_provider/a%2Fb%20c")[1]["id"] == "a/b c"


def test_a_stale_document_is_409_and_the_rest_of_the_batch_is_not_stored(service: Service) -> None:
    service.send(image(1, counter=3))
    status, answer = service.send(image(2), image(1, counter=2))
    assert (status, answer["error"]["code"]) == (409, "stale_generation")
    assert "documents[1].generation" in answer["error"]["message"]
    assert service.get("/config/v1/documents/base_image/image-2")[0] == 404


def test_the_same_batch_again_is_accepted_and_does_not_republish(service: Service) -> None:
    service.send(image(1))
    before = service.settings.snapshot.stat()
    assert service.send(image(1))[1]["changed"] == []
    assert service.send(image(1), security_generation=0)[1]["changed"] == []
    assert service.settings.snapshot.stat().st_ino == before.st_ino
    assert service.send(security_generation=1) == (200, {"changed": [], "security_generation": 1})
    assert service.reader.current().security_generation == 1
    before = service.settings.snapshot.stat()
    assert service.send(image(1), security_generation=1)[1]["changed"] == []
    assert service.settings.snapshot.stat().st_ino == before.st_ino


def test_what_cannot_be_published_is_not_acknowledged_and_is_repaired_by_sending_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def failing(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    status, answer = service.send(image(1))
    assert (status, answer["error"]["code"]) == (503, "configuration_unavailable")
    assert "No space left" in answer["error"]["message"]
    assert service.get("/config/v1/health")[0] == 503
    monkeypatch.setattr(os, "replace", real)
    status, answer = service.send(image(1))
    assert (status, answer["changed"]) == (200, [])
    assert set(service.reader.current().documents("base_image")) == {"image-1"}
    assert service.get("/config/v1/health")[0] == 200


def test_the_clusters_security_generation_is_published(service: Service) -> None:
    assert service.send(image(1), security_generation=12)[1]["security_generation"] == 12
    assert service.reader.current().security_generation == 12


def test_a_start_publishes_what_is_stored(service: Service) -> None:
    service.send(image(1))
    service.configuration.close()
    service.settings.snapshot.unlink()
    configuration = Configuration(service.settings)
    configuration.start()
    configuration.close()
    assert set(service.reader.current().documents("base_image")) == {"image-1"}


def test_health_tells_when_certificates_end(service: Service, authority: SideAuthority) -> None:
    authority.write_leaf(service.settings.tls_directory, "server", "server", "ta1")
    (service.settings.tls_directory / "broken.pem").write_text("nothing")
    status, answer = service.get("/config/v1/health")
    assert (status, answer["status"], answer["host"]) == (200, "OK", "ta1")
    assert [item["name"] for item in answer["certificates"]] == ["broken", "server"]
    assert answer["certificates"][0]["error"] == "not a PEM certificate"
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW + 90 * 86400))
    assert answer["certificates"][1] == {"name": "server", "subject": "CN=server ta1", "expires": expires}


def test_a_fault_is_an_incident_number_and_nothing_of_what_went_wrong(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("password=hunter2")

    monkeypatch.setattr(service.configuration, "overview", broken)
    status, answer = service.get("/config/v1/documents")
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert "hunter2" not in str(answer)


# ---- anchors ----


def test_anchors_are_read_only(service: Service) -> None:
    (service.settings.anchors_directory / "peers.json").write_text("[]")
    status, answer = service.get("/config/v1/anchors")
    assert status == 200
    assert answer["anchors"]["peers.json"]["content"] == "[]"
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        response = service.client.request(method, "/config/v1/anchors", content=b"{}")
        assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_files_that_others_could_write_are_not_anchors(tmp_path: Path) -> None:
    own = os.getuid()
    (tmp_path / "good.pem").write_text("CA")
    (tmp_path / "good.pem").chmod(0o644)
    (tmp_path / "group.pem").write_text("CA")
    (tmp_path / "group.pem").chmod(0o664)
    (tmp_path / "link.pem").symlink_to(tmp_path / "good.pem")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "binary.pem").write_bytes(b"\xff\xfe")
    (tmp_path / "large.json").write_bytes(b" " * (anchors_module.ANCHOR_LIMIT + 1))
    (tmp_path / "notes.txt").write_text("not looked at")
    os.mkfifo(tmp_path / "pipe.pem")
    found = read_anchors(tmp_path, own)
    assert found["good.pem"]["content"] == "CA"
    assert sorted(name for name, item in found.items() if "error" in item) == [
        "binary.pem",
        "folder.json",
        "group.pem",
        "large.json",
        "link.pem",
        "pipe.pem",
    ]
    assert "owner" in read_anchors(tmp_path, own + 1)["good.pem"]["error"]
    assert read_anchors(tmp_path / "missing", own) == {}

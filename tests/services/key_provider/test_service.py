# SPDX-License-Identifier: GPL-3.0-or-later
"""The service as its callers see it: answers that only the right host opens, refusals, audit, management."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from services.asgi_client import AsgiClient
from services.key_provider.harness import (
    CHECK_VALUE,
    CLIENT,
    KEY_ID,
    NOW,
    PRIMARY_KEY,
    SERVICE_ID,
    URL,
    Host,
    cluster,
    denied,
    provider,
    scope,
    seal_to,
    wrapped_key,
    write_identity,
)
from services.key_provider.running import PATH, Service, running
from services.side_authority import SideAuthority, forwarded

from trusted_infrastructure import messages, tokens, wrapping
from trusted_infrastructure.config.documents import Peer
from trusted_infrastructure.key_provider.client_credentials import password_purpose, private_key_purpose
from trusted_infrastructure.key_provider.service import public_url
from trusted_infrastructure.messages import KeyAnswer
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.sealing import SealingKey


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as made:
        made.take()
        yield made


# ---- release ----


def test_a_key_is_made_and_opened_again(service: Service) -> None:
    made, key = service.released(service.host.create_body("machine 7"), "create")
    assert made.wrapped_key is not None
    header, kek = wrapping.unwrap(PRIMARY_KEY, made.wrapped_key)
    assert (kek, header.kek_id, header.object_label, header.scope, header.provider) == (
        key,
        made.kek_id,
        "machine 7",
        "cluster-a",
        "finance",
    )
    opened, again = service.released(service.host.unwrap_body(made.wrapped_key), "unwrap")
    assert (again, opened.kek_id, opened.wrapped_key) == (key, made.kek_id, None)


def test_every_key_is_another(service: Service) -> None:
    body = service.host.create_body()
    (first, one), (second, two) = service.released(body, "create"), service.released(body, "create")
    assert one != two
    assert first.kek_id != second.kek_id
    assert first.sealed_key != second.sealed_key


def test_a_wrapped_key_of_another_installation_opens(service: Service) -> None:
    """Only the primary key is needed: a rebuilt Trust Authority opens what the one before wrapped."""
    _answer, key = service.released(service.host.unwrap_body(wrapped_key()), "unwrap")
    assert key == bytes([7] * 32)


def test_an_answer_is_of_no_use_elsewhere(service: Service) -> None:
    body, token = service.host.create_body(), service.host.token()
    proof = service.host.proof(token, body)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    response = service.public.post(f"{PATH}?action=create", content=body, headers=headers)
    answer = messages.decode(response.content, KeyAnswer)
    key = service.response_key(answer.key_id)
    other_proof = service.host.proof(token, body)
    with pytest.raises(InvalidSignature):
        service.host.open(answer, body, token, other_proof, key)
    with pytest.raises(InvalidSignature):
        service.host.open(answer, service.host.create_body("another"), token, proof, key)
    with pytest.raises(Refusal):
        service.host.open(answer, body, service.host.token(), proof, key)
    thief = Host(service.authority)
    with pytest.raises(Refusal):
        thief.open(answer, body, token, proof, key)
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("suite", ["MLKEM768_X25519", "MLKEM1024_P384", "X25519", "P256"])
def test_every_suite(service: Service, suite: str) -> None:
    service.authority.put("trust_authority_cluster", "cluster", cluster(hpke_suite="X25519"))
    service.publish()
    service.host = Host(service.authority, suite=suite)
    _answer, key = service.released(service.host.create_body(), "create")
    assert len(key) == 32


def test_the_host_header_does_not_matter(service: Service) -> None:
    body = service.host.create_body()
    assert service.ask(body, "create", Host="evil.test").status_code == 200
    token = service.host.token()
    proof = service.host.proof(token, body, url="https://evil.test/kms/v1/providers/finance/keys")
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof, "Host": "evil.test"}
    response = service.public.post(f"{PATH}?action=create", content=body, headers=headers)
    assert response.json()["error"]["code"] == "proof_mismatch"


def test_public_url_has_a_port_that_is_not_443(service: Service) -> None:
    import msgspec

    assert public_url(service.settings) == URL.removesuffix(PATH)
    assert public_url(msgspec.structs.replace(service.settings, public_port=8443)) == "https://ta1:8443"


# ---- refusals ----


def refused(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "remedy"}
    return response.status_code, error["code"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "token_invalid"),
        ({"DPoP": "x"}, "token_invalid"),
        ({"Authorization": "DPoP "}, "token_invalid"),
        ({"Authorization": "Bearer abc", "DPoP": "x"}, "token_invalid"),
        ({"Authorization": "DPoP abc"}, "proof_invalid"),
        ({"Authorization": "DPoP abc", "DPoP": "x"}, "token_invalid"),
    ],
)
def test_without_token_or_proof(service: Service, headers: dict[str, str], code: str) -> None:
    response = service.public.post(f"{PATH}?action=create", content=b"{}", headers=headers)
    assert refused(response) == (401, code)
    assert [record["code"] for record in service.audit()] == [code]


@pytest.mark.parametrize("name", ["a/b", "a b", "k\u00f6ln", "%2F", "x?y=1"])
def test_a_provider_of_any_name(service: Service, name: str) -> None:
    from urllib.parse import quote

    service.authority.put("key_provider", name, provider())
    service.authority.put("scope", "cluster-a", scope(providers=["*"]))
    service.publish()
    path = f"/kms/v1/providers/{quote(name, safe='')}/keys"
    body, token = service.host.create_body(), service.host.token()
    proof = service.host.proof(token, body, url=f"https://ta1{path}")
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    response = service.public.post(f"{path}?action=create", content=body, headers=headers)
    assert response.status_code == 200, response.text
    path = f"/kms/manage/v1/providers/{quote(name, safe='')}/check-value"
    assert service.management.post(path).json() == {"master_key_id": KEY_ID, "check_value": CHECK_VALUE}


def test_two_proofs_are_refused(service: Service) -> None:
    body, token = service.host.create_body(), service.host.token()
    proof = service.host.proof(token, body)
    headers = [("Authorization", f"DPoP {token}"), ("DPoP", proof), ("DPoP", proof)]
    response = service.public.post(f"{PATH}?action=create", content=body, headers=headers)
    assert refused(response) == (401, "proof_invalid")


@pytest.mark.parametrize("query", ["", "?action=", "?action=delete", "?action=CREATE"])
def test_unknown_action(service: Service, query: str) -> None:
    response = service.public.post(PATH + query, content=b"{}")
    assert refused(response) == (400, "malformed_request")
    assert "action" in response.json()["error"]["message"]


def test_a_body_that_is_too_large(service: Service) -> None:
    assert service.ask(b"x" * (64 * 1024 + 1), "create").status_code == 413


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 256])
def test_object_label_that_cannot_be_one(service: Service, label: str) -> None:
    response = service.ask(service.host.create_body(label), "create")
    assert refused(response) == (400, "malformed_request")
    assert "object_label" in response.json()["error"]["message"]


def test_a_key_to_seal_to_that_is_none(service: Service) -> None:
    import hashlib

    from trusted_infrastructure.tokens import SealingTarget

    service.host.claims = {"hpke": SealingTarget("MLKEM768_X25519", hashlib.sha256(b"short").hexdigest())}
    body = json.dumps(
        {"object_label": "m", "hpke_public_key": base64.b64encode(b"short").decode(), "version": 1}
    ).encode()
    response = service.ask(body, "create")
    assert refused(response) == (400, "malformed_request")
    assert "hpke_public_key" in response.json()["error"]["message"]


def test_a_removed_host_is_refused_at_once(service: Service) -> None:
    token = service.host.token()
    body = service.host.create_body()
    assert service.ask(body, "create", token).status_code == 200
    service.authority.put("denied_host", "host1", denied("host1"))
    service.publish()
    assert refused(service.ask(body, "create", token)) == (403, "host_denied")


def test_a_wrapped_key_that_was_changed(service: Service) -> None:
    changed = wrapped_key()[:-1] + b"\0"
    assert refused(service.ask(service.host.unwrap_body(changed), "unwrap")) == (403, "wrapped_key_invalid")


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal("primary_key_state", "DEACTIVATED"), 403),
        (Unavailable("key_server_unreachable", "down"), 503),
        (Unavailable("primary_key_unavailable", "gone"), 503),
    ],
)
def test_no_primary_key_no_key(service: Service, refusal: Refusal, status: int) -> None:
    for server in service.servers:
        server.refusal = refusal
    service.parts.state.primary_keys.configure({})
    service.parts.state._configured = ""
    service.take()
    assert refused(service.ask(service.host.create_body(), "create"))[0] == status


def test_another_primary_key_under_the_same_id(service: Service) -> None:
    for server in service.servers:
        server.material = bytes(32)
    service.authority.put("key_provider", "finance", provider(description="changed"))
    service.parts.state.primary_keys.configure({})
    service.publish()
    service.take()
    assert refused(service.ask(service.host.create_body(), "create")) == (403, "primary_key_mismatch")
    codes = [(record["code"], record["host"]) for record in service.audit()]
    assert codes.count(("primary_key_mismatch", "")) == 2  # an alarm for each server
    assert codes[-1] == ("primary_key_mismatch", "host1")


def test_without_configuration_nothing_is_decided(service: Service) -> None:
    (service.folder / "snapshot.json").unlink()
    assert refused(service.ask(service.host.create_body(), "create")) == (503, "configuration_unavailable")
    (service.folder / "snapshot.json").write_text("{}")
    assert refused(service.ask(service.host.create_body(), "create")) == (503, "configuration_unavailable")


def test_without_an_audit_record_no_key_leaves(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    response = service.ask(service.host.create_body(), "create")
    assert refused(response) == (503, "audit_unavailable")
    assert "sealed_key" not in response.text


def test_an_alarm_that_cannot_be_audited_ends_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    for server in service.servers:
        server.material = bytes(32)
    service.authority.put("key_provider", "finance", provider(connection_timeout=9))
    service.publish()
    monkeypatch.setattr("os.fdatasync", full)
    service.take()
    assert service.management.get("/kms/manage/v1/status").json()["health"] == "ERROR"


def test_a_fault_is_a_refusal(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError(PRIMARY_KEY.hex())

    monkeypatch.setattr("trusted_infrastructure.key_provider.public.answer", broken)
    response = service.ask(service.host.create_body(), "create")
    assert refused(response) == (500, "internal_error")
    assert PRIMARY_KEY.hex() not in response.text + json.dumps(service.audit())
    assert service.audit()[-1]["detail"]["reason"] == "ZeroDivisionError"


def test_rate_limit_for_each_endorsement_key(service: Service) -> None:
    from trusted_infrastructure.rate_limit import RateLimit

    routes: Any = service.parts.public.routes[1]
    routes.endpoint.__self__._limit = RateLimit(0.001, 2, lambda: 0.0)
    body = service.host.create_body()
    statuses = [service.ask(body, "create").status_code for _index in range(3)]
    assert statuses == [200, 200, 429]
    service.host.claims = {"ek_digest": "1" * 64}
    assert service.ask(body, "create").status_code == 200


# ---- audit, secrets ----


def test_one_record_for_each_decision(service: Service) -> None:
    answer, _key = service.released(service.host.create_body("machine 7"), "create")
    service.ask(service.host.unwrap_body(wrapped_key(scope="cluster-b")), "unwrap")
    granted, denied_record = service.audit()
    assert (granted["code"], granted["host"], granted["service"]) == ("ok", "host1", SERVICE_ID)
    assert granted["detail"]["kek_id"] == answer.kek_id
    assert granted["detail"]["object_label"] == "machine 7"
    assert (granted["detail"]["provider"], granted["detail"]["operation"]) == ("finance", "create")
    assert (denied_record["code"], denied_record["host"]) == ("scope_mismatch", "host1")
    assert denied_record["address"] == "192.0.2.7"


def test_no_secret_in_audit_state_or_answers(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    token, body = service.host.token(), service.host.create_body()
    response = service.ask(body, "create", token)
    answer, key = service.released(body, "create")
    status = service.management.get("/kms/manage/v1/status")
    disk = b"".join(path.read_bytes() for path in (service.folder / "state").iterdir())
    output = "".join(capfd.readouterr())
    shown = caplog.text + response.text + status.text + output + disk.decode("latin-1")
    for secret in (key, PRIMARY_KEY):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in shown
        assert secret not in disk
    for text in (token, service.host.proof(token, body)):
        assert text not in shown
    for path in (service.folder / "state").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


# ---- management ----

MANAGEMENT = [
    ("GET", "/kms/manage/v1/status"),
    ("GET", "/kms/manage/v1/sealing-key"),
    ("GET", "/kms/manage/v1/audit/head"),
    ("POST", "/kms/manage/v1/providers/finance/client-certificate"),
    ("POST", "/kms/manage/v1/providers/finance/csr"),
    ("POST", "/kms/manage/v1/providers/finance/reseal"),
    ("GET", "/kms/manage/v1/providers/finance/peer-certs"),
    ("POST", "/kms/manage/v1/providers/finance/check-value"),
    ("GET", "/kms/manage/v1/no-such-path"),
]


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
def test_only_the_manager_of_this_side(service: Service, method: str, path: str) -> None:
    app = service.parts.management
    workload = SideAuthority(side="workload", now=NOW)
    for certificate in (
        None,
        workload.leaf("manager", "workload-manager")[1],
        service.side.leaf("agent", "host1")[1],
        service.side.leaf("key-provider-service", "ta2")[1],
        service.side.leaf("manager", "ta-manager", now=NOW - 20 * 86400, days=10)[1],
        SideAuthority(now=NOW).leaf("manager", "ta-manager")[1],
    ):
        client = AsgiClient(app, forwarded(certificate) if certificate else {})
        response = client.request(method, path, content=b"{}")
        assert response.status_code in (401, 403), (certificate, response.text)


def test_the_public_socket_has_no_management(service: Service) -> None:
    _key, certificate = service.side.leaf("manager", "ta-manager")
    client = AsgiClient(service.parts.public, forwarded(certificate))
    for method, path in MANAGEMENT:
        assert client.request(method, path, content=b"{}").status_code == 404


def hosts(**keys: SealingKey) -> dict[str, Any]:
    return {
        "hosts": {
            host: {"suite": key.suite, "public_key": base64.b64encode(key.public_bytes()).decode()}
            for host, key in keys.items()
        }
    }


def unsealed(sealed: dict[str, Any], host: str, key: SealingKey, purpose: str) -> bytes:
    from trusted_infrastructure.sealing import SealedSecret, open_secret

    parts = {name: base64.b64decode(value) for name, value in sealed["sealed"].items()}
    return open_secret(SealedSecret(sealed["suite"], sealed["digest"], parts), host, key, purpose)


@pytest.mark.parametrize(("path", "field"), [("client-certificate", "certificate"), ("csr", "csr")])
def test_client_keys_are_sealed_to_the_hosts_that_are_named(service: Service, path: str, field: str) -> None:
    own = service.management.get("/kms/manage/v1/sealing-key").json()
    body = hosts(ta2=(ta2 := SealingKey.generate()))
    body["hosts"]["ta1"] = own
    response = service.management.post(f"/kms/manage/v1/providers/finance/{path}", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {field, "private_key"}
    assert "PRIVATE KEY" not in response.text
    purpose = private_key_purpose("finance")
    key = unsealed(answer["private_key"], "ta2", ta2, purpose)
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert unsealed(answer["private_key"], "ta1", service.parts.state.sealing_key, purpose) == key
    assert service.audit()[-1]["detail"]["sealed_for"] == ["ta1", "ta2"]


@pytest.mark.parametrize("path", ["client-certificate", "csr", "reseal"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"{}", "hosts"),
        (b'{"hosts":{}}', "hosts"),
        (b'{"hosts":{"ta2":{"suite":"X25519"}}}', "public_key"),
        (b'{"hosts":{"ta2":{"suite":"X25519","public_key":"!"}}}', "public_key"),
        (b'{"more":1}', "more"),
    ],
)
def test_bad_bodies_name_the_field(service: Service, path: str, body: bytes, field: str) -> None:
    response = service.management.post(f"/kms/manage/v1/providers/finance/{path}", content=body)
    assert response.status_code == 400
    assert field in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["client-certificate", "csr", "reseal", "check-value"])
def test_unknown_provider(service: Service, path: str) -> None:
    body = hosts(ta2=SealingKey.generate())
    response = service.management.post(f"/kms/manage/v1/providers/hr/{path}", json=body)
    assert refused(response) == (404, "provider_unknown")
    assert refused(service.management.get("/kms/manage/v1/providers/hr/peer-certs"))[0] == 404


def test_secrets_are_sealed_again_for_a_new_host(service: Service) -> None:
    own, ta3 = service.parts.state.sealing_key, SealingKey.generate()
    service.authority.put(
        "key_provider",
        "finance",
        provider(
            client_certificate=CLIENT.certificate,
            client_private_key=seal_to("ta1", own, CLIENT.private_key, private_key_purpose("finance")),
            password=seal_to("ta1", own, b"pw", password_purpose("finance")),
        ),
    )
    service.publish()
    answer = service.management.post("/kms/manage/v1/providers/finance/reseal", json=hosts(ta3=ta3)).json()
    assert (
        unsealed(answer["client_private_key"], "ta3", ta3, private_key_purpose("finance"))
        == CLIENT.private_key
    )
    assert unsealed(answer["password"], "ta3", ta3, password_purpose("finance")) == b"pw"
    assert answer["csr_private_key"] is None


def test_the_check_value_is_read_from_all_servers(service: Service) -> None:
    service.authority.put("key_provider", "finance", provider(primary_key_check_value=None))
    service.publish()
    assert refused(service.ask(service.host.create_body(), "create"))[1] == "primary_key_unavailable"
    path = "/kms/manage/v1/providers/finance/check-value"
    assert service.management.post(path).json() == {"master_key_id": KEY_ID, "check_value": CHECK_VALUE}
    service.authority.put("key_provider", "finance", provider())
    service.publish()
    assert service.ask(service.host.create_body(), "create").status_code == 200
    service.servers[1].material = bytes(32)
    assert refused(service.management.post(path)) == (409, "primary_key_mismatch")
    service.servers[1].refusal = Unavailable("key_server_unreachable", "key server 'kms2': down")
    response = service.management.post(path)
    assert refused(response) == (503, "key_server_unreachable")
    assert "kms2" in response.json()["error"]["message"]


def test_status(service: Service) -> None:
    status = service.management.get("/kms/manage/v1/status").json()
    assert status["health"] == "OK"
    assert status["security_generation"] == 3
    assert status["identity_expires"].endswith("Z")
    finance = status["providers"]["finance"]
    assert finance["health"] == "OK"
    assert finance["servers"][0] == {
        "name": "kms1",
        "health": "OK",
        "details": [],
        "client_trust_server": True,
        "server_trust_client": True,
        "certificate_end": None,
        "keys": [{"primary_key_id": KEY_ID, "state": "ACTIVE", "code": ""}],
    }


@pytest.mark.parametrize(("days", "health"), [(31, "OK"), (30, "WARNING"), (0, "WARNING"), (-1, "WARNING")])
def test_status_of_certificates_that_end(service: Service, days: int, health: str) -> None:
    end = datetime.datetime.fromtimestamp(NOW, datetime.UTC) + datetime.timedelta(days=days)
    service.servers[1].certificate_end = end
    finance = service.management.get("/kms/manage/v1/status").json()["providers"]["finance"]
    first, second = finance["servers"]
    assert (first["certificate_end"], second["certificate_end"]) == (None, f"{end:%Y-%m-%dT%H:%M:%SZ}")
    assert (finance["health"], first["health"], second["health"]) == (health, "OK", health)
    line = f"certificate_expired: the certificate of key server kms2 ends at {second['certificate_end']}"
    assert second["details"] == finance["details"] == ([] if health == "OK" else [line])
    service.servers[1].refusal = Unavailable("key_server_unreachable", "down")
    service.authority.put("key_provider", "finance", provider(connection_timeout=7))
    service.publish()
    service.take()
    finance = service.management.get("/kms/manage/v1/status").json()["providers"]["finance"]
    assert finance["servers"][1]["health"] == "ERROR"
    assert finance["servers"][1]["certificate_end"] == second["certificate_end"]


def test_status_of_what_is_wrong(service: Service) -> None:
    service.servers[0].refusal = Unavailable("key_server_unreachable", "down")
    service.authority.put(
        "trust_authority_cluster", "cluster", cluster(peers=[Peer("ta1", "ta1"), Peer("x", "x")])
    )
    service.authority.put(
        "key_provider", "finance", provider(description="changed", client_certificate="junk")
    )
    service.authority.put("key_provider", "hr", provider(primary_key_check_value=None))
    service.publish()
    service.take()
    status = service.management.get("/kms/manage/v1/status").json()
    assert status["health"] == "ERROR"
    assert status["providers"]["finance"]["health"] == "WARNING"
    assert status["providers"]["hr"]["health"] == "ERROR"
    assert any("'x'" in line for line in status["details"])
    assert any("certificate_invalid" in line for line in status["providers"]["finance"]["details"])
    (service.folder / "snapshot.json").unlink()
    status = service.management.get("/kms/manage/v1/status").json()
    assert status["health"] == "ERROR"
    assert "configuration_unavailable" in status["details"][0]


def test_status_before_the_first_round(service: Service) -> None:
    service.authority.put("key_provider", "new", provider())
    service.publish()
    status = service.management.get("/kms/manage/v1/status").json()
    assert status["providers"]["new"]["health"] == "NONE"
    assert [server["name"] for server in status["providers"]["new"]["servers"]] == ["kms1", "kms2"]


def test_audit_head_is_signed(service: Service) -> None:
    service.released(service.host.create_body(), "create")
    answer = service.management.get("/kms/manage/v1/audit/head").json()
    claims = tokens.verify_audit_head(
        answer["signed"], service.side.certificate, "trust_authority", "key-provider-service", NOW
    )
    assert (claims.seq, claims.hash, claims.service_id) == (1, answer["hash"], SERVICE_ID)


def test_peer_certificates_that_cannot_be_fetched(service: Service) -> None:
    found = service.management.get("/kms/manage/v1/providers/finance/peer-certs").json()
    assert [entry["server_name"] for entry in found] == ["kms1", "kms2"]
    assert all("error" in entry and "certificate" not in entry for entry in found)


def test_without_an_identity_no_key_is_certified(service: Service) -> None:
    (service.folder / "key-provider-service.key").unlink()
    assert refused(service.public.get("/kms/v1/keys")) == (503, "certificate_invalid")
    (service.folder / "key-provider-service.pem").unlink()
    assert refused(service.management.get("/kms/manage/v1/audit/head")) == (503, "certificate_invalid")
    assert service.management.get("/kms/manage/v1/status").json()["health"] == "ERROR"


def test_anchors_are_read_again_when_they_change(service: Service) -> None:
    body = service.host.create_body()
    assert service.ask(body, "create").status_code == 200
    (service.folder / "anchors" / "peers.json").write_text("[]")
    assert refused(service.ask(body, "create")) == (401, "token_invalid")
    (service.folder / "anchors" / "peers.json").unlink()
    assert refused(service.ask(body, "create")) == (503, "configuration_unavailable")


def test_keys_are_signed_again_when_the_identity_is_renewed(service: Service) -> None:
    first = service.public.get("/kms/v1/keys").json()["keys"]
    assert service.public.get("/kms/v1/keys").json()["keys"] == first
    write_identity(service.folder, service.side)
    assert service.public.get("/kms/v1/keys").json()["keys"] != first

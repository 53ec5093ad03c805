# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of native key providers ask a manager, and how."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from services.manager.harness import Api

from trusted_infrastructure.key_delivery import KeyRecord
from trusted_infrastructure.manager.maintenance import maintain

PROVIDERS = "/vcenter/crypto-manager/kms/providers"
HOSTS = "/vcenter/crypto-manager/hosts"
KEYS = "/trust/native-key-providers/branch/keys"
KEY_ID = "0c0ffee0-1111-2222-3333-444455556666"
OTHER_ID = "0c0ffee0-aaaa-bbbb-cccc-ddddeeeeffff"
SECRET = bytes(range(32))
WITH_KEY = {"key_id": KEY_ID, "key_derivation_key": base64.b64encode(SECRET).decode()}


def create(api: Api, name: str = "branch", **spec: Any) -> None:
    body = {"provider": name, "native_spec": WITH_KEY, **spec}
    assert api.request("POST", PROVIDERS, json=body).status_code == 204


def offered(api: Api, password: str | None = None, name: str = "branch") -> tuple[str, str]:
    """Path below /api of a backup, and its token."""
    spec = {"provider": name} | ({} if password is None else {"password": password})
    found = api.ok("POST", f"{PROVIDERS}?action=export", json=spec)
    assert found["type"] == "LOCATION"
    url = found["location"]["url"]
    assert url.startswith("https://manager.example/api/")
    return url.removeprefix("https://manager.example/api"), found["location"]["download_token"]["token"]


def fetch(api: Api, path: str, token: str) -> Any:
    return api.request("GET", path, headers={"authorization": f"Bearer {token}"})


def backup(api: Api, password: str | None = None, name: str = "branch") -> bytes:
    """Exports and downloads."""
    answer = fetch(api, *offered(api, password, name))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-pkcs12"
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["content-length"]) == len(answer.content)
    sha256 = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{sha256}:"
    return bytes(answer.content)


def usable(api: Api, **spec: Any) -> bytes:
    """The provider "branch", backed up; the backup."""
    create(api, **spec)
    return backup(api)


def maintained(api: Api) -> None:
    api.run(maintain(api.manager))


def seen(api: Api, *types: str) -> list[dict[str, Any]]:
    """Events of these types."""
    query = "&".join(f"types={name}" for name in types)
    return list(api.ok("GET", f"/trust/events?{query}"))


def error_of(response: Any) -> tuple[int, str, str]:
    """Status, error type, and the field or reason code."""
    content = response.json()
    first = content["messages"][0]
    name = first["args"][0] if content["error_type"] == "INVALID_ARGUMENT" else first["id"].split(".")[-1]
    return response.status_code, content["error_type"], name


def record(primary_key: str) -> KeyRecord:
    """A key of an object under a key of the provider."""
    return KeyRecord(
        key_id="dek",
        object_id="machine",
        component="Virtual Machine",
        name="web",
        provider="branch",
        type="NATIVE",
        kek_id="kek",
        primary_key_id=primary_key,
        created=1,
    )

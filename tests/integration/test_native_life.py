# SPDX-License-Identifier: GPL-3.0-or-later
"""A native key provider, from the API of its manager to the TPM of a host: pushed, used with the manager
stopped, through an upgrade that a policy was signed for, and through a boot that none was."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from integration.key_host import HOST, KeyHost
from services.manager.harness import Api, Clock, FakeNodes, open_api
from services.manager.material import Issuer

from trusted_infrastructure.config.documents import Document, Generation, PcrPolicy, content_of
from trusted_infrastructure.config.snapshot import publish, snapshot_of
from trusted_infrastructure.manager import desired, events
from trusted_infrastructure.manager.inventory import find_cluster
from trusted_infrastructure.manager.maintenance import maintain
from trusted_infrastructure.manager.nodes import NodeError

PROVIDERS = "/vcenter/crypto-manager/kms/providers"
ON_HOST = f"/vcenter/crypto-manager/hosts/{HOST}/kms/providers/branch"
POLICIES = "/trust/clusters/trusted/pcr-policies"
NOW, NEXT, OTHER = "11" * 32, "22" * 32, "33" * 32  # what a boot loader of each kind is measured as
SIGNER = Issuer("workload principal", ca=False)


class AgentNodes(FakeNodes):
    """The host is a real agent; its configuration service is simulated, and publishes what it is sent."""

    def __init__(self, host: KeyHost) -> None:
        super().__init__()
        self._host = host

    def publish_also(self, document: Document) -> None:
        """As if somebody had put a document beside those that the manager sent."""
        documents = list(self.documents.get(HOST, {}).values())
        publish(self._host.folder / "snapshot.json", snapshot_of(HOST, "workload", 1, [*documents, document]))

    async def call(
        self, host: str, method: str, path: str, content: Any = None, timeout: float | None = None
    ) -> bytes:
        if not path.startswith("/agent/manage/v1/"):
            answer = await super().call(host, method, path, content, timeout)
            if method == "POST":
                documents = list(self.documents[HOST].values())
                publish(self._host.folder / "snapshot.json", snapshot_of(HOST, "workload", 1, documents))
            return answer
        found = self._host.manage(method, path.removeprefix("/agent/manage/v1/"), content)
        if found.is_success:
            return found.content
        error = msgspec.json.decode(found.content)["error"]
        raise NodeError(host, error["code"], error["message"], found.status_code)


@pytest.fixture(scope="module")
def host() -> Iterator[KeyHost]:
    with KeyHost({}) as started:
        yield started


def boot(host: KeyHost, measured: str) -> None:
    """Power off and on, with this boot loader."""
    host.process.kill()
    host.process.wait(timeout=20)
    host.tpm.reboot()
    host.tpm.tool("tpm2_pcrextend", f"4:sha256={measured}")
    host.start()


def image(version: str, measured: str) -> dict[str, Any]:
    """A base image with this boot loader."""
    return {
        "image_version": version,
        "display_name": version,
        "bank": "sha256",
        "pcrs": {
            "4": {"events": [{"type": "EV_EFI_BOOT_SERVICES_APPLICATION", "digest": measured}]},
            "9": {"value": "00" * 32},
        },
    }


@contextlib.contextmanager
def manager(directory: Path, nodes: FakeNodes) -> Iterator[Api]:
    """The workload manager, while it is not stopped."""
    paths = {"principal_certificate": directory / "p.pem", "principal_key": directory / "p.key"}
    paths["principal_certificate"].write_text(SIGNER.pem)
    paths["principal_key"].write_text(SIGNER.key_pem)
    with open_api(directory, "workload", nodes, Clock(), **paths) as api:
        yield api


def policy_of(api: Api, cluster: str) -> Document:
    """The policy "x" of a cluster."""
    with api.manager.database.transaction() as connection:
        found = desired.content(connection, find_cluster(connection, cluster), "pcr_policy", "x", PcrPolicy)
    assert found is not None
    return Document("pcr_policy", "x", Generation(1, 1), content_of(found))


def becomes(look: Callable[[], Any], wanted: Any) -> None:
    """Waits for what the agent does by itself, a second or so after a change."""
    end = time.monotonic() + 20
    while (found := look()) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.1)


def health_of(api: Api) -> tuple[str, list[str]]:
    info = api.ok("GET", ON_HOST)
    return info["health"], [item["id"].split(".")[-1] for item in info["details"]]


def test_the_life_of_a_native_provider(host: KeyHost, tmp_path: Path) -> None:
    boot(host, NOW)
    nodes = AgentNodes(host)
    with manager(tmp_path, nodes) as api:
        api.ok("POST", "/trust/clusters", json={"name": "trusted"})
        body = {"name": HOST, "ek_digest": "ab" * 32, "scope": "lab"}
        api.done("POST", "/trust/clusters/trusted/hosts", json=body)
        spec = {"provider": "branch", "constraints": {"tpm_required": True}}
        api.ok("POST", PROVIDERS, json=spec)
        refused = host.use("POST", "generate", {"object_id": "web1", "provider": "branch"})
        assert "key" not in refused
        export = api.ok("POST", f"{PROVIDERS}?action=export", json={"provider": "branch"})["location"]
        path = export["url"].removeprefix("https://manager.example/api")
        bearer = {"authorization": f"Bearer {export['download_token']['token']}"}
        assert api.request("GET", path, headers=bearer).status_code == 200
        assert health_of(api) == ("WARNING", ["pcr_policy_missing"])
        # Who may sign for another cluster brings its policy to this host: the same key, the same values.
        api.ok("POST", "/trust/clusters", json={"name": "other"})
        api.done(
            "POST", "/trust/clusters/other/pcr-policies", json={"name": "x", "base_image": image("x", NOW)}
        )
        nodes.publish_also(policy_of(api, "other"))
        becomes(lambda: health_of(api), ("WARNING", ["pcr_policy_invalid"]))
        api.done("POST", POLICIES, json={"name": "now", "base_image": image("now", NOW)})
        becomes(lambda: health_of(api), ("OK", []))
        api.done("POST", POLICIES, json={"name": "next", "base_image": image("next", NEXT)})

    # The manager is stopped. The host makes keys, and has them after the upgrade.
    made = host.use("POST", "generate", {"object_id": "web1", "provider": "branch"})
    boot(host, NEXT)
    wanted = {"key_id": made["record"]["key_id"]}
    becomes(lambda: host.use("POST", "get", wanted).get("key"), made["key"])

    boot(host, OTHER)
    locked = host.use("POST", "get", wanted)
    assert locked["error"]["code"] == "native_provider_locked", locked

    with manager(tmp_path, nodes) as api:
        becomes(lambda: health_of(api), ("ERROR", ["pcr_policy_mismatch"]))
        api.run(maintain(api.manager))
        assert host.use("POST", "get", wanted)["key"] == made["key"]
        found = api.ok("GET", f"/trust/events?types={events.HOST_TPM_CONFIG_ENCRYPTION}")
        assert [(item["host"], item["details"]["code"]) for item in found] == [(HOST, "pcr_policy_mismatch")]
        # It would lock again after the next start of this kind.
        assert health_of(api) == ("WARNING", ["pcr_policy_mismatch"])
        api.ok("DELETE", f"{PROVIDERS}/branch")
        assert "key" not in host.use("POST", "get", wanted)

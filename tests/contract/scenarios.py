# SPDX-License-Identifier: GPL-3.0-or-later
"""What each module does to a manager, from nothing to removed. Every scenario begins with a new manager."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from contract.managed_site import Site, open_site
from contract.native_scenarios import native_providers, pcr_policies
from services.manager.harness import Side
from services.manager.material import START, Issuer

from ansible_collections.trusted.infrastructure.plugins.modules.tpm2_endorsement_key_replace import key_digest
from trusted_infrastructure import sealing
from trusted_infrastructure.kmip.servers import ServedKey

CLUSTER = "authority"
TRUSTED = "trusted"
VENDOR = Issuer("vendor root")
ISSUING = Issuer("vendor issuing", VENDOR)
EK = Issuer("tpm", ISSUING, ca=False)
OTHER = Issuer("another")
SIGNER = Issuer("principal", ca=False)
DIGEST = "ab" * 32
SERVER = {"name": "kms1", "address": "kms1.example"}
SERVICE = {
    "address": "ta1.example",
    "trusted_ca": [VENDOR.pem],
    "group": "group-1",
    "trust_authority_cluster": "domain-c8",
}


@dataclass(frozen=True)
class Scenario:
    """side: of the manager. play: what is done."""

    side: Side
    play: Callable[[Site], None]

    def run(self, directory: Path) -> Site:
        """Plays it and returns what was used."""
        options: dict[str, Any] = {}
        if self.side == "workload":
            options = {
                "principal_certificate": directory / "principal.pem",
                "principal_key": directory / "principal.key",
            }
            options["principal_certificate"].write_text(SIGNER.pem)
            options["principal_key"].write_text(SIGNER.key_pem)
        (directory / "ca.pem").write_text(VENDOR.pem)
        with open_site(directory, self.side, **options) as site:
            self.play(site)
        return site


def reformatted(pem: str) -> str:
    """The same certificate or key as another tool would write it: a text in front, other columns, CR LF."""
    first, *lines, last = pem.strip().splitlines()
    body = textwrap.wrap("".join(lines), 48)
    return "Subject: somebody\r\n" + "\r\n".join([first, *body, last]) + "\r\n\r\n"


def authority(site: Site) -> None:
    """With the enabled cluster `authority` of two hosts."""
    site.converges("cluster", name=CLUSTER)
    for host in ("ta1", "ta2"):
        site.converges("cluster_host", cluster=CLUSTER, name=host)
    site.converges("trust_authority_cluster", cluster=CLUSTER, state="enabled")


def trusted(site: Site) -> None:
    """With the cluster `trusted` of two hosts."""
    site.converges("cluster", name=TRUSTED)
    for host in ("host1", "host2"):
        site.converges(
            "cluster_host", cluster=TRUSTED, name=host, ek_digest=DIGEST.upper(), scope="department"
        )


def missed_change(site: Site) -> None:
    """A host that was away: the run names it, the next one repairs it although nothing else is to be done."""
    site.stays("cluster", name=CLUSTER, state="remediated")
    site.api.nodes.down.add("ta2")
    assert "ta2" in site.refused("trust_authority_cluster", cluster=CLUSTER, state="enabled")
    assert "ta2" in site.refused("cluster", name=CLUSTER, state="remediated")
    site.api.nodes.down.clear()
    site.stays("trust_authority_cluster", cluster=CLUSTER, state="enabled")
    site.converges("cluster", name=CLUSTER, state="remediated")
    documents = site.api.nodes.documents
    assert documents["ta1"] == documents["ta2"]
    site.converges("trust_authority_cluster", cluster=CLUSTER, state="disabled")


def clusters(site: Site) -> None:
    authority(site)
    rows = site.ok("cluster_info", names=[CLUSTER])["clusters"]
    assert [row["name"] for row in rows] == [CLUSTER]
    identifier = rows[0]["cluster"]
    assert site.ok("trust_authority_cluster_info", states=["ENABLE"])["trust_authority_clusters"] == [
        {"cluster": identifier, "state": "ENABLE"}
    ]
    times = {"token_lifetime": 600, "grace_period": 30, "key_cache_max_age": 0}
    result = site.converges("trust_authority_cluster", cluster=identifier, **times)
    assert {key: result["resource"][key] for key in times} == times
    site.stays("trust_authority_cluster", cluster=CLUSTER, state="enabled")
    site.converges("trust_authority_cluster", cluster=CLUSTER, state="disabled")
    missed_change(site)
    assert "ta1" in site.refused("cluster", name=CLUSTER, state="absent")
    for host in ("ta1", "ta2"):
        site.converges("cluster_host", cluster=CLUSTER, name=host, state="absent")
    site.converges("cluster", name=CLUSTER, state="absent")


def hosts(site: Site) -> None:
    trusted(site)
    names = [row["name"] for row in site.ok("host_info", clusters=[TRUSTED])["hosts"]]
    assert names == ["host1", "host2"]
    assert site.ok("host_info", clusters=["unknown"])["hosts"] == []
    result = site.converges(
        "cluster_host", cluster=TRUSTED, name="host1", ek_digest="cd" * 32, scope="department"
    )
    assert result["resource"]["ek_digest"] == "cd" * 32
    message = site.refused("cluster_host", cluster=TRUSTED, name="host3")
    assert "ek_digest: is required for a trusted host" in message
    site.converges("cluster_host", cluster=TRUSTED, name="host2", state="absent")


def principals(site: Site) -> None:
    authority(site)
    wanted = {
        "cluster": CLUSTER,
        "issuer": "https://workload-manager/",
        "issuer_alias": "workload",
        "principal_name": "machine",
        "principal_domain": "lab",
    }
    site.converges("consumer_principal", **wanted, certificates=[[SIGNER.pem]])
    site.stays("consumer_principal", **wanted, certificates=[[reformatted(SIGNER.pem)]])
    found = site.ok("consumer_principal_info", cluster=CLUSTER, issuers=["https://workload-manager/"])
    assert [row["issuer_alias"] for row in found["consumer_principals"]] == ["workload"]
    assert site.ok("consumer_principal_info", cluster=CLUSTER, issuers=["x"])["consumer_principals"] == []
    site.converges("consumer_principal", **wanted, certificates=[[OTHER.pem]])
    # What cannot be made leaves what was there.
    assert "put back" in site.refused("consumer_principal", **wanted, certificates=[["no certificate"]])
    site.stays("consumer_principal", **wanted, certificates=[[OTHER.pem]])
    site.converges("consumer_principal", cluster=CLUSTER, issuer=wanted["issuer"], state="absent")


def scopes(site: Site) -> None:
    authority(site)
    wanted = {
        "cluster": CLUSTER,
        "name": "department a/b",
        "principal": "https://workload-manager/",
        "trusted_cluster": TRUSTED,
        "base_images": ["*"],
        "providers": ["finance"],
    }
    assert "must not contain /" in site.refused("scope", **wanted)
    wanted["name"] = "department a"
    assert "spec.principal: no consumer principal" in site.refused("scope", **wanted)
    site.ok(
        "consumer_principal",
        cluster=CLUSTER,
        issuer=wanted["principal"],
        issuer_alias="workload",
        principal_name="machine",
        principal_domain="lab",
        certificates=[[SIGNER.pem]],
    )
    assert "spec.providers[0]: there is no key provider 'finance'" in site.refused("scope", **wanted)
    wanted["providers"] = ["*"]
    site.converges("scope", **wanted)
    site.converges("scope", **{**wanted, "base_images": []})
    found = site.ok("scope_info", cluster=CLUSTER)["scopes"]
    assert [(row["scope"], row["base_images"]) for row in found] == [("department a", [])]
    site.converges("scope", cluster=CLUSTER, name="department a", state="absent")


def denied_hosts(site: Site) -> None:
    authority(site)
    wanted = {"cluster": CLUSTER, "host": "host3", "ek_digest": DIGEST.upper()}
    site.converges("denied_host", **wanted, reason="stolen")
    site.stays("denied_host", **wanted, reason="another reason")
    found = site.ok("denied_host_info", cluster=CLUSTER)["denied_hosts"]
    assert [(row["host"], row["reason"]) for row in found] == [("host3", "stolen")]
    site.converges("denied_host", **wanted, state="absent")


def vendors(site: Site) -> None:
    authority(site)
    wanted = {"cluster": CLUSTER, "name": "vendor"}
    site.converges("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem + ISSUING.pem])
    site.stays("tpm2_ca_certificate", **wanted, cert_chain=[reformatted(VENDOR.pem), ISSUING.pem])
    site.converges("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem])
    site.converges("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], eku_exception=True)
    site.stays("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem])
    message = site.refused("tpm2_ca_certificate", **wanted, cert_chain=[ISSUING.pem, VENDOR.pem])
    assert "put back" in message
    site.stays("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], eku_exception=True)
    lists = [VENDOR.crl()]
    site.converges("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], crls=lists)
    site.stays("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], crls=[reformatted(lists[0])])
    site.stays("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem])
    message = site.refused("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], crls=[ISSUING.crl()])
    assert "which is no CA of this entry's cert_chain" in message
    site.converges("tpm2_ca_certificate", **wanted, cert_chain=[VENDOR.pem], crls=[])
    found = site.ok("tpm2_ca_certificate_info", cluster=CLUSTER, names=["vendor"])["ca_certificates"]
    assert [(row["name"], row["health"]) for row in found] == [("vendor", "OK")]
    site.converges("tpm2_ca_certificate", **wanted, state="absent")


def endorsement_keys(site: Site) -> None:
    authority(site)
    site.converges(
        "tpm2_ca_certificate", cluster=CLUSTER, name="vendor", cert_chain=[VENDOR.pem, ISSUING.pem]
    )
    wanted = {"cluster": CLUSTER, "name": "host1"}
    site.converges("tpm2_endorsement_key", **wanted, public_key=EK.public_pem)
    site.stays("tpm2_endorsement_key", **wanted, public_key=reformatted(EK.public_pem))
    site.stays("tpm2_endorsement_key", **wanted, certificate=EK.pem)
    message = site.refused("tpm2_endorsement_key", **wanted, public_key=OTHER.public_pem)
    assert "another endorsement key is enrolled as host1" in message
    # A certificate of no vendor is refused by the server, and the key that was enrolled stays.
    message = site.refused("tpm2_endorsement_key", **wanted, certificate=OTHER.pem, replace=True)
    assert "put back" in message
    site.stays("tpm2_endorsement_key", **wanted, public_key=EK.public_pem)
    site.converges("tpm2_endorsement_key", **wanted, public_key=OTHER.public_pem, replace=True)
    site.converges("tpm2_endorsement_key", **wanted, certificate=EK.pem, replace=True)
    found = site.ok("tpm2_endorsement_key_info", cluster=CLUSTER)["endorsement_keys"]
    assert [row["public_key"] for row in found] == [EK.public_pem]
    site.converges("tpm2_endorsement_key", **wanted, state="absent")


def replaced_tpms(site: Site) -> None:
    authority(site)
    issuer = "https://workload-manager/"
    bound = {"host1": EK}
    answers = site.api.nodes.answers

    def identities(service: str) -> dict[str, Any]:
        found = [
            {
                "principal": issuer,
                "host": host,
                "ek_digest": DIGEST,
                "key_digest": key_digest(key.public_pem),
                "since": 1,
            }
            for host, key in bound.items()
        ]
        return {"service": f"attestation@{service}", "identities": found}

    path = f"/attestation/manage/v1/hosts/host1/release?principal={quote(issuer, safe='')}"
    answers["GET", "/attestation/manage/v1/identities?host=host1"] = identities
    answers["GET", "/attestation/manage/v1/identities"] = identities
    found = site.ok("host_identity_info", cluster=CLUSTER, hosts=["host1"])["host_identities"]
    assert [row["service"] for row in found] == ["attestation@ta1", "attestation@ta2"]
    answers["POST", path] = lambda _host: {"changed": bound.pop("host1", None) is not None}
    clock = f"/attestation/manage/v1/endorsement-keys/{DIGEST}/accept-clock"
    answers["POST", clock] = lambda _host: {"changed": True}

    site.converges("tpm2_endorsement_key", cluster=CLUSTER, name="host1", public_key=EK.public_pem)
    wanted = {"cluster": CLUSTER, "host": "host1"}
    site.stays("tpm2_endorsement_key_replace", **wanted, public_key=EK.public_pem)
    assert site.ok("tpm2_endorsement_key_replace", **wanted, accept_clock=True)["changed"]
    # No vendor's CA is registered: the server refuses the certificate, and the host keeps its key.
    message = site.refused("tpm2_endorsement_key_replace", **wanted, certificate=OTHER.pem)
    assert "put back" in message
    site.stays("tpm2_endorsement_key_replace", **wanted, public_key=EK.public_pem)
    site.converges("tpm2_endorsement_key_replace", **wanted, public_key=OTHER.public_pem)
    site.stays("tpm2_endorsement_key", cluster=CLUSTER, name="host1", public_key=OTHER.public_pem)
    answers["GET", "/attestation/manage/v1/identities?host=host2"] = identities
    site.converges(
        "tpm2_endorsement_key_replace", cluster=CLUSTER, host="host2", name="new", public_key=EK.public_pem
    )


def tpm_settings(site: Site) -> None:
    authority(site)
    before = site.ok("tpm2_settings_info", cluster=CLUSTER)["tpm2_settings"]
    wanted = not before["require_endorsement_keys"]
    site.converges("tpm2_settings", cluster=CLUSTER, require_endorsement_keys=wanted)
    after = site.ok("tpm2_settings_info", cluster=CLUSTER)["tpm2_settings"]
    assert after["require_endorsement_keys"] is wanted
    assert after["require_certificate_validation"] is before["require_certificate_validation"]


def base_images(site: Site) -> None:
    authority(site)
    image = {
        "image_version": "2026.11",
        "display_name": "Host one",
        "bank": "sha256",
        "pcrs": {"0": {"value": "ab" * 32}},
    }
    path = site.directory / "image.json"
    path.write_text(json.dumps(image))
    wanted = {"cluster": CLUSTER, "path": str(path)}
    site.converges("base_image", **wanted)
    found = site.ok("base_image_info", cluster=CLUSTER, names=["2026.11"])["base_images"]
    assert [row["display_name"] for row in found] == ["Host one"]
    assert "is the document of version 2026.11" in site.refused("base_image", **wanted, version="2026.12")
    path.write_text(json.dumps({**image, "display_name": "Host two"}))
    assert "a version never changes" in site.refused("base_image", **wanted)
    life_cycle(site, path, image)
    site.converges("base_image", cluster=CLUSTER, version="2026.11", state="absent")
    without_life_cycles(site)


def life_cycle(site: Site, path: Path, image: dict[str, Any]) -> None:
    """Staged, active, retired; back only where the task says so."""
    path.write_text(json.dumps({**image, "image_version": "2026.12", "state": "STAGED"}))
    wanted = {"cluster": CLUSTER, "version": "2026.12"}
    assert "give the path" in site.refused("base_image", **wanted, life_cycle="active")
    result = site.converges("base_image", cluster=CLUSTER, path=str(path))
    assert result["resource"]["life_cycle"] == "staged"
    site.converges("base_image", **wanted, life_cycle="active")
    # The record has not followed.
    assert "does not become staged again" in site.refused("base_image", cluster=CLUSTER, path=str(path))
    site.stays("base_image", cluster=CLUSTER, path=str(path), life_cycle="active")
    site.converges("base_image", **wanted, life_cycle="retired")
    for state in ("staged", "active"):
        assert "trust again" in site.refused("base_image", **wanted, life_cycle=state)
    site.converges("base_image", **wanted, life_cycle="active", reactivate=True)
    found = site.ok("base_image_info", cluster=CLUSTER, names=["2026.12"])["base_images"]
    assert [(row["life_cycle"], row["hosts"], row["scopes"]) for row in found] == [("active", [], [])]
    site.converges("base_image", **wanted, state="absent")


def without_life_cycles(site: Site) -> None:
    """A server that has vSphere's operations only."""
    archive = site.directory / "imgdb.tgz"
    archive.write_text(
        json.dumps(
            {
                "display_name": "x",
                "image_version": "8.0",
                "bank": "sha256",
                "pcrs": {"0": {"value": "ab" * 32}},
            }
        )
    )
    wanted = {"cluster": CLUSTER, "path": str(archive), "version": "8.0"}
    site.door.missing = "/trust/"
    assert "life_cycle" not in site.converges("base_image", **wanted)["resource"]
    assert "no life cycle" in site.refused("base_image", **wanted, life_cycle="retired")
    (found,) = site.ok("base_image_info", cluster=CLUSTER)["base_images"]
    assert "life_cycle" not in found
    site.door.missing = ""


def answer_for_providers(site: Site, provider: str) -> None:
    """What Key Provider Services answer: keys, sealed to made-up hosts, and what key servers present."""
    key = sealing.SealingKey.generate("X25519")
    client = Issuer("client", ca=False)
    base = f"/kms/manage/v1/providers/{provider}"
    answers = site.api.nodes.answers

    def made(name: str, value: str) -> Callable[[Any], dict[str, Any]]:
        def answer(body: dict[str, Any]) -> dict[str, Any]:
            keys = {host: key.public_key for host, key in body["hosts"].items()}
            sealed = sealing.seal_secret(
                b"a key", "X25519", keys, f"key_provider/{provider}/client_private_key"
            )
            return {name: value, "private_key": sealed}

        return answer

    answers["GET", "/kms/manage/v1/sealing-key"] = lambda _host: {
        "suite": "X25519",
        "public_key": key.public_bytes(),
    }
    answers["POST", f"{base}/client-certificate"] = made("certificate", client.pem)
    answers["POST", f"{base}/csr"] = made("csr", EK.request())
    answers["GET", f"{base}/peer-certs"] = lambda _host: [{"server_name": "kms1", "certificate": OTHER.pem}]
    answers["GET", "/kms/manage/v1/status"] = lambda _host: {"health": "OK", "details": [], "providers": {}}


def key_providers(site: Site) -> None:
    authority(site)
    wanted = {"cluster": CLUSTER, "name": "finance", "primary_key_id": "1"}
    for bad, said in (
        ({"name": "a/b"}, "name (spec.provider): must not"),
        ({"primary_key_id": ""}, "primary_key_id (spec.master_key_id): expected"),
        ({"kmip_username": "x" * 256}, "kmip_username (spec.key_server.kmip_server.username): "),
    ):
        assert said in site.refused("key_provider", **{**wanted, "servers": [SERVER], **bad})
    site.converges("key_provider", **wanted, servers=[SERVER])
    site.stays("key_provider", **wanted, servers=[{**SERVER, "port": 5696}], description="")
    second = {"name": "kms2", "address": "192.0.2.7", "port": 15696}
    more = {"kmip_username": "ti", "connection_timeout": 7, "description": "for finance"}
    site.converges("key_provider", **wanted, servers=[SERVER, second], **more)
    site.converges("key_provider", **wanted, servers=[SERVER, second], proxy={"address": "proxy.example"})
    site.converges("key_provider", **wanted, servers=[SERVER, second], required_userspace="verity")
    site.stays("key_provider", **wanted, servers=[SERVER, second])
    site.converges("key_provider", **{**wanted, "primary_key_id": "2"}, servers=[SERVER])
    (found,) = site.ok("key_provider_info", cluster=CLUSTER, names=["finance"])["key_providers"]
    assert (found["master_key_id"], found["required_userspace"]) == ("2", "verity")
    assert found["key_server"]["kmip_server"]["username"] == "ti"
    assert found["key_server"]["proxy_server"] == {"hostname": "proxy.example", "port": 1080}
    site.converges("key_provider", cluster=CLUSTER, name="finance", state="absent")


def rotations(site: Site) -> None:
    authority(site)
    answer_for_providers(site, "finance")
    answers, base = site.api.nodes.answers, "/kms/manage/v1/providers/finance"
    left: dict[str, int] = {}

    def checked(body: Any) -> dict[str, str]:
        key_id = body["master_key_id"] if isinstance(body, dict) else "1"
        return {"master_key_id": key_id, "check_value": key_id * 64}

    def usage(_host: str) -> dict[str, Any]:
        return {"usage": [{"scope": "lab", "host": "host1", "reported": 1.0, "keys": left, "unreported": {}}]}

    answers["POST", f"{base}/check-value"], answers["GET", f"{base}/usage"] = checked, usage
    wanted = {"cluster": CLUSTER, "name": "finance", "servers": [SERVER]}
    one = {"cluster": CLUSTER, "provider": "finance"}
    site.converges("key_provider", **wanted, primary_key_id="1")
    site.converges("key_provider_client_certificate", **one, method="self_signed")
    site.converges("key_provider_peer_certificates", **one, certificates=[OTHER.pem])
    site.stays("key_provider_rotation", **one)

    rotated = site.converges("key_provider", **wanted, primary_key_id="2")
    assert rotated["diff"]["before"] == {**rotated["diff"]["after"], "master_key_id": "1"}
    messages = site.warned("key_provider", **wanted, primary_key_id="3")
    assert all("is being rotated" in message for message in messages)
    # What 1 wrapped may be under 2 by now.
    assert "make a new one" in site.refused(
        "key_provider_rotation", **one, state="compromised", primary_key_id="2"
    )
    left["1"] = 2
    found = site.ok("key_provider_rotation_info", **one)["rotation"]
    assert [(key["master_key_id"], key["keys_left"]) for key in found["previous"]] == [("1", 2)]
    for check in (True, False):
        message = site.refused("key_provider_rotation", **one, check=check)
        assert "host1 (scope lab) keeps 2 under 1" in message
    site.converges("denied_host", cluster=CLUSTER, host="host1", ek_digest="ab" * 32)
    assert "without_hosts" in site.refused("key_provider_rotation", **one)
    assert "host1" in site.refused("key_provider_rotation", **one, without_hosts=["host2"])
    given_up = {**one, "without_hosts": ["host1"]}
    assert site.ok("key_provider_rotation", **given_up, check=True)["changed"]
    left.clear()
    done = site.converges("key_provider_rotation", **given_up)
    assert (done["removed"], done["lost"], done["resource"]["previous"]) == (["1"], [], [])

    stolen = {**one, "state": "compromised", "primary_key_id": "3"}
    assert "primary_key_id (spec.master_key_id): " in site.refused(
        "key_provider_rotation", **{**stolen, "primary_key_id": ""}
    )
    assert site.converges("key_provider_rotation", **stolen)["resource"]["previous"] == [
        {"master_key_id": "2", "compromised": True}
    ]
    left["2"] = 1
    lost = site.ok("key_provider_rotation", **one, force=True)["lost"]
    assert [(row["master_key_id"], row["keys"]) for row in lost] == [("2", 1)]
    assert site.stays("key_provider_rotation", **stolen)["warnings"]
    assert "cannot" not in str(site.ok("key_provider_rotation_info", **one)["rotation"])


def provider_trust(site: Site) -> None:
    authority(site)
    site.converges("key_provider", cluster=CLUSTER, name="finance", primary_key_id="1", servers=[SERVER])
    answer_for_providers(site, "finance")
    one = {"cluster": CLUSTER, "provider": "finance"}

    site.converges("key_provider_peer_certificates", **one, certificates=[VENDOR.pem, OTHER.pem])
    site.stays("key_provider_peer_certificates", **one, certificates=[reformatted(OTHER.pem) + VENDOR.pem])
    found = site.ok("key_provider_peer_certificates_info", **one)["peer_certificates"]
    assert [(row["server_name"], row["trusted"]) for row in found["current"]] == [("kms1", True)]
    assert len(found["trusted"]) == 2

    site.converges("key_provider_client_certificate", **one, method="self_signed")
    site.converges("key_provider_client_certificate", **one, certificate=OTHER.pem, method="signed",
                   private_key=OTHER.key_pem)  # fmt: skip
    site.stays("key_provider_client_certificate", **one, method="csr")
    request = site.ok("key_provider_client_certificate", **one, method="csr", force=True)
    assert request["changed"] and "BEGIN CERTIFICATE REQUEST" in request["csr"]
    assert site.stays("key_provider_client_certificate", **one, method="csr")["csr"] == request["csr"]
    site.converges("key_provider_client_certificate", **one, method="signed", certificate=EK.pem)
    site.stays("key_provider_client_certificate", **one, method="signed", certificate=reformatted(EK.pem))
    known = site.ok("key_provider_client_certificate_info", **one)["client_certificate"]
    assert known == {"certificate": EK.pem, "csr": None}
    certificates_given(site, "key_provider_client_certificate", EK, **one, method="signed")

    password = "a password of the key server"
    assert "kmip_password (credential): must have" in site.refused(
        "key_provider_credential", **one, kmip_password=""
    )
    result = site.converges("key_provider_credential", **one, kmip_password=password)
    assert password not in json.dumps(result)
    assert site.ok("key_provider_credential", **one, kmip_password=password, update="always")["changed"]


def certificates_given(site: Site, module: str, owner: Issuer, **wanted: Any) -> None:
    """Which certificates a provider takes without their key, and which never: alike for both kinds of them.
    What it has is one of the owner's key."""
    key = owner.key.public_key()
    ended = ISSUING.certify(key, START + timedelta(days=1))
    for given in ({"certificate": ended}, {"certificate": ended, "private_key": owner.key_pem}):
        assert "ended at 2026-01-02T" in site.refused(module, **wanted, **given)
    stranger = Issuer("stranger", ca=False)
    assert "outstanding certificate request" in site.refused(module, **wanted, certificate=stranger.pem)
    renewed = ISSUING.certify(key)
    site.converges(module, **wanted, certificate=renewed)
    site.converges(module, **wanted, certificate=renewed + ISSUING.pem)
    site.stays(module, **wanted, certificate=reformatted(renewed) + ISSUING.pem)


def services(site: Site) -> None:
    authority(site)
    site.api.nodes.answers["GET", "/attestation/manage/v1/status"] = lambda _host: {
        "health": "OK",
        "details": [],
    }
    status = site.ok("service_status_info", cluster=CLUSTER)
    assert (status["attestation"]["health"], status["kms"]["health"]) == ("OK", "ERROR")
    rows = site.ok("trust_authority_host_info", clusters=[CLUSTER])["trust_authority_hosts"]
    assert [row["attestation"]["address"]["hostname"] for row in rows] == ["ta1", "ta2"]
    assert rows[0]["kms"]["trusted_CA"]["cert_chain"] == [VENDOR.pem]
    assert site.ok("trust_authority_host_info", clusters=["unknown"])["trust_authority_hosts"] == []


def audit_logs(site: Site) -> None:
    authority(site)
    head = {"chain": "ab" * 16, "seq": 7, "hash": DIGEST}
    said: dict[str, Any] = {"intact": True, "records": 7, "first": 1, "head": head}
    for service in ("attestation", "kms"):
        base = f"/{service}/manage/v1/audit"
        site.api.nodes.answers["GET", f"{base}/peer-heads"] = lambda _host: {"peers": {}}
        site.api.nodes.answers["POST", f"{base}/verify"] = lambda _body: said
    logs = site.ok("audit_log_info", cluster=CLUSTER)["audit_logs"]
    assert [(log["host"], log["intact"]) for log in logs] == [("ta1", True)] * 2 + [("ta2", True)] * 2
    assert site.ok("audit_log_info", cluster=CLUSTER, verify=False)["audit_logs"] == []
    assert "kept elsewhere" in site.refused("audit_log_assert", cluster=CLUSTER)
    site.ok("audit_log_assert", cluster=CLUSTER, kept_elsewhere=False)
    said |= {"intact": False, "reason": "the line is not an audit record", "record": 3}
    assert "broken at record 3" in site.refused("audit_log_assert", cluster=CLUSTER)
    site.api.nodes.down.add("ta2")
    assert "cannot be checked" in site.refused("audit_log_assert", cluster=CLUSTER)


def registrations(site: Site) -> None:
    for kind in ("attestation_service", "kms_service"):
        site.converges(kind, **SERVICE)
        site.stays(kind, **{**SERVICE, "trusted_ca": [reformatted(VENDOR.pem)]})
        site.converges(kind, **{**SERVICE, "service_port": 8443})
        site.converges(kind, **{**SERVICE, "group": "group-2"})
        found = site.ok(f"{kind}_info")["services"]
        assert sorted((row["address"]["port"], row["group"]) for row in found) == [
            (443, "group-2"),
            (8443, "group-1"),
        ]
        assert "put back" in site.refused(kind, **{**SERVICE, "trusted_ca": ["no certificate"]})
        site.stays(kind, **{**SERVICE, "group": "group-2"})
        site.converges(kind, address=SERVICE["address"], state="absent")


def trusted_clusters(site: Site) -> None:
    trusted(site)
    one = {"cluster": TRUSTED, "trust_authority_cluster": "domain-c8"}
    for kind in ("attestation_service", "kms_service"):
        site.ok(kind, **SERVICE)
    site.converges("trusted_cluster", **one)
    for kind in ("attestation_service", "kms_service"):
        site.ok(kind, **{**SERVICE, "address": "ta2.example"})
    result = site.converges("trusted_cluster", **one)
    assert result["resource"]["kms"] == ["ta1.example:443", "ta2.example:443"]
    in_use = site.refused("kms_service", **{**SERVICE, "trusted_ca": [OTHER.pem]})
    assert "Detach it there first" in in_use
    found = site.ok("trusted_cluster_info", cluster=TRUSTED)["trusted_cluster"]
    assert {row["address"]["hostname"] for row in found["attestation"]} == {"ta1.example", "ta2.example"}
    assert found["applied_config"]["health"] == "OK"

    site.stays("trusted_cluster_applied_config", cluster=TRUSTED)
    site.converges("trusted_cluster_applied_config", cluster=TRUSTED, state="absent")
    site.converges("trusted_cluster_applied_config", cluster=TRUSTED, state="remediated")
    site.converges("trusted_cluster", **one, state="absent")


def providers_of_hosts(site: Site) -> None:
    trusted(site)
    site.converges("trusted_key_provider", name="finance", group="group-1")
    site.converges("trusted_key_provider", name="sales", group="group-1")
    site.converges("trusted_key_provider", name="sales", group="group-2", default=True)
    site.stays("trusted_key_provider", name="sales", group="group-2")
    found = site.ok("trusted_key_provider_info")["trusted_key_providers"]
    assert [(row["provider"], row["group"], row["default"]) for row in found] == [
        ("finance", "group-1", False),
        ("sales", "group-2", True),
    ]
    site.converges("trusted_key_provider", name="finance", state="absent")
    defaults(site)


def defaults(site: Site) -> None:
    """Defaults of the manager and of a cluster; `sales` is there, and is the manager's."""
    site.converges("trusted_key_provider", name="legal", group="group-1")
    result = site.converges("default_key_provider", cluster=TRUSTED, name="legal")
    assert result["resource"] == {"provider": "legal", "inherited": False}
    rows = site.ok("key_providers_info", types=["TRUSTED"])["key_providers"]
    assert [(row["provider"], row["default"], row["default_of"]) for row in rows] == [
        ("legal", False, [TRUSTED]),
        ("sales", True, []),
    ]
    assert site.ok("key_providers_info", names=["x"])["key_providers"] == []
    site.converges("default_key_provider", name="legal")
    site.stays("default_key_provider", cluster=TRUSTED, name="legal")
    result = site.converges("default_key_provider", cluster=TRUSTED, state="absent")
    assert result["resource"] == {"provider": "legal", "inherited": True}
    assert "name (provider): this manager has no key provider 'x'" in site.refused(
        "default_key_provider", name="x"
    )
    site.converges("default_key_provider", state="absent")
    exported(site)


def exported(site: Site) -> None:
    """What the defaults left behind, as files."""
    path = site.directory / "events.csv"
    given: dict[str, Any] = {"path": str(path), "format": "csv", "operations": ["set_default"], "after": 0}
    assert site.ok("events_export", check=True, **given)["changed"]
    assert not path.exists()
    result = site.ok("events_export", mode="0600", **given)
    assert (result["changed"], result["size"]) == (True, path.stat().st_size)
    assert [line.split(",")[7] for line in path.read_text().splitlines()[1:]] == ["set_default"] * 5, (
        "sales first"
    )
    assert path.stat().st_mode & 0o777 == 0o600
    site.stays("events_export", mode="0600", **given)
    site.converges("default_key_provider", name="sales")
    assert site.ok("events_export", **given)["changed"]
    assert "limit" in site.refused("events_export", path=str(path), limit=0)
    missing = str(site.directory / "missing" / "events")
    assert "missing" in site.refused("events_export", path=missing, format="jsonl")


def keys_of_hosts(site: Site) -> None:
    """Both hosts answer alike: one key, which rests on primary key 1 until it was wrapped again."""
    trusted(site)
    key = {
        "key_id": "6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10",
        "object_id": "vm-1",
        "component": "Virtual Machine",
        "name": "web",
        "provider": "finance",
        "type": "TRUSTED",
        "kek_id": "52d3",
        "primary_key_id": "1",
        "created": 1_800_000_000,
    }
    rewrapped = 0

    def rewrap(asked: Any) -> dict[str, Any]:
        nonlocal rewrapped
        found: dict[str, Any] = {"rewrapped": [], "left": [], "deep_recrypt": []}
        if asked.dry_run and not rewrapped:
            found["rewrapped"] = [key]
        elif not asked.dry_run:
            rewrapped += 1
            found["rewrapped"] = [{**key, "primary_key_id": "2"}]
        return found

    answers = site.api.nodes.answers
    answers["GET", "/agent/manage/v1/keys?after=&limit=1000"] = lambda _host: {"keys": [key]}
    answers["POST", "/agent/manage/v1/keys/rewrap"] = rewrap
    (found,) = site.ok("host_keys_info", host="host1", providers=["finance"])["object_keys"]
    assert (found["host"], found["primary_key_id"]) == ("host1", "1")
    assert site.ok("host_keys_info", host="host1", objects=["vm-2"])["object_keys"] == []

    wanted = {"cluster": TRUSTED, "provider": "finance", "objects": ["vm-1"]}
    assert site.ok("key_rewrap", check=True, **wanted)["changed"]
    site.door.changes()
    result = site.ok("key_rewrap", **wanted)
    assert (result["changed"], result["counts"]["rewrapped"], rewrapped) == (True, 2, 2)
    assert site.door.changes() == ["rewrap$task"]
    site.stays("key_rewrap", **wanted)
    assert site.door.changes() == []
    assert "no key provider 'hr'" in site.refused("key_rewrap", **wanted, target="hr")
    site.api.nodes.down = {"host2"}
    assert "host2" in site.refused("key_rewrap", **wanted)
    assert site.ok("key_rewrap", **wanted, incomplete="warn")["unreachable_hosts"] == ["host2"]


def agents(site: Site) -> None:
    trusted(site)
    answers = site.api.nodes.answers
    tpm = {"tpm": "tpm0", "active": True, "major_version": 2, "minor_version": 0}
    names = {"manufacturer": "IBM", "model": "SW", "firmware_version": "1.2"}
    banks = {"sha256": {"0": "ab" * 32}}
    key = {"key": DIGEST, "type": "RSA_2048", "identity": True, "ek_digest": DIGEST}
    areas = {"public_area": "AAAA", "name": "AAAA", "qualified_name": "AAAA", "public_key": EK.public_pem}
    log = {"type": "EFI_TCG2_EVENT_LOG_FORMAT_TCG_2", "data": "AAAA", "truncated": False, "banks": banks}
    answers["GET", "/agent/manage/v1/tpm"] = lambda _host: {**tpm, **names, "banks": banks}
    answers["GET", "/agent/manage/v1/tpm/endorsement-keys"] = lambda _host: {
        "endorsement_keys": [{**key, **areas}]
    }
    answers["GET", "/agent/manage/v1/tpm/event-log"] = lambda _host: log
    answers["GET", "/agent/manage/v1/status"] = lambda _host: {
        "state": "ATTESTED",
        "attestations": [],
        "base_image": "2026.11",
    }
    answers["POST", "/agent/manage/v1/key-check"] = lambda body: {"result": body["provider"] or "OK"}
    image = "/agent/manage/v1/base-image?image_version=2026.11"
    answers["GET", image] = lambda _host: {"image_version": "2026.11"}
    answers["GET", f"{image}&display_name=Host+one"] = lambda _host: {"display_name": "Host one"}
    site.api.nodes.down = {"host2"}

    (found,) = site.ok("host_tpm_info", host="host1", gather=["endorsement_keys", "event_log"])["tpms"]
    assert found["endorsement_keys"][0]["public_key"] == EK.public_pem
    assert (found["tpm"], found["event_log"]["data"]) == ("tpm0", "AAAA")
    states = site.ok("attestation_info")["hosts"]
    assert [(row["name"], row["attestation"]) for row in states] == [
        ("host1", "ATTESTED"),
        ("host2", "UNREACHABLE"),
    ]
    states = site.ok("attestation_info", hosts=["host-2", "host9"])["hosts"]
    assert [(row["name"], row["reason"]) for row in states] == [
        ("host2", "unreachable"),
        ("host9", "host_unknown"),
    ]
    (past,) = site.ok("attestation_info", hosts=["host1"], history=True)["hosts"]
    assert [one["attestation"] for one in past["history"]] == ["ATTESTED"]
    asserted(site)
    assert site.ok("key_check_info", host="host1")["key_check"]["result"] == "OK"
    assert site.ok("key_check_info", host="host1", provider="denied")["key_check"]["result"] == "denied"
    version = {"host": "host1", "version": "2026.11"}
    assert site.ok("host_base_image_info", **version)["base_image"] == {"image_version": "2026.11"}
    named = site.ok("host_base_image_info", **version, display_name="Host one")
    assert named["base_image"] == {"display_name": "Host one"}


def asserted(site: Site) -> None:
    """What pipelines ask: host1 is attested with 2026.11, host2 does not answer."""
    site.ok("attestation_assert", hosts=["host1"], base_images=["2026.11"])
    assert "host2 is UNREACHABLE" in site.refused("attestation_assert")
    site.ok("attestation_assert", hosts=["host2"], state="UNREACHABLE")
    asked = {"hosts": ["host1"], "base_images": ["2026.12"]}
    answer = site.api.nodes.answers["GET", "/agent/manage/v1/status"]
    attested = {"state": "ATTESTED", "attestations": [], "base_image": "2026.12"}

    def attest(_host: str) -> dict[str, Any]:
        site.api.nodes.answers["GET", "/agent/manage/v1/status"] = lambda _host: attested
        return attested

    site.api.nodes.answers["POST", "/agent/manage/v1/attest"] = attest
    assert site.run("attestation_assert", check=True, attest=True, **asked)["failed"]
    site.ok("attestation_assert", attest=True, **asked)
    site.api.nodes.answers["GET", "/agent/manage/v1/status"] = answer
    found = site.ok("events_info", hosts=["host1"], after=0)
    assert [event["type"].rpartition(".")[2] for event in found["events"]] == ["TaHostAttestPassEvent"] * 2
    assert site.ok("events_info", after=found["last"] + 100)["events"] == []


def judged(site: Site) -> None:
    """What the services of a Trust Authority Cluster say of hosts."""
    authority(site)
    row = {"principal": "p", "host": "host1", "state": "FAILED", "since": 1, "reason": "ek_weak"}
    answers = site.api.nodes.answers
    answers["GET", "/attestation/manage/v1/hosts"] = lambda host: {
        "service": f"attestation@{host}",
        "hosts": [{**row, "last": 2}],
    }
    answers["GET", "/attestation/manage/v1/hosts/host1/history?limit=20"] = lambda host: {
        "service": f"attestation@{host}",
        "history": [{**row, "sequence": 1}],
    }
    (found,) = site.ok("attestation_info", history=True)["hosts"]
    assert (found["name"], found["attestation"], found["principal"]) == ("host1", "FAILED", "p")
    assert [one["service"] for one in found["services"]] == ["attestation@ta1", "attestation@ta2"]
    assert [one["reason"] for one in found["history"]] == ["ek_weak", "ek_weak"]
    assert "host1 is FAILED" in site.refused("attestation_assert", hosts=["host1"])


def people(site: Site) -> None:
    """Users, a group, a role and permissions, from nothing to removed."""
    site.converges("cluster", name=CLUSTER)
    secret = "a long enough password"
    assert "user_password is needed" in site.refused("manager_user", name="eve")
    said = site.refused("manager_user", name="eve", user_password="short")
    assert "user_password (spec.password): expected" in said
    assert "name (spec.user): must have" in site.refused("manager_user", name="e:e", user_password=secret)
    assert "name (spec.group): must not" in site.refused("manager_group", name="a/b")
    assert "name (spec.role): must not" in site.refused("manager_role", name="a/b", privileges=[])
    made = site.converges("manager_user", name="eve", user_password=secret, description="Key providers")
    assert made["resource"]["password"] == "<changed>"
    site.converges("manager_user", name="eve", description="Base images")
    site.stays("manager_user", name="eve", user_password="whatever it is")
    again = site.ok("manager_user", name="eve", user_password=secret, update_password="always")
    assert (again["changed"], again["resource"]["password"]) == (True, "<changed>")
    assert secret not in str(again)
    again = {"user_password": secret, "update_password": "always"}
    for change in ({"state": "absent"}, {"description": "x"}, again):
        messages = site.foreseen("manager_user", name="administrator", **change)
        assert all("comes from the inventory" in message for message in messages)
    site.stays("manager_user", name="administrator", user_password=secret)

    role = {"name": "images", "privileges": ["TrustedAdmin.ConfigureHostMetadata"]}
    site.converges("manager_role", **role, description="Base images")
    role["privileges"].append("TrustedAdmin.RetrieveHostMetadata")
    site.converges("manager_role", **role)
    system = {"name": "NoAccess", "privileges": ["TrustedAdmin.ConfigureHostMetadata"]}
    for change in ({}, {"state": "absent"}):
        assert all("built in" in message for message in site.foreseen("manager_role", **system, **change))
    found = site.ok("manager_role_info", names=["images"])
    assert [len(item["privileges"]) for item in found["roles"]] == [5]
    assert len(found["privileges"]) > 30

    site.converges("manager_group", name="images", members=["eve"])
    site.converges("manager_group", name="images", description="They look after base images")
    site.converges("manager_group", name="images", exclusive=True)
    site.converges("manager_group", name="images", members=["eve"], exclusive=True)
    site.converges("manager_group", name="TrustedAdmins", members=["eve"])
    site.converges("manager_group", name="TrustedAdmins", exclusive=True)
    for change in ({"description": "x"}, {"state": "absent"}):
        messages = site.foreseen("manager_group", name="TrustedAdmins", **change)
        assert all("built in" in message for message in messages)
    (group,) = site.ok("manager_group_info", names=["TrustedAdmins"])["groups"]
    assert group["members"] == [{"user": "administrator", "source": "INVENTORY"}]
    assert "no user 'adam'" in site.refused("manager_group", name="images", members=["adam"])

    given = {"principal": "images", "principal_type": "group"}
    site.converges("manager_permission", **given, role="images")
    site.converges("manager_permission", **given, role="ReadOnly", cluster=CLUSTER)
    site.converges("manager_permission", **given, role="ReadOnly", cluster=CLUSTER, propagate=False)
    assert "no role 'nothing'" in site.refused("manager_permission", principal="eve", role="nothing")
    rows = site.ok("manager_permission_info", principals=["images"], roles=["ReadOnly"], clusters=[CLUSTER])
    assert [row["propagate"] for row in rows["permissions"]] == [False]
    asked = {"names": ["eve"], "gather_privileges": True}
    (eve,) = site.ok("manager_user_info", **asked)["users"]
    assert (eve["groups"], len(eve["privileges"])) == (["images"], 5)
    (eve,) = site.ok("manager_user_info", **asked, cluster=CLUSTER)["users"]
    assert (len(eve["privileges"]), len(eve["host_privileges"])) == (3, 5)
    assert len(site.ok("manager_user_info")["users"]) == 2

    site.converges("manager_permission", **given, cluster=CLUSTER, state="absent")
    messages = site.warned("manager_role", name="images", state="absent")
    assert all("in use" in message and "images" in message for message in messages)
    site.converges("manager_permission", **given, state="absent")
    site.converges("manager_role", name="images", state="absent")
    site.converges("manager_group", name="images", state="absent")
    site.converges("manager_user", name="eve", state="absent")


def principal(site: Site) -> None:
    found = site.ok("principal_info")["principal"]
    assert found["issuer"] == "https://manager.example/"
    assert found["certificates"][0]["cert_chain"] == [SIGNER.pem]


def standard_providers(site: Site) -> None:
    trusted(site)
    # Nobody listens there: the manager can tell at once.
    server = {"name": "kms1", "address": "127.0.0.1", "port": 1}
    wanted: dict[str, Any] = {"name": "finance", "servers": [server]}
    site.converges("standard_key_provider", **wanted)
    for bad, said in (
        ({"name": "a/b"}, "name (spec.provider): must not"),
        ({"kmip_username": "x" * 256}, "kmip_username (spec.username): must have"),
        ({"kmip_password": ""}, "kmip_password (credential): must have"),
        (
            {"trusted_certificates": ["x"]},
            "trusted_certificates (spec.certificates[0]): is not a certificate",
        ),
        ({"connection_timeout": 0}, "spec.connection_timeout: expected"),
        ({"servers": []}, "spec.servers: must have"),
    ):
        assert said in site.refused("standard_key_provider", **{**wanted, **bad})
    site.stays("standard_key_provider", **wanted, description="", kmip_username="")
    more = {"description": "for finance", "kmip_username": "ti", "connection_timeout": 1}
    site.converges("standard_key_provider", **wanted, **more)
    second = {"name": "kms2", "address": "127.0.0.2", "port": 1}
    wanted["servers"] = [server, second]
    site.converges("standard_key_provider", **wanted, proxy={"address": "127.0.0.3", "port": 1})
    site.converges("standard_key_provider", **wanted, kmip_username="")

    result = site.converges("standard_key_provider", **wanted, client_certificate="csr")
    assert "BEGIN CERTIFICATE REQUEST" in result["csr"]
    assert site.stays("standard_key_provider", **wanted, client_certificate="csr")["csr"] == result["csr"]
    refused = site.refused(
        "standard_key_provider", **wanted, client_certificate="provided", certificate=OTHER.pem
    )
    assert "outstanding certificate request" in refused
    given = {"client_certificate": "provided", "certificate": OTHER.pem, "private_key": OTHER.key_pem}
    site.converges("standard_key_provider", **wanted, **given)
    site.stays("standard_key_provider", **wanted, **{**given, "certificate": reformatted(OTHER.pem)})
    certificates_given(site, "standard_key_provider", OTHER, **wanted, client_certificate="provided")
    # A request that they do not answer stays.
    assert site.stays("standard_key_provider", **wanted, client_certificate="csr")["csr"] == result["csr"]
    site.stays("standard_key_provider", **wanted, client_certificate="self_signed")
    made = {"client_certificate": "self_signed", "renew_certificate": True}
    assert site.ok("standard_key_provider", **wanted, **made)["changed"]

    trusting = {**wanted, "trusted_certificates": [VENDOR.pem, OTHER.pem]}
    site.converges("standard_key_provider", **trusting)
    reordered = [reformatted(OTHER.pem) + VENDOR.pem]
    site.stays("standard_key_provider", **{**wanted, "trusted_certificates": reordered})
    password = "a password of the key servers"
    result = site.converges("standard_key_provider", **trusting, kmip_password=password)
    assert password not in json.dumps(result)
    again = {"kmip_password": password, "update_password": "unhealthy"}
    assert site.ok("standard_key_provider", **trusting, **again)["changed"]
    # Bound to the servers that it was set for: another one needs it again.
    trusting["servers"] = [server, {**second, "port": 2}]
    site.converges("standard_key_provider", **trusting, kmip_password=password)

    (found,) = site.ok("standard_key_provider_info", present_certificates=True)["standard_key_providers"]
    assert (found["status"]["health"], found["has_credential"], found["csr"] is None) == (
        "ERROR",
        True,
        False,
    )
    assert [row["trusted"] for row in found["current_certificates"]] == [False, False]
    assert site.ok("standard_key_provider_info", names=["other"])["standard_key_providers"] == []
    standard_keys(site)
    taken = [
        *site.warned("trusted_key_provider", name="finance", group="group-1"),
        *site.warned("native_key_provider", name="finance"),
    ]
    assert all("'finance'" in message for message in taken)
    # The default is of another kind already: this one does not become it.
    made = site.converges("trusted_key_provider", name="sales", group="group-1")
    assert made["resource"]["default"] is False
    (row,) = site.ok("key_providers_info", names=["sales"])["key_providers"]
    assert row["default"] is False
    taken = site.warned("standard_key_provider", name="sales", servers=[server])
    assert all("'sales'" in message for message in taken)
    site.converges("standard_key_provider", name="finance", state="absent")


def standard_keys(site: Site) -> None:
    """Of the provider `finance`, whose key servers make one in place of those of the test."""

    async def ask(*_arguments: Any) -> ServedKey:
        return ServedKey(key_id="100/7", material=bytes(32), state="ACTIVE", server="kms1")

    use = {"component": "Virtual Machine", "name": "db1", "identifier": "52d3-77"}
    wanted = {"cluster": TRUSTED, "provider": "finance", **use}
    assert site.ok("key_info", providers=["finance"], in_use=True)["known_keys"] == []
    assert "'sales'" in site.refused("key", **{**wanted, "provider": "sales"})
    with mock.patch.object(site.api.manager.key_servers, "ask", ask):
        result = site.converges("key", **wanted)
    assert (result["key_id"], len(result["unreachable_hosts"])) == ("100/7", 2)
    site.stays("key", **{**wanted, "name": "another name of it"})
    (found,) = site.ok("key_info", providers=["finance"], in_use=True)["known_keys"]
    assert found["key_id"] == result["key_id"]
    one = {"provider": "finance", "key_id": "100/7", "state": "absent"}
    assert all("52d3-77" in message for message in site.warned("key", **one))
    messages = site.warned("standard_key_provider", name="finance", state="absent")
    assert all("1 keys" in message for message in messages)
    assert site.ok("standard_key_provider", check=True, name="finance", state="absent", force=True)["changed"]
    site.converges("key", **one, force=True)


SCENARIOS = {
    "clusters": Scenario("trust_authority", clusters),
    "hosts": Scenario("workload", hosts),
    "principals": Scenario("trust_authority", principals),
    "scopes": Scenario("trust_authority", scopes),
    "denied hosts": Scenario("trust_authority", denied_hosts),
    "vendors": Scenario("trust_authority", vendors),
    "endorsement keys": Scenario("trust_authority", endorsement_keys),
    "replaced TPMs": Scenario("trust_authority", replaced_tpms),
    "audit logs": Scenario("trust_authority", audit_logs),
    "TPM settings": Scenario("trust_authority", tpm_settings),
    "base images": Scenario("trust_authority", base_images),
    "key providers": Scenario("trust_authority", key_providers),
    "rotations": Scenario("trust_authority", rotations),
    "trust of providers": Scenario("trust_authority", provider_trust),
    "services": Scenario("trust_authority", services),
    "registrations": Scenario("workload", registrations),
    "trusted clusters": Scenario("workload", trusted_clusters),
    "providers of hosts": Scenario("workload", providers_of_hosts),
    "agents": Scenario("workload", agents),
    "keys of hosts": Scenario("workload", keys_of_hosts),
    "judged hosts": Scenario("trust_authority", judged),
    "principal": Scenario("workload", principal),
    "standard providers": Scenario("workload", standard_providers),
    "people": Scenario("trust_authority", people),
    "native providers": Scenario("workload", native_providers),
    "PCR policies": Scenario("workload", pcr_policies),
}

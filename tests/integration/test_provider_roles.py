# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles that make key providers, under ansible-playbook, against a real manager without hosts."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import argon2
import pytest
from collection_tree import ROOT
from integration.served_manager import Site
from services.manager.harness import PASSWORD, write_users
from services.manager.test_pcr_policies import GOOD

from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.kmip import client_certificates
from trusted_infrastructure.manager import desired, inventory, standard_providers, users

CLUSTERS = ["finance", "research"]
# Nobody listens there: the manager can tell at once.
PROVIDER: dict[str, Any] = {
    "name": "archive",
    "servers": [{"name": "kms1", "address": "127.0.0.1", "port": 1}],
    "trusted_certificates": ["{{ inventory_dir | dirname }}/trust/key_servers/ca.pem"],
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(users, "HASH", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    site = Site(tmp_path)
    write_users(tmp_path / "users.json", [{"name": "administrator", "privileges": ["*"]}])
    namespace = tmp_path / "collections" / "ansible_collections" / "trusted"
    namespace.mkdir(parents=True)
    (namespace / "infrastructure").symlink_to(ROOT)
    for folder in ("inventory", "trust/key_servers", "trust/base_images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "inventory" / "hosts").write_text("manager ansible_connection=local\n")
    (tmp_path / "trust" / "key_servers" / "ca.pem").write_text(site.authority.certificate)
    (tmp_path / "trust" / "base_images" / "2026.12.json").write_text(json.dumps(GOOD))
    return site


async def converged(site: Site, role: str = "workload_key_providers", **variables: Any) -> tuple[int, str]:
    """Exit code and output of a run of a role, with the arguments of every module in it."""
    programs = Path(sys.executable).parent
    connection = {**site.arguments(username="administrator"), "password": PASSWORD}
    del connection["interval"]
    play = {
        "hosts": "manager",
        "gather_facts": False,
        "module_defaults": {"group/trusted.infrastructure.trusted": connection},
        "vars": {"ansible_python_interpreter": sys.executable, **variables},
        "roles": [f"trusted.infrastructure.{role}"],
    }
    (site.directory / "play.yml").write_text(json.dumps([play]))
    process = await asyncio.create_subprocess_exec(
        *(programs / "ansible-playbook", "-vvv", "--diff", "-i", "inventory/hosts", "play.yml"),
        cwd=site.directory,
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(site.directory),
            "LANG": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(site.directory / "collections"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _nothing = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("role", "variables", "reason"),
    [
        (
            "workload_key_providers",
            {"workload_key_providers_standard": [{**PROVIDER, "private_key": "a private key"}]},
            "trust/key_servers/archive.pem, the certificate for it, is not there",
        ),
        (
            "key_providers",
            {"key_providers_list": [{**PROVIDER, "primary_key_id": "1", "private_key": "a private key"}]},
            "trust/key_servers/archive.pem, the certificate for it, is not there",
        ),
        (
            "workload_key_providers",
            {
                "workload_key_providers_default": "archive",
                "trusted_cluster_key_providers": [{"name": "lab", "default": True}, {"name": "other"}],
            },
            "the inventory names lab and archive",
        ),
        (
            "workload_key_providers",
            {"trusted_cluster_key_providers": [{"name": name, "default": True} for name in ("lab", "other")]},
            "the inventory names lab and other",
        ),
    ],
    ids=["standard, no certificate", "trusted, no certificate", "two defaults", "two trusted defaults"],
)
def test_refused_before_the_manager_is_asked(
    role: str, variables: dict[str, Any], reason: str, site: Site
) -> None:
    code, output = asyncio.run(converged(site, role, **variables))
    assert code == 2 and reason in " ".join(output.split()), output
    assert "a private key" not in output


def test_providers_of_the_inventory(site: Site) -> None:
    """A key and certificate from elsewhere, policies for two clusters, a default that is said twice alike."""
    key, certificate = client_certificates.self_signed("archive", int(time.time()))
    (site.directory / "trust" / "key_servers" / "archive.pem").write_text(certificate)
    wanted: dict[str, Any] = {
        "workload_key_providers_standard": [{**PROVIDER, "private_key": key.decode()}],
        "workload_key_providers_native": [{"name": "branch"}],
        "workload_key_providers_clusters": CLUSTERS,
        "workload_key_providers_default": "archive",
        "trusted_cluster_key_providers": [{"name": "lab"}, {"name": "archive", "default": True}],
    }
    secret = key.decode().splitlines()[1]

    async def run() -> None:
        async with site.served() as manager:
            with manager.database.transaction() as connection:
                clusters = [inventory.create_cluster(connection, name) for name in CLUSTERS]
            code, output = await converged(site, **wanted)
            assert code == 0 and secret not in output, output
            with manager.database.transaction() as connection:
                made = standard_providers.find(connection, "archive")
                for cluster in clusters:
                    assert list(desired.contents(connection, cluster, "pcr_policy", PcrPolicy)) == ["2026.12"]
            assert made.client_certificate == certificate and made.csr is None
            code, output = await converged(site, **wanted)
            assert code == 0 and "changed=0 " in output, output

    asyncio.run(run())

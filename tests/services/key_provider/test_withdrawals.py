# SPDX-License-Identifier: GPL-3.0-or-later
"""How long an old token still opens keys after trust was withdrawn: real store, generation and rules.

The bound is the grace period, from the moment at which this host saw the withdrawal. What names the host, its
principal or its scope holds at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from services.key_provider.harness import (
    EK,
    NOW,
    URL,
    Authority,
    Host,
    cluster,
    principal,
    provider,
    scope,
    wrapped_key,
)

from trusted_infrastructure.config.documents import Document, Generation, content_of
from trusted_infrastructure.config.snapshot import Snapshot, snapshot_of
from trusted_infrastructure.config.store import ConfigStore
from trusted_infrastructure.key_provider.authorization import (
    KeyRequest,
    Knowledge,
    authenticate,
    authorize,
)
from trusted_infrastructure.key_provider.security_generations import SecurityGenerations
from trusted_infrastructure.refusal import Refusal

GRACE = 60
IMAGE: dict[str, Any] = {
    "image_version": "image-1",
    "display_name": "one",
    "bank": "sha256",
    "pcrs": {"0": {"value": "00" * 32}},
}
ENROLLED: dict[str, Any] = {"public_key": "PEM"}
VENDOR: dict[str, Any] = {"cert_chain": ["PEM root"]}
DOCUMENTS: dict[tuple[str, str], dict[str, Any]] = {
    ("trust_authority_cluster", "cluster"): content_of(cluster(grace_period=GRACE)),
    ("consumer_principal", "principal-1"): content_of(principal()),
    ("scope", "cluster-a"): content_of(scope()),
    ("key_provider", "finance"): content_of(provider()),
    ("base_image", "image-1"): IMAGE,
    ("endorsement_key", "host1"): ENROLLED,
    ("ca_certificate", "vendor"): VENDOR,
}


class KeyProviderHost:
    """A Trust Authority host with a real store, at a time that tests move."""

    def __init__(self, folder: Path) -> None:
        self.store = ConfigStore(folder / "config.db", "trust_authority")
        self.generations = SecurityGenerations(folder / "generations.json")
        self.authority = Authority()
        self.counter = 0
        self.now = NOW
        self.apply(DOCUMENTS)
        self.snapshot()

    def apply(self, contents: dict[tuple[str, str], Any], at_least: int = 0) -> None:
        """Documents as the manager sends them."""
        self.counter += 1
        batch = [
            Document(kind, identifier, Generation(1, self.counter), content)
            for (kind, identifier), content in contents.items()
        ]
        self.store.apply(batch, at_least)

    def snapshot(self) -> Snapshot:
        """What the service reads now."""
        generation = self.store.security_generation
        published = snapshot_of("ta1", "trust_authority", generation, self.store.documents())
        self.generations.observe(generation, self.now)
        return Snapshot(published)

    def token(self) -> tuple[Host, str]:
        """A host that is attested now."""
        self.authority.security_generation = self.store.security_generation
        host = Host(self.authority, now=self.now)
        return host, host.token()

    def answer(self, shown: tuple[Host, str]) -> str:
        """ "ok" or the reason code, for a token shown now."""
        host, token = shown
        host.now = self.now
        body = host.unwrap_body(wrapped_key())
        request = KeyRequest("finance", "POST", URL, body, token, host.proof(token, body), "unwrap")
        knowledge = Knowledge(
            self.snapshot(), self.authority.keys(), self.authority.issuers(), self.generations.superseded
        )
        try:
            authorize(request, authenticate(request, knowledge, self.now), knowledge, self.now)
        except Refusal as refusal:
            return refusal.code
        return "ok"


@pytest.fixture
def ta1(tmp_path: Path) -> KeyProviderHost:
    return KeyProviderHost(tmp_path)


WITHDRAWN: dict[str, tuple[dict[tuple[str, str], Any], str]] = {
    "endorsement key": ({("endorsement_key", "host1"): None}, "ok"),
    "endorsement key replaced": ({("endorsement_key", "host1"): {"public_key": "other"}}, "ok"),
    "vendor": ({("ca_certificate", "vendor"): None}, "ok"),
    "base image": ({("base_image", "image-1"): None}, "ok"),
    "base image retired": ({("base_image", "image-1"): {**IMAGE, "state": "RETIRED"}}, "ok"),
    "base images of the scope": (
        {("scope", "cluster-a"): content_of(scope(base_images=["image-2"]))},
        "ok",
    ),
    "shorter tokens": (
        {("trust_authority_cluster", "cluster"): content_of(cluster(token_lifetime=600))},
        "ok",
    ),
    "principal": ({("consumer_principal", "principal-1"): None}, "principal_unknown"),
    "scope": ({("scope", "cluster-a"): None}, "scope_unknown"),
    "provider of the scope": (
        {("scope", "cluster-a"): content_of(scope(providers=["sales"]))},
        "provider_denied",
    ),
    "host": ({("denied_host", "d"): {"host": "host1", "ek_digest": "00" * 32}}, "host_denied"),
    "its TPM": ({("denied_host", "d"): {"host": "another", "ek_digest": EK}}, "host_denied"),
}


@pytest.mark.parametrize("name", WITHDRAWN)
def test_an_old_token_dies_within_the_grace_period(ta1: KeyProviderHost, name: str) -> None:
    withdrawn, within = WITHDRAWN[name]
    old = ta1.token()
    assert ta1.answer(old) == "ok"
    ta1.apply(withdrawn)
    assert ta1.answer(old) == within, "at once"
    ta1.now += GRACE
    assert ta1.answer(old) == within, "at the end of the grace period"
    ta1.now += 1
    after = within if within != "ok" else "token_security_generation"
    assert ta1.answer(old) in {after, "token_security_generation"}
    new = ta1.token()
    assert ta1.answer(new) == within, "a token that was judged since counts as before"


def test_adding_trust_ends_no_token(ta1: KeyProviderHost) -> None:
    old = ta1.token()
    ta1.apply({("endorsement_key", "host2"): ENROLLED, ("base_image", "image-2"): IMAGE})
    ta1.apply({("base_image", "image-1"): {**IMAGE, "state": "STAGED"}})
    ta1.apply({("base_image", "image-1"): IMAGE})
    ta1.now += GRACE + 1
    assert ta1.answer(old) == "ok"


def test_a_second_withdrawal_does_not_prolong_the_grace_of_the_first(ta1: KeyProviderHost) -> None:
    old = ta1.token()
    for number in range(4):
        ta1.apply({("endorsement_key", "host1"): {"public_key": str(number)}})
        assert ta1.answer(old) == "ok"
        ta1.now += GRACE // 4
    ta1.now += 1
    assert ta1.answer(old) == "token_security_generation"


def test_without_a_grace_period_it_ends_in_the_next_second(ta1: KeyProviderHost) -> None:
    ta1.apply({("trust_authority_cluster", "cluster"): content_of(cluster(grace_period=0))})
    old = ta1.token()
    ta1.apply({("base_image", "image-1"): None})
    assert ta1.answer(old) == "ok"
    ta1.now += 1
    assert ta1.answer(old) == "token_security_generation"


def test_where_the_withdrawal_never_arrives_the_end_of_the_token_is_the_bound(ta1: KeyProviderHost) -> None:
    old = ta1.token()
    ta1.now += 3000
    assert ta1.answer(old) == "token_expired"


def test_a_restart_gives_no_new_grace(ta1: KeyProviderHost, tmp_path: Path) -> None:
    old = ta1.token()
    ta1.apply({("base_image", "image-1"): None})
    assert ta1.answer(old) == "ok"
    ta1.now += GRACE + 1
    ta1.generations = SecurityGenerations(tmp_path / "generations.json")
    assert ta1.answer(old) == "token_security_generation"


def test_a_withdrawal_counts_above_what_the_cluster_had_reached(ta1: KeyProviderHost) -> None:
    """A peer that had counted further, and is away now, judged tokens before this withdrawal."""
    ta1.authority.security_generation = 7
    host = Host(ta1.authority, now=ta1.now)
    judged_by_the_peer = host, host.token()
    # The manager counts the withdrawal itself, above all that the cluster has reached.
    ta1.apply({("base_image", "image-1"): None}, at_least=8)
    assert ta1.answer(judged_by_the_peer) == "ok"
    ta1.now += GRACE + 1
    assert ta1.answer(judged_by_the_peer) == "token_security_generation"

# SPDX-License-Identifier: GPL-3.0-or-later
"""Client certificates of key providers, trusted and standard: the same rules, and what is refused changes
nothing."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from services.manager.harness import Api, Clock
from services.manager.material import Issuer
from services.manager.test_key_providers import BASE, ONE, PROVIDERS, SPEC, KeyProviderHosts

from trusted_infrastructure.manager import standard_providers

STANDARD = "/trust/standard-key-providers"
CLOCK_START = datetime.datetime.fromtimestamp(Clock().now, datetime.UTC)
ROOT = Issuer("root of the clients")
ISSUING = Issuer("issues for clients", ROOT)
OTHER = Issuer("another client", ROOT, ca=False)
OF_CHAIN = Issuer("client of a chain", ISSUING, ca=False)
KEPT = ("client_certificate", "client_private_key", "csr", "csr_private_key")


class Trusted:
    """A trusted key provider on the Trust Authority side."""

    certificate, csr, method = f"{ONE}/client-certificate", f"{ONE}/client-certificate/csr", "PATCH"

    def __init__(self, api: Api) -> None:
        self.api = api
        api.ok("POST", "/trust/clusters", json={"name": "authority"})
        for name in ("ta1", "ta2"):
            api.done("POST", "/trust/clusters/authority/hosts", json={"name": name})
        api.done("PATCH", BASE, json={"state": "ENABLE"})
        api.done("POST", PROVIDERS, json=SPEC)
        self.hosts = KeyProviderHosts(api)
        self.call = api.done

    def kept(self) -> dict[str, Any]:
        stored = self.api.nodes.content("ta1", "key_provider", "finance")
        return {name: stored[name] for name in KEPT}

    def private_key(self) -> bytes:
        return self.hosts.opened("ta2", "client_private_key", "client_private_key")


class Standard:
    """A standard key provider on the workload side."""

    certificate, csr, method = f"{STANDARD}/finance/client-certificate", f"{STANDARD}/finance/csr", "PUT"

    def __init__(self, api: Api) -> None:
        self.api = api
        self.call = api.ok
        servers = [{"name": "kms1", "address": {"hostname": "kms1.example"}}]
        api.done("POST", STANDARD, json={"provider": "finance", "servers": servers})

    def stored(self) -> standard_providers.StandardProvider:
        with self.api.manager.database.transaction() as connection:
            return standard_providers.find(connection, "finance")

    def kept(self) -> dict[str, Any]:
        return {name: getattr(self.stored(), name) for name in KEPT}

    def private_key(self) -> bytes:
        purpose = standard_providers.purpose("finance", "client_private_key")
        return self.api.manager.secrets.decrypt(purpose, self.stored().client_private_key or "")


Provider = Trusted | Standard


@pytest.fixture(params=["trusted", "standard"])
def provider(request: pytest.FixtureRequest, make_api: Callable[..., Api]) -> Provider:
    return Trusted(make_api()) if request.param == "trusted" else Standard(make_api("workload"))


def make(provider: Provider) -> Any:
    """A self-signed certificate; its public key."""
    provider.call("POST", provider.certificate)
    pem = provider.call("GET", provider.certificate)["certificate"]
    return x509.load_pem_x509_certificate(pem.encode()).public_key()


def ask(provider: Provider) -> Any:
    """A certificate request; its public key."""
    pem = provider.call("POST", provider.csr)["csr"]
    return x509.load_pem_x509_csr(pem.encode()).public_key()


def install(provider: Provider, **body: str) -> None:
    provider.call(provider.method, provider.certificate, json=body)


def refused(provider: Provider, **body: str) -> tuple[str, str]:
    """The field that is wrong, and what is; nothing has changed."""
    before = provider.kept()
    path = provider.certificate + ("?vmw-task=true" if isinstance(provider, Trusted) else "")
    response = provider.api.request(provider.method, path, json=body)
    error = response.json()
    if response.status_code == 202:
        error = provider.api.ok("GET", f"/cis/tasks/{error}")["error"]
    else:
        assert response.status_code == 400, response.text
    assert error["error_type"] == "INVALID_ARGUMENT"
    assert "PRIVATE KEY" not in response.text
    assert provider.kept() == before
    (message,) = error["messages"]
    return message["args"][0], message["default_message"]


# ---- refusals ----------------------------------------------------------------------------------------------


def test_a_certificate_for_nothing_needs_its_key(provider: Provider) -> None:
    field, words = refused(provider, certificate=OTHER.pem)
    assert field == "spec.private_key" and "no outstanding certificate request" in words


def test_a_certificate_for_another_key_needs_it(provider: Provider) -> None:
    """Neither is it a renewed one, nor does it answer the request."""
    make(provider)
    assert refused(provider, certificate=OTHER.pem)[0] == "spec.private_key"
    ask(provider)
    field, words = refused(provider, certificate=OTHER.pem)
    assert field == "spec.certificate" and "outstanding certificate request" in words


def test_the_key_of_an_answered_request_answers_no_other(provider: Provider) -> None:
    install(provider, certificate=ROOT.certify(ask(provider)))
    assert refused(provider, certificate=OTHER.pem)[0] == "spec.private_key"


@pytest.mark.parametrize("seconds", [0, -86400])
@pytest.mark.parametrize("way", ["with its key", "renewed", "of the request", "of nothing"])
def test_a_certificate_that_has_ended_is_not_installed(provider: Provider, way: str, seconds: int) -> None:
    key, with_it = OTHER.key.public_key(), {}
    if way == "with its key":
        with_it = {"private_key": OTHER.key_pem}
    elif way != "of nothing":
        key = make(provider) if way == "renewed" else ask(provider)
    ended = ROOT.certify(key, CLOCK_START + datetime.timedelta(seconds=seconds))
    field, words = refused(provider, certificate=ended, **with_it)
    assert field == "spec.certificate" and "ended at 2027-01-1" in words
    if way != "of nothing":
        lasts = ROOT.certify(key, CLOCK_START + datetime.timedelta(seconds=1))
        install(provider, certificate=lasts, **with_it)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"certificate": OTHER.pem, "private_key": ROOT.key_pem}, "spec.private_key"),
        ({"certificate": OTHER.pem, "private_key": "no"}, "spec.private_key"),
        ({"certificate": "no"}, "spec.certificate"),
        ({"certificate": ISSUING.pem + OF_CHAIN.pem, "private_key": OF_CHAIN.key_pem}, "spec.certificate"),
        ({"certificate": OF_CHAIN.pem + ROOT.pem, "private_key": OF_CHAIN.key_pem}, "spec.certificate"),
        ({"certificate": OF_CHAIN.pem * 2, "private_key": OF_CHAIN.key_pem}, "spec.certificate"),
        (
            {"certificate": OF_CHAIN.pem + ISSUING.pem + OTHER.pem, "private_key": OF_CHAIN.key_pem},
            "spec.certificate",
        ),
        (
            {
                "certificate": OF_CHAIN.pem
                + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "private_key": OF_CHAIN.key_pem,
            },
            "spec.certificate[1]",
        ),
    ],
)
def test_what_does_not_fit_together(provider: Provider, body: dict[str, str], field: str) -> None:
    assert refused(provider, **body)[0] == field


# ---- the ways to a certificate -----------------------------------------------------------------------------


def test_a_renewed_certificate_keeps_the_key(provider: Provider) -> None:
    key = make(provider)
    ask(provider)
    before, renewed = provider.kept(), ROOT.certify(key)
    install(provider, certificate=renewed)
    # It answers no request, so that one stays.
    assert provider.kept() == {**before, "client_certificate": renewed}


def test_a_certificate_answers_the_request(provider: Provider) -> None:
    make(provider)
    key = ask(provider)
    before, signed = provider.kept(), ROOT.certify(key)
    install(provider, certificate=signed)
    assert provider.kept() == {
        "client_certificate": signed,
        "client_private_key": before["csr_private_key"],
        "csr": None,
        "csr_private_key": None,
    }
    assert load_pem_private_key(provider.private_key(), None).public_key() == key


def test_a_certificate_comes_with_its_key(provider: Provider, tmp_path: Path) -> None:
    ask(provider)
    before = provider.kept()
    install(provider, certificate=OTHER.pem, private_key=OTHER.key_pem)
    assert provider.private_key() == OTHER.key_pem.encode()
    after = provider.kept()
    assert (after["client_certificate"], after["csr"]) == (OTHER.pem, before["csr"])
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert OTHER.key_pem.splitlines()[1].encode() not in content, file
        assert base64.b64encode(OTHER.key_pem.encode()) not in content, file


def test_a_certificate_with_its_intermediates(provider: Provider) -> None:
    """A key server that knows the root alone can follow them. What stands between is not stored."""
    chain = OF_CHAIN.pem + ISSUING.pem
    bundle = OF_CHAIN.key_pem + OF_CHAIN.pem + OF_CHAIN.key_pem + ISSUING.pem
    for given in (chain, bundle):
        install(provider, certificate=given, private_key=OF_CHAIN.key_pem)
        assert provider.call("GET", provider.certificate)["certificate"] == chain
        assert provider.kept()["client_certificate"] == chain
    # The certificate itself, not its issuer's, says which key it is for.
    renewed = ISSUING.certify(OF_CHAIN.key.public_key()) + ISSUING.pem
    install(provider, certificate=renewed)
    assert provider.kept()["client_certificate"] == renewed

# SPDX-License-Identifier: GPL-3.0-or-later
"""Client keys, certificates and requests for key servers, and their sealing to hosts."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from services.key_provider.harness import CLIENT, provider, seal_to

from trusted_infrastructure.config import provider_password
from trusted_infrastructure.config.documents import KmipServer, NetworkAddress
from trusted_infrastructure.key_provider import client_credentials
from trusted_infrastructure.key_provider.client_credentials import (
    SealTo,
    client_name,
    open_for,
    password_purpose,
    private_key_purpose,
    reseal,
    seal_for,
)
from trusted_infrastructure.key_provider.key_servers import WithheldServer, open_pools
from trusted_infrastructure.key_provider.provider_documents import configuration, configurations, key_servers
from trusted_infrastructure.kmip.client_certificates import certificate_request, self_signed
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealingKey

NOW = 1_800_000_000
TA1, TA2 = SealingKey.generate(), SealingKey.generate()


def to(key: SealingKey) -> SealTo:
    return SealTo(key.suite, key.public_bytes())


def test_self_signed_certificate() -> None:
    key, certificate = self_signed(client_name("finance"), NOW)
    found = x509.load_pem_x509_certificate(certificate.encode())
    assert load_pem_private_key(key, None).public_key() == found.public_key()
    assert found.subject == found.issuer
    assert (
        found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "trusted-key-provider.finance"
    )
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert found.not_valid_before_utc.timestamp() < NOW
    assert found.not_valid_after_utc - found.not_valid_before_utc == datetime.timedelta(days=1825)
    found.verify_directly_issued_by(found)


def test_certificate_request() -> None:
    key, csr = certificate_request(client_name("finance"))
    found = x509.load_pem_x509_csr(csr.encode())
    assert found.is_signature_valid
    assert load_pem_private_key(key, None).public_key() == found.public_key()


def test_a_long_name_still_makes_a_certificate() -> None:
    _key, certificate = self_signed(client_name("x" * 255), NOW)
    assert x509.load_pem_x509_certificate(certificate.encode())


def test_two_are_never_the_same() -> None:
    assert self_signed(client_name("finance"), NOW)[0] != self_signed(client_name("finance"), NOW)[0]


def test_sealed_for_each_host_and_for_one_use() -> None:
    purpose = private_key_purpose("finance")
    sealed = seal_for(b"secret", {"ta1": to(TA1), "ta2": to(TA2)}, purpose)
    assert open_for(sealed, "ta1", TA1, purpose) == b"secret"
    assert open_for(sealed, "ta2", TA2, purpose) == b"secret"
    for host, key, what in [
        ("ta1", TA2, purpose),
        ("ta2", TA1, purpose),
        ("ta3", TA1, purpose),
        ("ta1", TA1, private_key_purpose("hr")),
        ("ta1", TA1, password_purpose("finance")),
    ]:
        with pytest.raises(Refusal) as refused:
            open_for(sealed, host, key, what)
        assert refused.value.code == "sealed_value_invalid"


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ({"ta1": to(TA1), "ta2": to(SealingKey.generate("X25519"))}, "different suites"),
        ({"ta1": SealTo("MLKEM768_X25519", b"short")}, "hosts.ta1.public_key"),
        ({"ta1": SealTo("ROT13", b"")}, "ROT13"),
    ],
)
def test_keys_that_cannot_be_sealed_to(hosts: dict[str, SealTo], words: str) -> None:
    with pytest.raises(Refusal) as refused:
        seal_for(b"secret", hosts, "x")
    assert (refused.value.status, words in refused.value.message) == (400, True)


def document_with_secrets(password: str = "pässword", **set_for: Any) -> client_credentials.KeyProvider:
    """set_for: what the provider had when its password was set, where that was something else than now."""
    now = provider(
        client_certificate=CLIENT.certificate,
        client_private_key=seal_to("ta1", TA1, CLIENT.private_key, private_key_purpose("finance")),
        username="admin",
        trusted_certificates=[CLIENT.certificate],
    )
    binding = provider_password.binding_of(msgspec.structs.replace(now, **set_for))
    secret = provider_password.sealable(password, binding)
    sealed = seal_to("ta1", TA1, secret, password_purpose("finance"))
    return msgspec.structs.replace(now, password=sealed, password_binding=binding)


def test_resealed_for_a_host_that_is_added() -> None:
    document = document_with_secrets()
    answer = reseal("finance", document, "ta1", TA1, {"ta2": to(TA2)})
    assert answer["csr_private_key"] is None
    key, password = answer["client_private_key"], answer["password"]
    assert key is not None and password is not None
    assert open_for(key, "ta2", TA2, private_key_purpose("finance")) == CLIENT.private_key
    found = provider_password.opened(open_for(password, "ta2", TA2, password_purpose("finance")))
    assert found.password == "pässword"
    assert found.binding == document.password_binding
    assert document.client_private_key is not None
    assert key.digest == document.client_private_key.digest
    assert list(key.sealed) == ["ta2"]


def test_a_host_that_cannot_open_cannot_reseal() -> None:
    with pytest.raises(Refusal) as refused:
        reseal("finance", document_with_secrets(), "ta2", TA2, {"ta3": to(TA2)})
    assert refused.value.code == "sealed_value_invalid"


def test_resealing_keeps_the_suite() -> None:
    with pytest.raises(Refusal) as refused:
        reseal("finance", document_with_secrets(), "ta1", TA1, {"ta2": to(SealingKey.generate("P256"))})
    assert "MLKEM768_X25519" in refused.value.message


def test_configuration_of_a_document() -> None:
    found = configuration("finance", document_with_secrets(), "ta1", TA1)
    assert found.problem is None
    assert found.credentials is not None
    assert found.credentials.private_key == CLIENT.private_key
    assert (found.credentials.username, found.credentials.password) == ("admin", "pässword")
    assert [server.name for server in found.servers] == ["kms1", "kms2"]
    shown = repr(found)
    assert "pässword" not in shown
    assert "PRIVATE KEY" not in shown


def test_a_document_whose_secrets_are_for_others_has_a_problem() -> None:
    found = configurations({"finance": document_with_secrets(), "hr": provider()}, "ta2", TA2)
    assert found["finance"].problem is not None
    assert found["finance"].problem.code == "sealed_value_invalid"
    assert found["hr"].problem is None
    assert found["hr"].credentials is None


@pytest.mark.parametrize("plain", [b"pw", b"\xff\xfe", b"{}", b'{"version":2,"password":"pw","binding":{}}'])
def test_a_password_that_says_not_what_it_is_for_is_not_used(plain: bytes) -> None:
    document = msgspec.structs.replace(
        document_with_secrets(), password=seal_to("ta1", TA1, plain, password_purpose("finance"))
    )
    found = configuration("finance", document, "ta1", TA1)
    assert found.problem is not None
    assert (found.problem.code, found.credentials) == ("sealed_value_invalid", None)
    assert "pw" not in str(found.problem)


KMS1, KMS2 = (server.address for server in provider().servers)
OTHER = self_signed(client_name("other"), NOW)[1]


def servers(*addresses: NetworkAddress) -> list[KmipServer]:
    return [KmipServer(f"kms{number}", address) for number, address in enumerate(addresses, start=1)]


@pytest.mark.parametrize(
    ("set_for", "withheld"),
    [
        ({}, ()),
        ({"servers": servers(KMS1)}, ("kms2",)),
        ({"servers": servers(KMS2, KMS1)}, ()),
        ({"servers": servers(NetworkAddress(KMS1.hostname, 1), KMS2)}, ("kms1",)),
        ({"proxy_server": NetworkAddress("proxy.test", 3128)}, ("kms1", "kms2")),
        ({"trusted_certificates": []}, ()),
        ({"trusted_certificates": [CLIENT.certificate, OTHER]}, ()),
    ],
)
def test_a_key_server_that_the_password_was_not_set_for_is_not_asked(
    set_for: dict[str, Any], withheld: tuple[str, ...]
) -> None:
    found = configuration("finance", document_with_secrets(**set_for), "ta1", TA1)
    assert found.problem is None
    assert found.withheld == withheld
    sources = open_pools(found)
    refused = []
    for source in sources:
        if isinstance(source, WithheldServer):
            with pytest.raises(Refusal) as refusal:
                source.primary_key("key-1")
            assert refusal.value.code == "key_server_unreachable"
            assert "set the provider's password again" in refusal.value.remedy
            refused.append(source.server.name)
        source.close()
    assert tuple(refused) == withheld


def test_a_certificate_that_was_trusted_later_vouches_for_nobody_who_gets_the_password() -> None:
    alone = configuration("finance", document_with_secrets(trusted_certificates=[OTHER]), "ta1", TA1)
    assert alone.problem is not None
    assert alone.problem.code == "credential_not_bound"
    document = msgspec.structs.replace(
        document_with_secrets(), trusted_certificates=[OTHER, CLIENT.certificate]
    )
    beside = configuration("finance", document, "ta1", TA1)
    assert (beside.problem, beside.trusted_certificates) == (None, (CLIENT.certificate,))


def test_what_is_said_in_the_clear_changes_nothing() -> None:
    document = document_with_secrets(servers=servers(KMS1))
    lie = msgspec.structs.replace(document, password_binding=provider_password.binding_of(document))
    assert configuration("finance", lie, "ta1", TA1).withheld == ("kms2",)


def test_servers_have_timeout_and_proxy() -> None:
    document = provider(connection_timeout=3, proxy_server=NetworkAddress("proxy.test", 3128))
    assert {(server.timeout, server.proxy) for server in key_servers(document)} == {(3, ("proxy.test", 3128))}

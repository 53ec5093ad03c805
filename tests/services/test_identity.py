# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates: which are refused, and that what we sign is accepted, by us and by others."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from services.side_authority import NOW, SideAuthority

from trusted_infrastructure.identity import (
    ROLES,
    LeafVerifier,
    create_authority,
    create_request,
    generate_key,
    leaf_identity,
    leaf_names,
    load_certificate,
    load_certificates,
    load_key,
    parse_role_uri,
    renewal_due,
    role_uri,
    sign_request,
    verify_leaf,
)
from trusted_infrastructure.identity.names import ROLE_USAGES
from trusted_infrastructure.refusal import Refusal

DAY = 86400
URI = "urn:trusted-infrastructure:trust_authority:manager:ta-manager"


@pytest.fixture(scope="module")
def authority() -> SideAuthority:
    return SideAuthority()


# ---- names ----


@pytest.mark.parametrize("role", ROLES)
def test_a_role_uri_is_read_back(role: str) -> None:
    uri = role_uri("workload", role, "host1.example.org")
    identity = parse_role_uri(uri)
    assert (identity.side, identity.role, identity.host) == ("workload", role, "host1.example.org")


@pytest.mark.parametrize(
    ("side", "role", "host"),
    [
        ("other", "manager", "h"),
        ("workload", "root", "h"),
        ("workload", "manager", ""),
        ("workload", "manager", "a:b"),
        ("workload", "manager", "a b"),
        ("workload", "manager", "a/b"),
        ("workload", "manager", "-a"),
        ("workload", "manager", "a\n"),
    ],
)
def test_bad_parts_of_a_role_are_named(side: str, role: str, host: str) -> None:
    with pytest.raises(Refusal) as refused:
        role_uri(side, role, host)
    assert (refused.value.code, refused.value.status) == ("malformed_request", 400)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://example.org",
        "urn:trusted-infrastructure:workload:manager",
        "urn:trusted-infrastructure:workload:manager:",
        "urn:trusted-infrastructure:workload:manager:a:b",
        "urn:trusted-infrastructure::manager:a",
        "URN:trusted-infrastructure:workload:manager:a",
        "urn:trusted-infrastructure:workload:manager:a\n",
    ],
)
def test_other_uris_are_no_roles(uri: str) -> None:
    with pytest.raises(Refusal, match="certificate_invalid"):
        parse_role_uri(uri)


# ---- judging leaves ----


def _handmade(authority: SideAuthority, names: list[x509.GeneralName], **changes: Any) -> str:
    """A leaf as somebody else's tool would make it, signed by the CA."""
    ca, ca_key = load_certificate(authority.certificate), load_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime.fromtimestamp(NOW - DAY, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "handmade")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=90))
    )
    extensions: dict[str, tuple[x509.ExtensionType, bool] | None] = {
        "constraints": (x509.BasicConstraints(False, None), True),
        "usage": (_usage(digital_signature=True), True),
        "extended": (x509.ExtendedKeyUsage(ROLE_USAGES["manager"]), False),
        "names": (x509.SubjectAlternativeName(names), False) if names else None,
        **changes,
    }
    for extension in extensions.values():
        if extension is not None:
            builder = builder.add_extension(*extension)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _usage(**wanted: bool) -> x509.KeyUsage:
    usages = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{usage: wanted.get(usage, False) for usage in usages})


MANAGER = x509.UniformResourceIdentifier(URI)
SERVER_USAGE = (x509.ExtendedKeyUsage(ROLE_USAGES["server"]), False)
HANDMADE: dict[str, tuple[list[x509.GeneralName], dict[str, Any], str]] = {
    "no names": ([], {}, "no subject alternative name"),
    "no URI": ([x509.DNSName("ta-manager")], {}, "0 URIs"),
    "two URIs": ([MANAGER, x509.UniformResourceIdentifier(URI + "2")], {}, "2 URIs"),
    "other URI": ([x509.UniformResourceIdentifier("https://x")], {}, "does not name a role"),
    "other kind of name": ([MANAGER, x509.RFC822Name("a@b")], {}, "other kinds of names"),
    "a CA": ([MANAGER], {"constraints": (x509.BasicConstraints(True, None), True)}, "certificate"),
    "no constraints": ([MANAGER], {"constraints": None}, "lacks an extension"),
    "no usage": ([MANAGER], {"usage": None}, "lacks an extension"),
    "not for signatures": (
        [MANAGER],
        {"usage": (_usage(key_agreement=True), True)},
        "not for digital signatures",
    ),
    "no extended usage": ([MANAGER], {"extended": None}, "lacks an extension"),
    "a server's usage": ([MANAGER], {"extended": SERVER_USAGE}, "lacks the extended key usage"),
}


def test_the_handmade_leaf_is_good_before_it_is_spoiled(authority: SideAuthority) -> None:
    leaf = _handmade(authority, [MANAGER])
    assert verify_leaf(leaf, authority.certificate, "trust_authority", "manager", NOW) == "ta-manager"


@pytest.mark.parametrize(("names", "changes", "message"), HANDMADE.values(), ids=HANDMADE.keys())
def test_leaves_that_are_not_as_ours_are_refused(
    authority: SideAuthority, names: list[x509.GeneralName], changes: dict[str, Any], message: str
) -> None:
    leaf = _handmade(authority, names, **changes)
    with pytest.raises(Refusal, match=message) as refused:
        verify_leaf(leaf, authority.certificate, "trust_authority", "manager", NOW)
    assert refused.value.code == "certificate_invalid"


def test_times_are_judged_to_the_second(authority: SideAuthority) -> None:
    leaf = authority.leaf(days=1)[1]
    for now, code in (
        (NOW - 300, None),
        (NOW - 301, "certificate_invalid"),
        (NOW + DAY, None),
        (NOW + DAY + 1, "certificate_expired"),
    ):
        if code is None:
            verify_leaf(leaf, authority.certificate, "trust_authority", "manager", now)
            continue
        with pytest.raises(Refusal) as refused:
            verify_leaf(leaf, authority.certificate, "trust_authority", "manager", now)
        assert refused.value.code == code


def test_an_expired_ca_is_named(authority: SideAuthority) -> None:
    old = SideAuthority(days=40)
    leaf = old.leaf(days=90)[1]
    assert load_certificate(leaf).not_valid_after_utc == load_certificate(old.certificate).not_valid_after_utc
    with pytest.raises(Refusal, match="certificate_expired"):
        verify_leaf(leaf, old.certificate, "trust_authority", "manager", NOW + 11 * DAY)
    with pytest.raises(Refusal, match="CN=CA,OU=trust_authority.* expired"):
        key = generate_key()
        request = create_request(key, URI, [], [])
        sign_request(request, old.key, old.certificate, URI, [], [], now=NOW + 11 * DAY)


def test_chains_through_intermediates_that_are_given(authority: SideAuthority) -> None:
    root_key, intermediate_key = (ec.generate_private_key(ec.SECP384R1()) for _index in range(2))
    root, intermediate = _brought_authority(root_key, intermediate_key)
    key = generate_key()
    leaf = sign_request(
        create_request(key, URI, [], []), _pem(intermediate_key), intermediate, URI, [], [], now=NOW
    )
    chain = load_certificates(intermediate)
    assert verify_leaf(leaf, root, "trust_authority", "manager", NOW, chain) == "ta-manager"
    assert verify_leaf(leaf, root + intermediate, "trust_authority", "manager", NOW) == "ta-manager"
    with pytest.raises(Refusal, match="does not chain"):
        verify_leaf(leaf, root, "trust_authority", "manager", NOW)
    with pytest.raises(Refusal, match="does not chain"):
        verify_leaf(leaf, authority.certificate, "trust_authority", "manager", NOW, chain)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _brought_authority(
    root_key: ec.EllipticCurvePrivateKey, intermediate_key: ec.EllipticCurvePrivateKey
) -> tuple[str, str]:
    """An operator's root and intermediate CA, PEM."""
    start = datetime.datetime.fromtimestamp(NOW - DAY, datetime.UTC)

    def authority(name: str, key: ec.EllipticCurvePrivateKey) -> str:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=900))
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
        )
        return builder.sign(root_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM).decode()

    return authority("root", root_key), authority("intermediate", intermediate_key)


def test_one_of_several_roles_will_do(authority: SideAuthority) -> None:
    leaf = authority.leaf("agent", "ta1")[1]
    assert verify_leaf(leaf, authority.certificate, "trust_authority", {"manager", "agent"}, NOW) == "ta1"
    with pytest.raises(Refusal, match="has role agent; expected manager or server"):
        verify_leaf(leaf, authority.certificate, "trust_authority", {"manager", "server"}, NOW)
    with pytest.raises(Refusal, match="has role agent"):
        verify_leaf(leaf, authority.certificate, "trust_authority", frozenset(), NOW)


def test_a_verifier_needs_its_ca_file(tmp_path: Path, authority: SideAuthority) -> None:
    path = tmp_path / "ca.pem"
    verifier = LeafVerifier(path, "trust_authority", {"manager"}, lambda: NOW + 0.5)
    leaf = authority.leaf()[1].encode()
    with pytest.raises(Refusal) as refused:
        verifier(leaf)
    assert (refused.value.code, refused.value.status) == ("configuration_unavailable", 503)
    path.write_text("")
    with pytest.raises(Refusal, match="certificate_invalid"):
        verifier(leaf)
    path.write_text(authority.certificate)
    assert verifier(leaf).host == "ta-manager"


# ---- requests and signing ----


def _request(key: Any, names: x509.SubjectAlternativeName | None) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names is not None:
        builder = builder.add_extension(names, False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _other_requests() -> dict[str, tuple[str, str]]:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([MANAGER])
    good = create_request(_pem(key), URI, [], [])
    agent = URI.replace("manager:", "agent:")
    return {
        "other host": (create_request(_pem(key), URI + "2", [], []), "URI in the request"),
        "other role": (create_request(_pem(key), agent, [], []), "URI in the request"),
        "more DNS names": (
            create_request(_pem(key), URI, ["ta1"], []),
            "DNS names in the request: ta1; expected none",
        ),
        "more addresses": (
            create_request(_pem(key), URI, [], ["10.0.0.1"]),
            "IP addresses in the request: 10.0.0.1",
        ),
        "no names": (_request(key, None), "no subject alternative name"),
        "RSA key": (_request(rsa.generate_private_key(65537, 2048), names), "not EC P-256"),
        "other curve": (_request(ec.generate_private_key(ec.SECP384R1()), names), "not EC P-256"),
        "no request": ("hello", "not PKCS#10"),
        "broken signature": (_with_broken_signature(good), "signature is wrong"),
    }


def _with_broken_signature(request: str) -> str:
    import base64

    lines = request.strip().splitlines()
    der = bytearray(base64.b64decode("".join(lines[1:-1])))
    der[-1] ^= 1
    return "\n".join([lines[0], base64.b64encode(der).decode(), lines[-1], ""])


def test_requests_that_ask_for_anything_else_are_refused(authority: SideAuthority) -> None:
    for name, (request, message) in _other_requests().items():
        with pytest.raises(Refusal) as refused:
            sign_request(request, authority.key, authority.certificate, URI, [], [], now=NOW)
        assert message in refused.value.message, name
        assert refused.value.code in ("request_invalid", "certificate_invalid"), name


def test_fewer_names_than_expected_are_refused(authority: SideAuthority) -> None:
    request = create_request(generate_key(), URI, ["ta1"], [])
    with pytest.raises(Refusal, match="expected ta1, ta2"):
        sign_request(request, authority.key, authority.certificate, URI, ["ta1", "ta2"], [], now=NOW)


def test_addresses_are_compared_as_addresses(authority: SideAuthority) -> None:
    request = create_request(generate_key(), URI, [], ["2001:DB8::0:1", "10.0.0.1"])
    leaf = sign_request(
        request, authority.key, authority.certificate, URI, [], ["10.0.0.1", "2001:db8::1"], now=NOW
    )
    assert set(leaf_names(load_certificate(leaf)).ips) == {"10.0.0.1", "2001:db8::1"}


@pytest.mark.parametrize(
    "name", ["", "a b", "a..b", "-a", "ä", "a/b", "a" * 300, "*.example.org", "a.", "a\n", "a" * 64]
)
def test_bad_dns_names_are_named(name: str) -> None:
    with pytest.raises(Refusal, match="dns"):
        create_request(generate_key(), URI, [name], [])


@pytest.mark.parametrize("ip", ["", "10.0.0", "10.0.0.0/8", "ta1"])
def test_bad_addresses_are_named(ip: str) -> None:
    with pytest.raises(Refusal, match="ips"):
        create_request(generate_key(), URI, [], [ip])


def test_a_ca_pair_that_does_not_belong_together_is_refused(authority: SideAuthority) -> None:
    request = create_request(generate_key(), URI, [], [])
    with pytest.raises(Refusal, match="does not belong"):
        sign_request(request, SideAuthority().key, authority.certificate, URI, [], [], now=NOW)


@pytest.mark.parametrize("role", ROLES)
def test_what_we_sign_we_accept(authority: SideAuthority, role: str) -> None:
    leaf = authority.leaf(role, "ta1", dns=("ta1", "config.ta1"), ips=("10.0.0.1",))[1]
    assert verify_leaf(leaf, authority.certificate, "trust_authority", role, NOW) == "ta1"
    assert leaf_identity(load_certificate(leaf)).role == role
    for other in set(ROLES) - {role}:
        with pytest.raises(Refusal, match="has role"):
            verify_leaf(leaf, authority.certificate, "trust_authority", other, NOW)


def test_openssl_accepts_it_too(tmp_path: Path, authority: SideAuthority) -> None:
    (tmp_path / "ca.pem").write_text(authority.certificate)
    for role, purpose in (
        ("manager", "sslclient"),
        ("server", "sslserver"),
        ("configuration-service", "sslserver"),
    ):
        (tmp_path / "leaf.pem").write_text(authority.leaf(role, "ta1", dns=("ta1",))[1])
        command = ["openssl", "verify", "-x509_strict", "-attime", str(NOW), "-purpose", purpose]
        command += ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "leaf.pem")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_renewal_is_due_after_two_thirds(authority: SideAuthority) -> None:
    leaf = load_certificate(authority.leaf(days=90)[1])
    assert not renewal_due(leaf, NOW + 59 * DAY)
    assert renewal_due(leaf, NOW + 60 * DAY)


def test_serial_numbers_and_keys_are_new_each_time(authority: SideAuthority) -> None:
    leaves = [load_certificate(authority.leaf()[1]) for _index in range(5)]
    assert len({leaf.serial_number for leaf in leaves}) == 5
    assert create_authority("a", "workload")[0] != create_authority("a", "workload")[0]


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        load_key(text)
    assert refused.value.code == "certificate_invalid"
    assert "AAAA" not in refused.value.message


def test_other_keys_are_refused() -> None:
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )
    rsa_key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for pem in (encrypted, rsa_key):
        with pytest.raises(Refusal, match="certificate_invalid"):
            load_key(pem)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that are not quite DER: which are read all the same, and which never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from services.tpm import corpus
from services.tpm.odd_certificates import (
    ALGORITHM,
    ECDSA_SHA256,
    ISSUER,
    KEY,
    SERIAL,
    SUBJECT,
    VALIDITY,
    Fields,
    attribute,
    field,
    name,
    resigned,
    twice,
    with_extension,
)
from services.tpm.software_keys import endorsement_key, private_key
from services.tpm.vendor import CA_USAGE, EK_KEY_USAGE, EK_USAGE, NEVER, NOW, PAST, Authority, root

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import certificates, der
from trusted_infrastructure.tpm.certificates import Certificate, parse_certificate, parse_pem_certificate
from trusted_infrastructure.tpm.endorsement import (
    CertificateAuthority,
    load_certificate_authority,
    verify_endorsement,
)
from trusted_infrastructure.tpm.x509_names import read_name, tpm_names

EK = endorsement_key("rsa2048")
ROOT = root("Vendor root", "p256:odd root")
LEAF = ROOT.issue(
    "", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE], tpm_names=True
)
AUTHORITIES = [load_certificate_authority("vendor", [ROOT.pem])]
TRUE, FALSE, LOOSE_TRUE = b"\x01\x01\xff", b"\x01\x01\x00", b"\x01\x01\x01"

MANUFACTURER, MODEL, VERSION = "67810502" + "01", "67810502" + "02", "67810502" + "03"
COUNTRY, ORGANIZATION, COMMON_NAME = "550406", "55040a", "550403"
# As Nuvoton writes them: one relative name, its attributes in the order of people, not of a DER set.
UNSORTED = attribute(COMMON_NAME, "TPM root") + attribute(ORGANIZATION, "V") + attribute(COUNTRY, "TW")
TPM = attribute(VERSION, "id:1") + attribute(MODEL, "M1") + attribute(MANUFACTURER, "id:12345678")
BIT_STRING_KEY = der.inside(
    der.elements(der.inside(LEAF.der, 0x30, "")[0].content)[KEY].raw, der.SEQUENCE, ""
)[1].raw
RSAES_OAEP = bytes.fromhex("300d06092a864886f70d0101070500")
RSASSA = bytes.fromhex("300d06092a864886f70d01010b0500")


def null_parameters(fields: Fields) -> None:
    fields[ALGORITHM] = der.encode(der.SEQUENCE, ECDSA_SHA256 + b"\x05\x00")


TOLERATED: dict[str, Callable[[Fields], None]] = {
    "NULL in the ECDSA algorithm": null_parameters,
    "subject not sorted": field(SUBJECT, name(UNSORTED)),
    "name of the TPM not sorted": with_extension(
        "alternativeNames", der.encode(0x30, der.encode(0xA4, name(TPM))), TRUE
    ),
    "cA FALSE written out": with_extension("basicConstraints", bytes.fromhex("3003010100"), TRUE),
    "critical FALSE written out": with_extension(
        "extendedKeyUsage", bytes.fromhex("30070605678105 0801".replace(" ", "")), FALSE
    ),
    "TRUE that is not 0xff": with_extension("keyUsage", bytes.fromhex("03020520"), LOOSE_TRUE),
    "key identifier with an issuer and no serial": with_extension(
        "authorityKeyIdentifier", bytes.fromhex("3003810101")
    ),
    "distribution points that are none": with_extension("crlDistributionPoints", b"junk"),
    "serial number with zeros in front": field(SERIAL, der.encode(der.INTEGER, b"\0\0\x01")),
    "key for RSAES-OAEP": field(KEY, der.encode(der.SEQUENCE, RSAES_OAEP + BIT_STRING_KEY)),
}
# What the strict parser takes already.
HARMLESS: dict[str, Callable[[Fields], None]] = {
    "nothing": lambda _fields: None,
    "negative serial number": field(SERIAL, der.encode(der.INTEGER, b"\x80\x01")),
    "serial number zero": field(SERIAL, der.encode(der.INTEGER, b"\0")),
    "serial number of 40 octets": field(SERIAL, der.encode(der.INTEGER, b"\x11" * 40)),
    "GeneralizedTime before 2050": field(
        VALIDITY,
        der.encode(0x30, der.encode(0x18, b"20200101000000Z") + der.encode(0x18, b"20400101000000Z")),
    ),
    "key identifier of another CA": with_extension("authorityKeyIdentifier", bytes.fromhex("3003800101")),
}


def endorsed(certificate: bytes, authorities: list[CertificateAuthority] | None = None) -> Certificate:
    return verify_endorsement(EK, [certificate], authorities or AUTHORITIES, NOW).leaf


@pytest.mark.parametrize("oddity", [*TOLERATED, *HARMLESS])
@pytest.mark.parametrize("filling", [b"", bytes(64), b"\xff" * 64])
def test_odd_but_clear(oddity: str, filling: bytes) -> None:
    odd = resigned(LEAF.der, ROOT, (TOLERATED | HARMLESS)[oddity])
    found = endorsed(odd + filling)
    assert (found.strict, found.der) == (oddity in HARMLESS, odd)
    assert (found.is_ca, found.path_length) == (False, None)
    assert (found.key_usage, found.extended_key_usage) == ({"keyEncipherment"}, {"2.23.133.8.1"})
    assert found.tpm is not None and found.tpm["manufacturer"] == "id:12345678"
    assert parse_pem_certificate(found.pem()) == found


@pytest.mark.parametrize("oddity", TOLERATED)
def test_what_is_odd_is_signed_all_the_same(oddity: str) -> None:
    """Tolerance is for the form. The signature is over the bytes as they came, so each of them counts."""
    odd = resigned(LEAF.der, ROOT, TOLERATED[oddity])
    for offset in range(0, len(odd), 2):
        changed = bytearray(odd)
        changed[offset] ^= 0x01
        with pytest.raises(Refusal):
            endorsed(bytes(changed))
    # As it would be if it were put right, it was never signed.
    parts = certificates.take_apart(odd)
    with pytest.raises(Refusal):
        endorsed(parts.normal())


# Odd, and with something that would have been refused anyway: tolerance hides none of it.
def odd_and(*further: Callable[[Fields], None]) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        for each in (null_parameters, *further):
            each(fields)

    return change


REFUSED: dict[str, tuple[Callable[[Fields], None], str]] = {
    "a CA": (odd_and(with_extension("basicConstraints", bytes.fromhex("30030101ff"), TRUE)), "is a CA"),
    "a CA, loosely": (
        odd_and(with_extension("basicConstraints", bytes.fromhex("3003010101"), TRUE)),
        "is a CA",
    ),
    "basic constraints malformed": (
        with_extension("basicConstraints", bytes.fromhex("30040102ffff"), TRUE),
        "malformed certificate",
    ),
    "negative path length": (
        with_extension("basicConstraints", bytes.fromhex("30060101ff020180"), TRUE),
        "malformed certificate",
    ),
    "key usage for signing": (
        odd_and(with_extension("keyUsage", bytes.fromhex("03020780"), TRUE)),
        "found digitalSignature",
    ),
    "key usage empty": (with_extension("keyUsage", b"\x03\x01\x00", TRUE), "found none"),
    "key usage malformed": (
        odd_and(with_extension("keyUsage", b"\x03\x04\x00\x20\x00\x00", TRUE)),
        "malformed certificate",
    ),
    "key usage without bits": (
        with_extension("keyUsage", b"\x03\x02\x09\x20", TRUE),
        "malformed certificate",
    ),
    "extended key usage for TLS": (
        odd_and(with_extension("extendedKeyUsage", bytes.fromhex("300a06082b06010505070301"))),
        "found 1.3.6.1.5.5.7.3.1",
    ),
    "extended key usage empty": (
        odd_and(with_extension("extendedKeyUsage", b"\x30\x00")),
        "malformed certificate",
    ),
    "extended key usage malformed": (
        with_extension("extendedKeyUsage", b"\x30\x01"),
        "malformed certificate",
    ),
    "an extension twice": (odd_and(twice), "malformed certificate"),
    "an extension twice, otherwise strict": (twice, "malformed certificate: Duplicate"),
    "critical distribution points": (
        odd_and(with_extension("crlDistributionPoints", b"\x30\x00", TRUE)),
        "not handled: 2.5.29.31",
    ),
    "critical name that is none": (
        odd_and(with_extension("alternativeNames", b"\x30\x00", TRUE)),
        "alternative name is not that of a TPM",
    ),
    "expired": (
        odd_and(
            field(
                VALIDITY,
                der.encode(0x30, der.encode(0x17, b"200101000000Z") + der.encode(0x17, b"260531000000Z")),
            )
        ),
        "valid from 2020-01-01 to 2026-05-31",
    ),
    "times without seconds": (
        field(
            VALIDITY, der.encode(0x30, der.encode(0x17, b"2001010000Z") + der.encode(0x17, b"4005310000Z"))
        ),
        "malformed certificate",
    ),
    "version 2": (field(0, bytes.fromhex("a003020101")), "malformed certificate"),
    "odd, of version 1": (odd_and(field(0, b"")), "malformed certificate"),
    "no issuer": (field(ISSUER, name()), "malformed certificate: has no issuer"),
    "issuer that is no name": (field(ISSUER, b"\x30\x02\x31\x00"), "malformed certificate"),
    "algorithm for another kind of key": (field(ALGORITHM, RSASSA), "no CA entry leads to its issuer"),
    "key of another kind": (
        odd_and(field(KEY, bytes.fromhex("302a300506032b6570032100") + bytes(32))),
        "malformed certificate",
    ),
    "unknown field": (odd_and(field(SERIAL, b"\x02\x01\x01\x02\x01\x01")), "malformed certificate"),
}


@pytest.mark.parametrize("oddity", REFUSED)
def test_odd_and_wrong(oddity: str) -> None:
    change, words = REFUSED[oddity]
    with pytest.raises(Refusal, match=words) as refusal:
        endorsed(resigned(LEAF.der, ROOT, change))
    assert refusal.value.code == "ek_certificate_invalid"


def test_algorithm_outside_is_the_signed_one() -> None:
    other = der.encode(der.SEQUENCE, bytes.fromhex("06082a8648ce3d040303"))
    odd = resigned(LEAF.der, ROOT, lambda _fields: None, outside=lambda _algorithm: other)
    with pytest.raises(Refusal, match="algorithm outside is not the one that was signed"):
        endorsed(odd)


@pytest.mark.parametrize("encoding", ["3081", "308200", "30830000"])
def test_lengths_that_are_not_in_their_shortest_form(encoding: str) -> None:
    size = bytes.fromhex(encoding)
    content = b"\x02\x01\x05"
    data = size + bytes([len(content)]) + content
    with pytest.raises(Refusal, match="malformed certificate"):
        parse_certificate(data + bytes(100))
    with pytest.raises(ValueError, match="shortest form"):
        der.elements(data)


def test_issuer_that_is_written_in_another_way() -> None:
    """A vendor's root with an unsorted name, and leaves that give it in the same way, or sorted."""
    plain = root("Vendor root", "p256:odd root")
    signer = Authority(plain.subject, plain.key, plain.certificate)
    unsorted = name(UNSORTED)

    def renamed(fields: Fields) -> None:
        fields[ISSUER] = fields[SUBJECT] = unsorted

    odd_root = resigned(plain.der, signer, renamed)
    pem = parse_certificate(odd_root).pem()
    entry = [load_certificate_authority("odd", [pem])]
    reordered = attribute(COUNTRY, "tw") + attribute(ORGANIZATION, "v") + attribute(COMMON_NAME, "TPM  ROOT")
    for issuer in (UNSORTED, reordered):
        found = endorsed(resigned(LEAF.der, signer, field(ISSUER, name(issuer))), entry)
        assert found.issuer_name == parse_certificate(odd_root).subject_name
    # Apart, not together, is another name.
    apart = name(attribute(COMMON_NAME, "TPM root"), attribute(ORGANIZATION, "V"), attribute(COUNTRY, "TW"))
    with pytest.raises(Refusal, match="no CA entry leads"):
        endorsed(resigned(LEAF.der, signer, field(ISSUER, apart)), entry)


def test_rsassa_pss_with_sha2() -> None:
    authority = root("PSS root", "rsa2048:pss")
    certificate = LEAF.certificate
    builder = x509.CertificateBuilder(
        authority.subject, certificate.subject, certificate.public_key(), 7, PAST, NEVER
    )
    for each in certificate.extensions:
        builder = builder.add_extension(each.value, each.critical)
    key = authority.key
    assert isinstance(key, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    data = builder.sign(key, hashes.SHA256(), rsa_padding=pss).public_bytes(serialization.Encoding.DER)
    entry = [load_certificate_authority("pss", [authority.pem])]
    assert endorsed(data, entry).issuer == "CN=PSS root"
    weak = parse_certificate(data)
    object.__setattr__(weak, "signature_hash", hashes.SHA1())
    assert "is not RSA or ECDSA with SHA-2" in str(weak.weak_signature())
    # A signature of one kind of key is not tried with the other.
    assert not parse_certificate(LEAF.der).is_signed_by(parse_certificate(authority.der))
    plain_name = parse_certificate(root("PSS root", "p256:odd root").der)
    assert not parse_certificate(data).is_signed_by(plain_name)


def test_names_for_people_have_no_control_characters() -> None:
    odd = read_name(name(attribute(COMMON_NAME, "a\n\x1b[31m" + "b" * 500), attribute("2a03", "c")))
    assert odd.text.startswith("1.2.3=c,CN=a??[31mb") and len(odd.text) < 300
    assert tpm_names(der.encode(0x30, der.encode(0xA4, name(TPM)))) == {
        "version": "id:1",
        "model": "M1",
        "manufacturer": "id:12345678",
    }


@pytest.mark.parametrize(
    "data",
    [
        "",
        "30",
        "3003",
        "300131",
        "30023100",
        "300431023000",
        "30073105300306012a",
        "1f8101",
        "3080",
        "30840000",
    ],
)
def test_what_is_no_name(data: str) -> None:
    with pytest.raises(ValueError):
        read_name(bytes.fromhex(data))


def test_object_identifiers() -> None:
    assert der.dotted(bytes.fromhex("678105080 1".replace(" ", ""))) == "2.23.133.8.1"
    assert der.dotted(b"\x2a") == "1.2" and der.dotted(b"\x88\x37") == "2.999"
    for data in (b"", b"\x88", b"\x01" * 65):
        with pytest.raises(ValueError, match="object identifier"):
            der.dotted(data)


SEEDS = [resigned(LEAF.der, ROOT, change) for change in TOLERATED.values()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    at=st.integers(0, 2000),
    new=st.binary(min_size=0, max_size=8),
    cut=st.integers(0, 8),
)
@example(seed=SEEDS[0], at=0, new=b"", cut=8)
def test_any_change_is_read_or_refused(seed: bytes, at: int, new: bytes, cut: int) -> None:
    at = min(at, len(seed))
    changed = seed[:at] + new + seed[at + cut :]
    try:
        parse_certificate(changed)
    except Refusal as refusal:
        assert refusal.code == "ek_certificate_invalid"
        assert len(refusal.message) < 400


def _pems(path: Path) -> list[str]:
    end = "-----END CERTIFICATE-----"
    return [block[block.index("-----BEGIN") :] + end for block in path.read_text().split(end)[:-1]]


@corpus.parametrize("tpm_vendor_cas/*.pem")
def test_every_vendors_certificates_can_be_registered(path: Path) -> None:
    if corpus.is_absent(path):
        return
    odd = set()
    for pem in _pems(path):
        authority = load_certificate_authority("vendor", [pem])
        anchor = authority.anchor
        assert anchor.weakness() is None and anchor.key_usage is not None
        assert "keyCertSign" in anchor.key_usage and not anchor.critical_unknown
        if anchor.self_issued:
            assert anchor.is_signed_by(anchor)
        if not anchor.strict:
            odd.add(anchor.subject.partition("+")[0].partition(",OU=OnDie")[0])
    if path.name == "roots.pem":
        nuvoton = {f"CN=Nuvoton TPM Root CA {number}" for number in (1110, 1111, 2111, 2112)}
        assert odd == {*nuvoton, "CN=www.intel.com"}
    else:
        assert odd == set()


def test_times_are_aware() -> None:
    found = parse_certificate(LEAF.der)
    assert found.not_before == datetime(2020, 1, 1, tzinfo=UTC)
    assert CA_USAGE.key_cert_sign and parse_certificate(ROOT.der).subject == "CN=Vendor root"

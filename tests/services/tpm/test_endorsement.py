# SPDX-License-Identifier: GPL-3.0-or-later
"""Endorsement: every way in which a certificate or a path is wrong, then the paths that lead to a pinned
CA."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID
from services.tpm import corpus
from services.tpm.software_keys import endorsement_key, private_key
from services.tpm.vendor import (
    CA_USAGE,
    EK_KEY_USAGE,
    EK_USAGE,
    EXPIRED,
    NEVER,
    NOW,
    PAST,
    Authority,
    key_usage,
    root,
)

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.certificates import Certificate, parse_certificate
from trusted_infrastructure.tpm.endorsement import (
    CertificateAuthority,
    Endorsement,
    load_certificate_authority,
    verify_endorsement,
    verify_path,
)

EK = endorsement_key("rsa2048")
EK_KEY = private_key("rsa2048")
ROOT = root()
INTERMEDIATE = ROOT.issue("Vendor intermediate", private_key("p256:ica"), usage=CA_USAGE, path_length=0)
EK_FIELDS: dict[str, Any] = {"ca": False, "usage": EK_KEY_USAGE, "extended": [EK_USAGE], "tpm_names": True}
LEAF = INTERMEDIATE.issue("", EK_KEY, **EK_FIELDS)
AUTHORITIES = [load_certificate_authority("vendor", [ROOT.pem])]


def leaf(issuer: Authority = INTERMEDIATE, **fields: Any) -> Authority:
    """An EK certificate with something about it changed."""
    return issuer.issue(fields.pop("subject", ""), fields.pop("key", EK_KEY), **(EK_FIELDS | fields))


def intermediate(**fields: Any) -> Authority:
    """An intermediate CA with something about it changed."""
    issuer = fields.pop("issuer", ROOT)
    return issuer.issue("Changed CA", private_key("p256:changed"), **({"usage": CA_USAGE} | fields))


def verify(
    *certificates: Authority,
    authorities: list[CertificateAuthority] | None = None,
    now: datetime = NOW,
) -> Endorsement:
    return verify_endorsement(
        EK,
        [certificate.der for certificate in certificates],
        AUTHORITIES if authorities is None else authorities,
        now,
    )


# EK certificates by the genuine intermediate that must not pass.
LEAVES: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"not_after": EXPIRED}, "valid from 2020-01-01 to 2026-05-31, not on 2026-06-01"),
    "not yet valid": ({"not_before": datetime(2027, 1, 1, tzinfo=UTC)}, "valid from 2027-01-01"),
    "a CA": ({"ca": True}, "is a CA certificate"),
    "for signing": ({"usage": key_usage(digital_signature=True)}, "found digitalSignature"),
    "no extended key usage": ({"extended": None}, "must contain 2.23.133.8.1: found none"),
    "for TLS": ({"extended": [ExtendedKeyUsageOID.SERVER_AUTH]}, "found 1.3.6.1.5.5.7.3.1"),
    "for anything": ({"extended": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]}, "must contain"),
    "unknown critical extension": (
        {"unknown_critical": True},
        "critical extensions that are not handled: 1.2.3.4",
    ),
    "signed by another key": ({"signer": private_key("p256:other")}, "no CA entry leads to its issuer"),
    "critical name of a server": (
        {"names": [x509.DNSName("host1")]},
        "alternative name is not that of a TPM",
    ),
    "neither subject nor name": ({"tpm_names": False}, "has neither a subject nor the name of a TPM"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_refused(name: str) -> None:
    fields, words = LEAVES[name]
    with pytest.raises(Refusal, match=words) as refusal:
        verify(leaf(**fields), INTERMEDIATE)
    assert refusal.value.code == "ek_certificate_invalid"


def test_leaf_signed_with_sha1_refused() -> None:
    weak = parse_certificate(LEAF.der)
    object.__setattr__(weak, "signature_algorithm", SignatureAlgorithmOID.ECDSA_WITH_SHA1)
    with pytest.raises(Refusal, match="is not RSA or ECDSA with SHA-2"):
        verify_path(weak, [parse_certificate(INTERMEDIATE.der)], AUTHORITIES, NOW)


def test_intermediate_signed_with_sha1_refused() -> None:
    weak = parse_certificate(INTERMEDIATE.der)
    object.__setattr__(weak, "signature_algorithm", SignatureAlgorithmOID.ECDSA_WITH_SHA1)
    with pytest.raises(Refusal, match="'CN=Vendor intermediate': signature algorithm"):
        verify_path(parse_certificate(LEAF.der), [weak], AUTHORITIES, NOW)


# Intermediates, sent by the host, that must not stand between the EK certificate and the pinned root.
ISSUERS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"not_after": EXPIRED}, "valid from"),
    "not yet valid": ({"not_before": datetime(2027, 1, 1, tzinfo=UTC)}, "valid from 2027"),
    "no CA": ({"ca": False}, "is not a CA"),
    "without basic constraints": ({"ca": None}, "is not a CA"),
    "without key usage": ({"usage": None}, "may not sign certificates"),
    "may not sign certificates": ({"usage": key_usage(digital_signature=True)}, "may not sign certificates"),
    "for TLS only": ({"extended": [ExtendedKeyUsageOID.SERVER_AUTH]}, "may not issue EK certificates"),
    "unknown critical extension": ({"unknown_critical": True}, "1.2.3.4"),
    "signed by another key": ({"signer": private_key("p256:other")}, "no CA entry leads"),
}


@pytest.mark.parametrize("name", ISSUERS)
def test_intermediate_refused(name: str) -> None:
    fields, words = ISSUERS[name]
    changed = intermediate(**fields)
    with pytest.raises(Refusal, match=words) as refusal:
        verify(leaf(changed), changed)
    assert refusal.value.code == "ek_certificate_invalid"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rsa1024", "at least 2048 bits: found 1024"),
        ("rsa2048e3", "exponent must be at least 65537, and below 2.64: found 0x3"),
        ("p224", "found secp224r1"),
    ],
)
def test_weak_issuer_refused(kind: str, words: str) -> None:
    weak = ROOT.issue("Weak CA", private_key(kind), usage=CA_USAGE)
    with pytest.raises(Refusal, match=words):
        verify(leaf(weak), weak)


def test_weak_endorsement_key_certificate_refused() -> None:
    weak = endorsement_key("rsa1024")
    certificate = leaf(key=private_key("rsa1024"))
    with pytest.raises(Refusal, match="at least 2048 bits"):
        verify_endorsement(weak, [certificate.der, INTERMEDIATE.der], AUTHORITIES, NOW)


def test_path_length_is_kept() -> None:
    second = INTERMEDIATE.issue("Second", private_key("p256:second"), usage=CA_USAGE)
    with pytest.raises(Refusal, match="allows 0 CAs below it: found 1"):
        verify(leaf(second), second, INTERMEDIATE)
    wide = intermediate(path_length=1)
    second = wide.issue("Second", private_key("p256:second"), usage=CA_USAGE)
    assert len(verify(leaf(second), second, wide).issuers) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"not_after": EXPIRED}, "valid from"), ({"usage": None}, "may not sign certificates")],
)
def test_the_pinned_certificate_is_judged_too(fields: dict[str, Any], words: str) -> None:
    pinned = root("Old root", "p384:old", **fields)
    authorities = [load_certificate_authority("old", [pinned.pem])]
    with pytest.raises(Refusal, match=words):
        verify(leaf(pinned), authorities=authorities)


def test_a_root_from_the_host_is_never_trusted() -> None:
    rogue = root("Rogue root", "p384:rogue")
    with pytest.raises(Refusal, match="no CA entry leads to its issuer 'CN=Rogue root'"):
        verify(leaf(rogue), rogue)
    # Not even under the pinned root's name.
    twin = root("Vendor root", "p384:rogue")
    with pytest.raises(Refusal, match="no CA entry leads"):
        verify(leaf(twin), twin)


def test_the_pinned_certificate_is_no_endorsement_key() -> None:
    with pytest.raises(Refusal, match="ek_mismatch"):
        verify(ROOT)
    with pytest.raises(Refusal, match="is a CA certificate"):
        verify_path(parse_certificate(ROOT.der), [], AUTHORITIES, NOW)


def test_certificate_of_another_key() -> None:
    other = leaf(key=private_key("p256"))
    with pytest.raises(Refusal, match="for another key than the host presented") as refusal:
        verify(other, INTERMEDIATE)
    assert refusal.value.code == "ek_mismatch"


def test_no_certificate_and_too_many() -> None:
    with pytest.raises(Refusal) as refusal:
        verify()
    assert refusal.value.code == "ek_certificate_missing"
    with pytest.raises(InvalidField, match="ek_certificates: 9 certificates: expected at most 8"):
        verify(*[LEAF] * 9)


def test_look_alikes_cost_a_bounded_number_of_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates under one name, by one key, for keys of their own: any might be the issuer's."""
    checks = 0
    genuine = Certificate.is_signed_by

    def counted(certificate: Certificate, issuer: Certificate) -> bool:
        nonlocal checks
        checks += 1
        return genuine(certificate, issuer)

    monkeypatch.setattr(Certificate, "is_signed_by", counted)
    one = root("Same", "p256:ica")
    alike = [one.issue("Same", private_key(f"p256:alike{n}"), usage=CA_USAGE) for n in range(40)]
    entry = load_certificate_authority("vendor", [ROOT.pem, *(each.pem for each in alike[7:])])
    with pytest.raises(Refusal, match="no path within 32 signature checks"):
        verify(leaf(one), *alike[:7], authorities=[entry])
    assert checks == 32
    # What the host sends comes last: it does not keep the entry's own intermediate from being found.
    entry = load_certificate_authority("vendor", [ROOT.pem, ROOT.issue("Same", one.key, usage=CA_USAGE).pem])
    assert verify(leaf(one), *alike[:7], authorities=[entry]).authority == "vendor"


def test_a_loop_ends() -> None:
    one, other = (root(name, f"p256:{name}") for name in ("one", "other"))
    crossed = [
        one.issue("other", other.key, usage=CA_USAGE),
        other.issue("one", one.key, usage=CA_USAGE),
        one,
        other,
    ]
    with pytest.raises(Refusal, match="no CA entry leads to its issuer 'CN=one'"):
        verify(leaf(one), *crossed)


def test_cross_signed_authority() -> None:
    """The vendor's new root is not pinned; it is also certified by the old one, which is."""
    new = root("New root", "p384:new")
    crossed = ROOT.issue("New root", new.key, usage=CA_USAGE)
    below = new.issue("New intermediate", private_key("p256:changed"), usage=CA_USAGE)
    found = verify(leaf(below), below, new, crossed)
    assert [issuer.subject for issuer in found.issuers] == [
        "CN=New intermediate",
        "CN=New root",
        "CN=Vendor root",
    ]


def test_the_same_name_with_other_keys() -> None:
    """A renewed CA: each EK certificate finds the key that signed it, whichever comes first."""
    renewed = ROOT.issue("Vendor intermediate", private_key("p256:renewed"), usage=CA_USAGE)
    for order in ((INTERMEDIATE, renewed), (renewed, INTERMEDIATE)):
        assert verify(LEAF, *order).issuers[0].der == INTERMEDIATE.der
        assert verify(leaf(renewed), *order).issuers[0].der == renewed.der


def test_of_two_paths_the_good_one_counts() -> None:
    other = root("Other root", "p384:other")
    twin = other.issue("Vendor intermediate", private_key("p256:ica"), usage=CA_USAGE)
    entries = [load_certificate_authority("other", [other.pem]), *AUTHORITIES]
    assert verify(LEAF, twin, INTERMEDIATE, authorities=entries).authority == "other"
    expired = root("Other root", "p384:other", not_after=EXPIRED)
    entries = [load_certificate_authority("other", [expired.pem]), *AUTHORITIES]
    assert verify(LEAF, twin, INTERMEDIATE, authorities=entries).authority == "vendor"


def test_validity_includes_its_first_and_last_second() -> None:
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    certificate = leaf(not_before=begin, not_after=end)
    for moment in (begin, end):
        assert verify(certificate, INTERMEDIATE, now=moment).authority == "vendor"
    for moment in (begin - timedelta(seconds=1), end + timedelta(seconds=1)):
        with pytest.raises(Refusal, match="valid from 2026-01-01 to 2026-12-31"):
            verify(certificate, INTERMEDIATE, now=moment)


def test_names_are_compared_as_rfc_5280_wants_it() -> None:
    shouting = ROOT.issue("VENDOR   Intermediate", private_key("p256:ica"), usage=CA_USAGE)
    assert verify(LEAF, shouting).issuers[0].subject == "CN=VENDOR   Intermediate"


def test_a_longer_path_than_any_vendor_has() -> None:
    chain = [intermediate()]
    for number in range(6):
        chain.append(chain[-1].issue(f"CA {number}", private_key(f"p256:{number}"), usage=CA_USAGE))
    with pytest.raises(Refusal, match="no CA entry leads"):
        verify(leaf(chain[-1]), *chain)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "does not begin with a DER sequence"),
    "PEM": (LEAF.pem.encode(), "does not begin with a DER sequence"),
    "zeros": (bytes(1000), "does not begin with a DER sequence"),
    "cut": (LEAF.der[:-1], "says"),
    "length of four octets": (b"\x30\x84" + bytes(100), "a length that no certificate has"),
    "indefinite length": (b"\x30\x80" + bytes(100), "a length that no certificate has"),
    "another sequence": (b"\x30\x03\x02\x01\x05", "error parsing asn1 value"),
    "tail": (LEAF.der + b"tail", "4 bytes after the certificate are not padding"),
    "mixed padding": (LEAF.der + b"\0\xff", "2 bytes after the certificate are not padding"),
    "second certificate": (LEAF.der + INTERMEDIATE.der, "are not padding"),
    "too long": (LEAF.der + bytes(17 << 10), "expected at most 16384"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("position", [0, 1])
def test_malformed(name: str, position: int) -> None:
    data, words = MALFORMED[name]
    certificates = [LEAF.der, INTERMEDIATE.der]
    certificates[position] = data
    with pytest.raises(Refusal, match=f"malformed certificate: .*{words}") as refusal:
        verify_endorsement(EK, certificates, AUTHORITIES, NOW)
    assert (refusal.value.code, refusal.value.status) == ("ek_certificate_invalid", 400)


def _der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    octets = 1 if len(content) < 0x100 else 2
    return bytes([tag, 0x80 | octets]) + len(content).to_bytes(octets, "big") + content


def _version_1(der: bytes) -> bytes:
    """The certificate without version and extensions, which is what version 1 is."""
    tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    version = bytes.fromhex("a003020102")
    start = tbs.index(version) + len(version)
    # The extensions are the last element: [3], with a length of one octet.
    end = next(at for at in range(len(tbs) - 1) if tbs[at] == 0xA3 and at + 2 + tbs[at + 1] == len(tbs))
    return _der(0x30, _der(0x30, tbs[start:end]) + der[4 + len(tbs) :])


def test_version_1_has_no_extensions_to_judge() -> None:
    with pytest.raises(Refusal, match="malformed certificate: version must be 3"):
        parse_certificate(_version_1(LEAF.der))


def test_a_key_of_another_kind() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(ROOT.subject, ROOT.subject, edwards.public_key(), 5, PAST, NEVER)
    der = builder.sign(edwards, None).public_bytes(serialization.Encoding.DER)
    with pytest.raises(Refusal, match="malformed certificate: public key is not RSA or EC"):
        parse_certificate(der)


def test_every_flipped_byte_is_refused() -> None:
    # Every byte of a certificate is signed, is the signature, or says how long these are.
    for offset in range(0, len(LEAF.der), 3):
        changed = bytearray(LEAF.der)
        changed[offset] ^= 0x01
        with pytest.raises(Refusal):
            verify_endorsement(EK, [bytes(changed), INTERMEDIATE.der], AUTHORITIES, NOW)


# ---- what passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384"])
@pytest.mark.parametrize("padding", [b"", bytes(200), b"\xff" * 200])
def test_paths_over_the_hosts_intermediate(kind: str, padding: bytes) -> None:
    usage = EK_KEY_USAGE if kind.startswith("rsa") else key_usage(key_agreement=True)
    certificate = leaf(key=private_key(kind), usage=usage)
    sent = [certificate.der + padding, INTERMEDIATE.der + padding]
    found = verify_endorsement(endorsement_key(kind), sent, AUTHORITIES, NOW)
    assert found.authority == "vendor"
    assert [issuer.subject for issuer in found.issuers] == ["CN=Vendor intermediate", "CN=Vendor root"]
    assert found.leaf.der == certificate.der


def test_intermediates_of_the_entries() -> None:
    entry = load_certificate_authority("vendor", [ROOT.pem, INTERMEDIATE.pem])
    assert verify(LEAF, authorities=[entry]).authority == "vendor"
    other = load_certificate_authority("other", [root("Other", "p384:other").pem, INTERMEDIATE.pem])
    assert verify(LEAF, authorities=[other, *AUTHORITIES]).authority == "vendor"
    with pytest.raises(Refusal, match="no CA entry leads"):
        verify(LEAF, authorities=[other])


def test_a_pinned_intermediate_is_enough() -> None:
    entry = load_certificate_authority("pinned", [INTERMEDIATE.pem])
    assert verify(LEAF, authorities=[entry]).authority == "pinned"


def test_a_bad_twin_does_not_hide_the_good_intermediate() -> None:
    twin = ROOT.issue("Vendor intermediate", private_key("p256:ica"), usage=CA_USAGE, not_after=EXPIRED)
    assert verify(LEAF, twin, INTERMEDIATE).authority == "vendor"


def test_the_exception_for_certificates_without_extended_key_usage() -> None:
    entry = load_certificate_authority("vendor", [ROOT.pem], eku_exception=True)
    assert verify(leaf(extended=None), INTERMEDIATE, authorities=[entry]).authority == "vendor"
    # Without a key usage it might be the CA's certificate for an attestation key.
    with pytest.raises(Refusal, match="has neither a key usage nor an extended key usage"):
        verify(leaf(extended=None, usage=None), INTERMEDIATE, authorities=[entry])
    # The exception is for none, not for another one.
    with pytest.raises(Refusal, match="must contain"):
        verify(leaf(extended=[ExtendedKeyUsageOID.SERVER_AUTH]), INTERMEDIATE, authorities=[entry])


# ---- CA entries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ([], "cert_chain: must have at least one"),
        ([""], r"cert_chain\[0\]: malformed certificate"),
        ([ROOT.pem, "x"], r"cert_chain\[1\]: malformed certificate"),
        ([ROOT.pem + INTERMEDIATE.pem], "expected exactly one PEM certificate"),
        (["-----BEGIN CERTIFICATE-----\n\u00e9\n-----END CERTIFICATE-----"], "malformed certificate"),
        (["-----BEGIN CERTIFICATE-----\n" + "A" * 40000], "expected at most"),
        ([ROOT.pem, LEAF.pem], r"cert_chain\[1\]: serial .* is not a CA certificate"),
        ([ROOT.pem.replace("CERTIFICATE", "PUBLIC KEY")], "malformed certificate"),
    ],
)
def test_ca_entry_refused(chain: list[str], words: str) -> None:
    with pytest.raises(InvalidField, match=words) as refusal:
        load_certificate_authority("name", chain)
    assert refusal.value.code == "malformed_request"


def _with_crl(issuer: Authority, crl: str) -> list[CertificateAuthority]:
    return [load_certificate_authority("vendor", [ROOT.pem, INTERMEDIATE.pem], crls=[crl])]


def test_revoked() -> None:
    serial = LEAF.certificate.serial_number
    crl = INTERMEDIATE.revoke([serial, 5], NEVER)
    with pytest.raises(Refusal, match="was revoked by 'CN=Vendor intermediate'"):
        verify(LEAF, authorities=_with_crl(INTERMEDIATE, crl))
    crl = ROOT.revoke([INTERMEDIATE.certificate.serial_number], NEVER)
    with pytest.raises(Refusal, match="'CN=Vendor intermediate' was revoked by 'CN=Vendor root'"):
        verify(LEAF, authorities=_with_crl(ROOT, crl))
    # The same number by another issuer is another certificate.
    assert verify(LEAF, authorities=_with_crl(ROOT, ROOT.revoke([serial], NEVER)))


def test_crl_that_can_not_be_relied_on() -> None:
    old = INTERMEDIATE.revoke([], EXPIRED)
    with pytest.raises(Refusal, match="out of date since 2026-05-31"):
        verify(LEAF, authorities=_with_crl(INTERMEDIATE, old))
    early = INTERMEDIATE.revoke([], NEVER, this_update=datetime(2027, 1, 1, tzinfo=UTC))
    with pytest.raises(Refusal, match="of the future: 2027-01-01"):
        verify(LEAF, authorities=_with_crl(INTERMEDIATE, early))
    old_root = ROOT.revoke([], EXPIRED)
    with pytest.raises(Refusal, match="CRL of 'CN=Vendor root' is out of date"):
        verify(LEAF, authorities=_with_crl(ROOT, old_root))
    assert verify(LEAF, authorities=_with_crl(INTERMEDIATE, INTERMEDIATE.revoke([], NEVER)))
    for pem in ("", "x", ROOT.pem):
        with pytest.raises(InvalidField, match=r"crls\[0\]: malformed CRL"):
            _with_crl(ROOT, pem)


def test_crl_that_a_ca_entry_does_not_take() -> None:
    other = root("Other root", "p384:other")
    silent = ROOT.issue("Silent", private_key("p256:silent"), usage=key_usage(key_cert_sign=True))
    refused = {
        "is not signed by 'CN=Vendor intermediate'": INTERMEDIATE.revoke(
            [], NEVER, signer=private_key("p256:other")
        ),
        "is by 'CN=Other root', which is no CA of this entry's cert_chain": other.revoke([], NEVER),
        "'CN=Silent' may not sign CRLs": silent.revoke([], NEVER),
    }
    chain = [ROOT.pem, INTERMEDIATE.pem, silent.pem]
    for words, crl in refused.items():
        with pytest.raises(InvalidField, match=r"crls\[0\]: " + words) as refusal:
            load_certificate_authority("vendor", chain, crls=[crl])
        assert refusal.value.code == "malformed_request"
    twice = [ROOT.revoke([], NEVER), ROOT.revoke([1], NEVER)]
    with pytest.raises(InvalidField, match=r"crls\[1\]: is a second CRL of 'CN=Vendor root'"):
        load_certificate_authority("vendor", chain, crls=twice)
    with pytest.raises(InvalidField, match="crls: has 17 CRLs: expected at most 16"):
        load_certificate_authority("vendor", chain, crls=twice[:1] * 17)


def test_crl_counts_for_every_key_of_its_issuer() -> None:
    """A host sends a renewed intermediate that the entry does not have; the CRL of the name counts all the
    same."""
    renewed = ROOT.issue("Vendor intermediate", private_key("p256:renewed"), usage=CA_USAGE)
    certificate = leaf(renewed)
    crl = INTERMEDIATE.revoke([certificate.certificate.serial_number], NEVER)
    with pytest.raises(Refusal, match="was revoked by 'CN=Vendor intermediate'"):
        verify(certificate, renewed, authorities=_with_crl(INTERMEDIATE, crl))


def test_crl_that_is_not_a_complete_one() -> None:
    pem = INTERMEDIATE.revoke([], NEVER)
    with pytest.raises(InvalidField, match="characters long: expected at most"):
        _with_crl(ROOT, pem + " " * (4 << 20))
    builder = x509.CertificateRevocationListBuilder(INTERMEDIATE.subject, PAST, NEVER)
    builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    delta = builder.sign(INTERMEDIATE.key, hashes.SHA256())
    with pytest.raises(InvalidField, match=r"critical extensions that are not handled: 2\.5\.29\.27"):
        _with_crl(ROOT, delta.public_bytes(serialization.Encoding.PEM).decode())


def test_crl_without_an_end() -> None:
    crl = x509.load_pem_x509_crl(INTERMEDIATE.revoke([], NEVER).encode())
    der, tbs = crl.public_bytes(serialization.Encoding.DER), crl.tbs_certlist_bytes
    after = der[der.index(tbs) + len(tbs) :]
    content = tbs[2 if tbs[1] < 0x80 else 3 :].replace(b"\x18\x0f99991231235959Z", b"")
    endless = x509.load_der_x509_crl(_der(0x30, _der(0x30, content) + after))
    with pytest.raises(InvalidField, match="has no nextUpdate"):
        _with_crl(ROOT, endless.public_bytes(serialization.Encoding.PEM).decode())


# ---- certificates of real TPMs -----------------------------------------------------------------------------


def _pem_blocks(path: Path) -> list[str]:
    text = path.read_text()
    end = "-----END CERTIFICATE-----"
    blocks = [block[block.index("-----BEGIN") :] + end + "\n" for block in text.split(end)[:-1]]
    return blocks


def _vendors() -> list[CertificateAuthority]:
    """Every root of the corpus that is well-formed, all intermediates in the first entry."""
    folder = corpus.FOLDER / "tpm_vendor_cas"
    intermediates = _pem_blocks(folder / "intermediates.pem")
    found = []
    for number, pem in enumerate(_pem_blocks(folder / "roots.pem")):
        try:
            found.append(
                load_certificate_authority(f"root {number}", [pem, *([] if found else intermediates)])
            )
        except InvalidField as refusal:
            pytest.fail(f"root {number}: {refusal.message}")
    return found


def _google() -> CertificateAuthority:
    folder = corpus.FOLDER / "tpm_vendor_cas" / "google"
    chain = []
    for file in ("gcp_ek_ak_ca_root.crt", "gcp_ek_ak_ca_intermediate_v3.crt"):
        data = (folder / file).read_bytes()
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        chain.append(load(data).public_bytes(serialization.Encoding.PEM).decode())
    return load_certificate_authority("google", chain, eku_exception=True)


@corpus.parametrize("ek_certificates/*.der")
def test_real_endorsement_certificates(path: Path) -> None:
    if corpus.is_absent(path):
        return
    certificate = parse_certificate(path.read_bytes() + b"\xff" * 100)
    authorities = [*_vendors(), _google()]
    found = verify_path(certificate, [], authorities, NOW)
    assert found.issuers[-1].is_ca
    others = [entry for entry in authorities if entry.name != found.authority]
    with pytest.raises(Refusal, match="ek_certificate_invalid"):
        verify_path(certificate, [], others, NOW)
    with pytest.raises(Refusal, match="valid from"):
        verify_path(certificate, [], authorities, PAST)


def test_signature_hash_of_the_builder_is_strong() -> None:
    # The table above relies on it: what is refused there is refused for what the row says.
    assert verify(leaf(hash_=hashes.SHA384()), INTERMEDIATE).authority == "vendor"

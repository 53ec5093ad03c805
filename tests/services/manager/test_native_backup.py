# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that a native key provider is backed up in: round trips, other tools, and hostile files."""

from __future__ import annotations

import base64
import datetime
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from trusted_infrastructure.manager import native_backup, pkcs12_form
from trusted_infrastructure.manager.native_backup import BackupDocument, BackupKey
from trusted_infrastructure.manager.operations import crypto_manager_structures as structures
from trusted_infrastructure.manager.operations.standard_key_provider_certificates import CredentialInput
from trusted_infrastructure.manager.vapi.structure import FieldError
from trusted_infrastructure.tpm import der

NOW = 1_800_000_000
FIRST, SECOND = "0c0ffee0-1111-2222-3333-444455556666", "0c0ffee0-aaaa-bbbb-cccc-ddddeeeeffff"
DOCUMENT = BackupDocument(
    provider="branch",
    key_id=FIRST,
    keys=[BackupKey(FIRST, bytes(range(32))), BackupKey(SECOND, bytes(32))],
    tpm_required=True,
    exported=NOW,
)
CLEAR = native_backup.write(DOCUMENT, None)
PASSWORD = "p\u00e4ssword \U0001f511"
# Fewer rounds: what is refused here is refused before or after them.
ROUNDS = 1000


@pytest.fixture(autouse=True)
def fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_backup, "ITERATIONS", ROUNDS)


def refusal(data: bytes, password: str | None = None) -> FieldError:
    with pytest.raises(FieldError) as caught:
        native_backup.read(data, password)
    return caught.value


def openssl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", "pkcs12", *arguments], capture_output=True, check=True)


def made(
    extensions: dict[x509.ObjectIdentifier, bytes], key: Any = None, password: str | None = None
) -> bytes:
    """A PKCS#12 file with a certificate that has these extensions."""
    key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")])
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment)
        .not_valid_after(moment)
    )
    for oid, value in extensions.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    encryption = native_backup._encryption(password)
    return pkcs12.serialize_key_and_certificates(b"x", key, certificate, None, encryption)


# ---- refusals first


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"junk",
        b"\x30\x80" + bytes(40),
        CLEAR + b"\0",
        CLEAR[1:],
        b"-----BEGIN CERTIFICATE-----\n",
    ],
    ids=["empty", "tag", "text", "indefinite length", "longer", "shifted", "PEM"],
)
def test_what_is_no_pkcs12_names_config(data: bytes) -> None:
    assert refusal(data).field == "config"


@pytest.mark.parametrize("password", [None, "password"])
def test_a_file_cut_anywhere_is_refused(password: str | None) -> None:
    data = native_backup.write(DOCUMENT, password)
    for size in range(0, len(data), 7):
        assert refusal(data[:size], password).field == "config", size


def test_a_changed_byte_never_gives_another_document() -> None:
    for password in (None, "password"):
        data = native_backup.write(DOCUMENT, password)
        for position in range(0, len(data), 5 if password else 3):
            changed = bytearray(data)
            changed[position] ^= 0x41
            try:
                assert native_backup.read(bytes(changed), password) == DOCUMENT, position
            except FieldError as error:
                assert error.field in {"config", "password"}


def test_a_huge_file_is_not_looked_at() -> None:
    started = time.process_time()
    error = refusal(b"\x30\x83\xff\xff\xff" + bytes(50_000_000))
    assert (error.field, "larger than" in error.reason) == ("config", True)
    assert time.process_time() - started < 1


def test_wrong_passwords_name_the_password() -> None:
    data = native_backup.write(DOCUMENT, "right")
    for wrong in ("wrong", "", None, "right ", "RIGHT"):
        assert refusal(data, wrong).field == "password", wrong
    assert refusal(CLEAR, "not needed").field == "password"


def test_other_pkcs12_files_are_told_apart() -> None:
    assert "not a backup" in refusal(made({})).reason
    assert "not a backup" in refusal(made({}, rsa.generate_private_key(65537, 2048))).reason
    assert "not a backup" in refusal(made({}, password="x"), "x").reason
    oid = native_backup.BACKUP_OID
    assert "not a backup" in refusal(made({oid: b"no DER"})).reason
    assert "version" in refusal(made({oid: der.encode(der.OCTET_STRING, b"TINB\x02" + bytes(90))})).reason
    assert "version" in refusal(made({oid: der.encode(der.OCTET_STRING, b"TINB\x01")})).reason
    other = der.encode(der.OCTET_STRING, b"TINB\x01" + bytes(90))
    assert "does not open" in refusal(made({oid: other})).reason


def test_an_extension_does_not_open_under_another_key() -> None:
    opened = pkcs12.load_pkcs12(CLEAR, None)
    assert opened.cert is not None
    extension: Any = opened.cert.certificate.extensions.get_extension_for_oid(native_backup.BACKUP_OID).value
    assert "does not open" in refusal(made({native_backup.BACKUP_OID: extension.value})).reason


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b"[]",
        b"\xff",
        b'{"version": 2}',
        b'{"version":1,"provider":"a/b","key_id":"%s","keys":[],"tpm_required":false,"exported":1}'
        % FIRST.encode(),
        b'{"version":1,"provider":"a","key_id":"%s","keys":[{"key_id":"%s","key":"AAAA"}],'
        b'"tpm_required":false,"exported":1}' % (FIRST.encode(), FIRST.encode()),
        b'{"version":1,"provider":"a","provider":"b","key_id":"%s","keys":[{"key_id":"%s","key":"%s"}],'
        b'"tpm_required":false,"exported":1}' % (FIRST.encode(), FIRST.encode(), b"A" * 43 + b"="),
        b'{"version":1,"provider":"a","key_id":"%s","keys":[{"key_id":"%s","key":"%s"}],'
        b'"tpm_required":false,"exported":1}' % (FIRST.encode(), SECOND.encode(), b"A" * 43 + b"="),
        b"[" * 5000,
    ],
)
def test_a_document_that_is_none(document: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    header = b"TINB\x01" + os.urandom(32)
    cipher, nonce = native_backup._cipher(key, header)
    envelope = der.encode(der.OCTET_STRING, header + cipher.encrypt(nonce, document, header))
    assert "was changed" in refusal(made({native_backup.BACKUP_OID: envelope}, key)).reason


@pytest.mark.parametrize("count", [pkcs12_form.MAXIMUM_ITERATIONS + 1, 2**31 - 1, 2**40, 0, -1])
def test_a_file_that_wants_hours_of_hashing_costs_nothing(count: int) -> None:
    data = native_backup.write(DOCUMENT, "password")
    width = max(1, (count.bit_length() + 8) // 8)
    bomb = der.encode(der.INTEGER, count.to_bytes(width, "big", signed=True))
    started = time.process_time()
    for number in (ROUNDS, 2048):  # PBKDF2, integrity check
        harmless = der.encode(der.INTEGER, number.to_bytes(2, "big"))
        assert harmless in data
        changed = replaced(data, harmless, bomb)
        error = refusal(changed, "password")
        assert (error.field, "hashed" in error.reason) == ("config", True), error.reason
    assert time.process_time() - started < 2


def test_an_integrity_check_with_rounds_of_its_own_is_not_begun() -> None:
    """PBMAC1 (RFC 9579): the number of rounds is in the algorithm, not where it is looked for."""
    version, content, _mac = der.inside(CLEAR, der.SEQUENCE, "")

    def value(tag: int, *parts: bytes) -> bytes:
        return der.encode(tag, b"".join(parts))

    def identifier(dotted: str) -> bytes:
        return der.encode(der.OBJECT_IDENTIFIER, arcs(dotted))

    null = b"\x05\x00"
    hmac = value(der.SEQUENCE, identifier("1.2.840.113549.2.9"), null)
    rounds = value(der.INTEGER, (2**31 - 1).to_bytes(4, "big"))
    length = value(der.INTEGER, b"\x20")
    parameters = value(der.SEQUENCE, value(der.OCTET_STRING, b"salt" * 2), rounds, length, hmac)
    derivation = value(der.SEQUENCE, identifier("1.2.840.113549.1.5.12"), parameters)
    algorithm = value(
        der.SEQUENCE, identifier("1.2.840.113549.1.5.14"), value(der.SEQUENCE, derivation, hmac)
    )
    digest = value(der.SEQUENCE, algorithm, value(der.OCTET_STRING, bytes(32)))
    mac = value(der.SEQUENCE, digest, value(der.OCTET_STRING, b"salt" * 2), value(der.INTEGER, b"\x01"))
    started = time.process_time()
    error = refusal(value(der.SEQUENCE, version.raw, content.raw, mac), "password")
    assert (error.field, "integrity check" in error.reason) == ("config", True), error.reason
    assert time.process_time() - started < 2


def arcs(dotted: str) -> bytes:
    """Content of an object identifier."""
    numbers = [int(part) for part in dotted.split(".")]
    made = bytes([numbers[0] * 40 + numbers[1]])
    for number in numbers[2:]:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        made += bytes(reversed(groups))
    return made


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """DER with each occurrence of a value replaced, and the lengths around it put right."""

    def rebuilt(content: bytes) -> bytes:
        made = b""
        for element in der.elements(content):
            inner = element.content
            if element.raw == old:
                made += new
                continue
            if element.tag & 0x20:
                inner = rebuilt(inner)
            elif element.tag == der.OCTET_STRING and old in inner:
                inner = rebuilt(inner)
            made += der.encode(element.tag, inner)
        return made

    return rebuilt(data)


def test_a_bomb_inside_of_what_is_encrypted_is_found() -> None:
    """An encrypted key where only certificates are: its own number of rounds would not have been seen."""
    outer = native_backup.write(DOCUMENT, "password")
    parts = der.elements(der.content(outer, der.SEQUENCE, ""))
    content = der.inside(parts[1].raw, der.SEQUENCE, "")[1]
    contents = der.inside(der.content(content.content, der.OCTET_STRING, ""), der.SEQUENCE, "")
    keys = der.inside(contents[1].raw, der.SEQUENCE, "")[1]
    hidden = der.content(keys.content, der.OCTET_STRING, "")
    with pytest.raises(ValueError, match="neither a key nor a certificate"):
        pkcs12_form._check_bags(hidden, {pkcs12_form._CERTIFICATE_BAG})


@pytest.mark.parametrize("algorithm", ["PBE-SHA1-3DES", "AES-128-CBC"])
def test_other_encryptions_are_named_as_such(tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "in.p12").write_bytes(CLEAR)
    openssl("-in", str(tmp_path / "in.p12"), "-passin", "pass:", "-nodes", "-out", str(tmp_path / "pem"))
    target = str(tmp_path / "out.p12")
    pbe = ("-certpbe", algorithm, "-keypbe", algorithm)
    openssl("-export", "-in", str(tmp_path / "pem"), "-passout", "pass:x", "-out", target, *pbe)
    error = refusal(Path(target).read_bytes(), "x")
    assert (error.field, "not taken" in error.reason) == ("config", True)


@pytest.mark.parametrize("password", ["a" * 1025, "nul\0", "\ud800"])
def test_passwords_that_no_file_can_have(password: str) -> None:
    with pytest.raises(FieldError, match="password"):
        native_backup.check_password("password", password)


# ---- what holds


@pytest.mark.parametrize("password", [None, "", "password", PASSWORD, "a" * 1024])
def test_what_is_written_is_read(password: str | None) -> None:
    assert native_backup.read(native_backup.write(DOCUMENT, password), password) == DOCUMENT


@pytest.mark.parametrize("name", ["branch", "\U0001f511 b\u00fcro", "a" * 200, "{}", "' OR 1"])
def test_names(name: str) -> None:
    document = BackupDocument(
        provider=name, key_id=FIRST, keys=[BackupKey(FIRST, bytes(32))], tpm_required=False, exported=NOW
    )
    assert native_backup.read(native_backup.write(document, None), None) == document


def test_as_many_keys_as_a_provider_has() -> None:
    keys = [BackupKey(f"0c0ffee0-1111-2222-3333-{number:012x}", os.urandom(32)) for number in range(65)]
    document = BackupDocument(
        provider="a" * 200, key_id=keys[0].key_id, keys=keys, tpm_required=False, exported=NOW
    )
    data = native_backup.write(document, "password")
    assert len(data) < pkcs12_form.MAXIMUM_BYTES
    assert native_backup.read(data, "password") == document


def test_openssl_opens_it_and_what_openssl_writes_is_read(tmp_path: Path) -> None:
    """Another password by another tool."""
    source, target = tmp_path / "backup.p12", tmp_path / "other.p12"
    source.write_bytes(native_backup.write(DOCUMENT, "old"))
    pem = openssl("-in", str(source), "-passin", "pass:old", "-nodes").stdout
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.extensions.get_extension_for_oid(native_backup.BACKUP_OID).critical is False
    (tmp_path / "pem").write_bytes(pem)
    openssl("-export", "-in", str(tmp_path / "pem"), "-passout", "pass:new", "-out", str(target))
    assert native_backup.read(target.read_bytes(), "new") == DOCUMENT


def test_the_rounds_are_those_that_the_document_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert native_backup.ITERATIONS == 600_000
    data = native_backup.write(DOCUMENT, "password")
    assert data.count(der.encode(der.INTEGER, (600_000).to_bytes(3, "big"))) == 2


def test_keys_are_in_the_clear_only_without_a_password() -> None:
    """Without one they are one step away, and not greppable; with one the key to that step is encrypted."""
    key = pkcs12.load_pkcs12(CLEAR, None).key
    assert key is not None
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert private in CLEAR
    encrypted = native_backup.write(DOCUMENT, "password")
    assert b"2a8648ce3d0301" not in encrypted.hex().encode()  # P-256: neither key nor certificate is legible
    for data in (CLEAR, encrypted):
        assert bytes(range(32)) not in data


def test_no_key_is_in_a_representation() -> None:
    assert repr(bytes(range(32)))[2:-1] not in repr(DOCUMENT)
    assert "BackupKey(0c0ffee0-1111" in repr(DOCUMENT)


def test_no_structure_of_the_api_shows_a_secret() -> None:
    key, password = base64.b64encode(b"K" * 32).decode(), "p-a-s-s-w-o-r-d"
    native = structures.NativeCreateSpec(key_derivation_key=key)
    shown = [
        structures.CreateSpec(provider="branch", native_spec=native),
        structures.ExportSpec(provider="branch", password=password),
        structures.ImportSpec(config=key, password=password),
        structures.Token(token=password, expiry="2026-01-01T00:00:00Z"),
        CredentialInput(provider="finance", credential=password),
    ]
    text = repr([shown, native]) + f"{shown} {native}"
    assert key not in text and password not in text

# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: what opens, and above all what does not."""

from __future__ import annotations

import pytest

from trusted_infrastructure import sealing
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.sealing import SealingKey, open_secret, seal, seal_secret

SUITES = sorted(sealing.SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_opens_what_was_sealed_after_a_round_trip_of_the_key(suite: str) -> None:
    key = SealingKey.generate(suite)
    again = SealingKey.from_bytes(suite, key.to_bytes())
    assert again.public_bytes() == key.public_bytes()
    assert again.open(seal(suite, key.public_bytes(), b"secret", b"info"), b"info") == b"secret"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("fault", ["other key", "other info", "flipped", "cut", "empty", "longer"])
def test_refuses_to_open(suite: str, fault: str) -> None:
    key = SealingKey.generate(suite)
    sealed = seal(suite, key.public_bytes(), b"secret", b"info")
    info = b"info"
    if fault == "other key":
        key = SealingKey.generate(suite)
    elif fault == "other info":
        info = b"info2"
    elif fault == "flipped":
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    elif fault == "cut":
        sealed = sealed[:-1]
    elif fault == "empty":
        sealed = b""
    else:
        sealed += b"\0"
    with pytest.raises(Refusal) as refusal:
        key.open(sealed, info)
    assert refusal.value.code == "sealed_value_invalid"


@pytest.mark.parametrize("suite", SUITES)
def test_every_flipped_byte_of_a_ciphertext_is_noticed(suite: str) -> None:
    key = SealingKey.generate(suite)
    sealed = seal(suite, key.public_bytes(), b"secret", b"info")
    for position in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        # 0x80 is masked away in the last byte of an X25519 point; 0x01 never is.
        changed[position] ^= 1
        with pytest.raises(Refusal):
            key.open(bytes(changed), b"info")


@pytest.mark.parametrize(
    ("suite", "public_key", "names"),
    [
        ("RSA", b"", "hpke_suite"),
        ("MLKEM768_X25519", b"\0" * 1215, "expected 1216 bytes, found 1215"),
        ("MLKEM768_X25519", b"\xff" * 1216, "hpke_public_key"),
        ("P256", b"\x04" + b"\1" * 64, "hpke_public_key"),
        ("P256", b"\2" + b"\1" * 64, "hpke_public_key"),
        ("X25519", b"\0" * 32, "hpke_public_key"),
        ("X25519", b"", "expected 32 bytes, found 0"),
    ],
)
def test_refuses_public_keys_that_are_none(suite: str, public_key: bytes, names: str) -> None:
    with pytest.raises(InvalidField, match=names):
        seal(suite, public_key, b"secret", b"")


@pytest.mark.parametrize("suite", SUITES)
def test_refuses_private_keys_of_another_size(suite: str) -> None:
    with pytest.raises(InvalidField, match="sealing_key"):
        SealingKey.from_bytes(suite, b"\1" * 5)


def test_a_document_secret_opens_only_for_its_host_and_its_field() -> None:
    keys = {host: SealingKey.generate() for host in ("ta1", "ta2")}
    public = {host: key.public_bytes() for host, key in keys.items()}
    sealed = seal_secret(b"password", sealing.DEFAULT_SUITE, public, "key_provider/p/password")
    assert open_secret(sealed, "ta2", keys["ta2"], "key_provider/p/password") == b"password"
    for host, key, purpose in [
        ("ta1", keys["ta2"], "key_provider/p/password"),
        ("ta3", keys["ta1"], "key_provider/p/password"),
        ("ta1", keys["ta1"], "key_provider/q/password"),
        ("ta1", SealingKey.generate("X25519"), "key_provider/p/password"),
    ]:
        with pytest.raises(Refusal) as refusal:
            open_secret(sealed, host, key, purpose)
        assert refusal.value.code == "sealed_value_invalid"
    moved = sealing.SealedSecret(sealed.suite, sealed.digest, {"ta1": sealed.sealed["ta2"]})
    with pytest.raises(Refusal):
        open_secret(moved, "ta1", keys["ta2"], "key_provider/p/password")


def test_digest_depends_on_secret_and_salt_and_is_never_twice_the_same() -> None:
    digest = sealing.secret_digest(b"password")
    salt = bytes.fromhex(digest.partition(":")[0])
    assert (len(salt), len(bytes.fromhex(digest.partition(":")[2]))) == (16, 32)
    assert digest != sealing.secret_digest(b"password")
    assert digest == sealing.secret_digest(b"password", salt)
    assert digest != sealing.secret_digest(b"Password", salt)


def test_no_secret_in_representation_or_refusal() -> None:
    key = SealingKey.generate("P256")
    assert key.to_bytes().hex() not in repr(key) and repr(key) == "SealingKey(P256)"
    with pytest.raises(Refusal) as refusal:
        key.open(b"x" * 200, b"")
    assert key.to_bytes().hex() not in str(refusal.value) + str(refusal.value.as_dict())

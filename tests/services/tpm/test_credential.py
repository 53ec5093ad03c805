# SPDX-License-Identifier: GPL-3.0-or-later
"""MakeCredential against a TPM side that is written apart from it (tests/integration does it with a real
one)."""

from __future__ import annotations

import pytest
from services.tpm.software_keys import activate, attestation_key, endorsement_key, private_key

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.credential import kdfa, kdfe, make_credential
from trusted_infrastructure.tpm.public_area import Attributes

SECRET = bytes(range(32))
AK = attestation_key()


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384"])
@pytest.mark.parametrize(("aes", "name_alg"), [(128, algorithms.SHA256), (256, algorithms.SHA384)])
def test_only_the_named_key_gets_the_secret(kind: str, aes: int, name_alg: int) -> None:
    ek = endorsement_key(kind, aes, name_alg=name_alg)
    blob, encrypted = make_credential(ek, AK.name, SECRET)
    key = private_key(kind)
    assert activate(key, ek, AK.name, blob, encrypted) == SECRET
    assert activate(key, ek, attestation_key("p384").name, blob, encrypted) is None
    assert activate(key, ek, AK.name, blob[:-1] + bytes([blob[-1] ^ 1]), encrypted) is None


def test_two_credentials_have_nothing_in_common() -> None:
    ek = endorsement_key()
    assert make_credential(ek, AK.name, SECRET) != make_credential(ek, AK.name, SECRET)


@pytest.mark.parametrize("name", [b"", b"\x00\x0b", AK.name[:-1], AK.name + b"\0", b"\x00\x10" + bytes(32)])
def test_a_name_that_names_no_key_is_refused(name: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        make_credential(endorsement_key(), name, SECRET)
    assert refusal.value.code == "ak_name"


def test_a_key_that_is_no_endorsement_key_is_refused() -> None:
    with pytest.raises(Refusal, match="ek_attributes"):
        make_credential(endorsement_key(attributes=Attributes(0x000200B2)), AK.name, SECRET)
    with pytest.raises(Refusal, match="ek_weak"):
        make_credential(endorsement_key("rsa1024"), AK.name, SECRET)


@pytest.mark.parametrize("secret", [b"", bytes(33)])
def test_the_secret_fits_the_name_hash(secret: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        make_credential(endorsement_key(), AK.name, secret)


def test_key_derivation_runs_over_blocks() -> None:
    hash_ = algorithms.HASHES[algorithms.SHA256]
    for derive in (kdfa, kdfe):
        short = derive(hash_, b"k", b"L", b"U", b"V", 256)
        assert len(derive(hash_, b"k", b"L", b"U", b"V", 1024)) == 128
        assert derive(hash_, b"k", b"L", b"U", b"W", 256) != short
        assert derive(hash_, b"k", b"M", b"U", b"V", 256) != short
    assert kdfe(hash_, b"k", b"L", b"U", b"V", 1024)[:32] == kdfe(hash_, b"k", b"L", b"U", b"V", 256)

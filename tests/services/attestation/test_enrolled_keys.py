# SPDX-License-Identifier: GPL-3.0-or-later
"""Enrolled keys are compared as keys, however their documents write them."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from services.tpm.software_keys import private_key

from trusted_infrastructure.attestation.endorsement_policy import EndorsementPolicy, _usual_der
from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.config.snapshot import Snapshot, snapshot_of

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
INFO = serialization.PublicFormat.SubjectPublicKeyInfo
KINDS = ["p256", "p384", "rsa2048", "rsa3072"]


def policy(*pems: str) -> EndorsementPolicy:
    documents = [
        Document("endorsement_key", f"key-{number}", Generation(1, 1), {"public_key": pem})
        for number, pem in enumerate(pems)
    ]
    return EndorsementPolicy(Snapshot(snapshot_of("ta1", "trust_authority", 1, documents)))


def compressed(key: ec.EllipticCurvePublicKey) -> str:
    """The key with its point compressed, which is allowed and which nobody writes."""
    whole = bytearray(key.public_bytes(DER, INFO))
    size = (key.key_size + 7) // 8
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    head = whole[: -2 * size - 1]
    head[1] -= size  # of the sequence
    head[-2] -= size  # of the bit string
    text = base64.encodebytes(bytes(head) + point).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_quick_way_gives_the_bytes_of_the_long_one(kind: str) -> None:
    key = private_key(kind).public_key()
    pem = key.public_bytes(PEM, INFO).decode()
    assert _usual_der(pem) == key.public_bytes(DER, INFO)
    assert policy(pem)._enrolled == {key.public_bytes(DER, INFO)}


@pytest.mark.parametrize("kind", [*KINDS, "p224", "rsa4096"])
def test_other_ways_to_write_a_key_give_the_same(kind: str) -> None:
    key = private_key(kind).public_key()
    pem = key.public_bytes(PEM, INFO).decode()
    ways = [pem.replace("\n", "\r\n"), "\n" + pem + "\n\n", pem.rstrip()]
    if isinstance(key, ec.EllipticCurvePublicKey):
        ways.append(compressed(key))
    for way in ways:
        made = policy(way)
        assert made._enrolled == {key.public_bytes(DER, INFO)} and made.problems == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no key",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_key_is_a_problem_and_endorses_nobody(text: str) -> None:
    made = policy(text)
    assert made._enrolled == set()
    assert made.problems == ["endorsement key key-0: public_key is not a public key in PEM"]


def test_a_key_with_one_changed_byte_is_another() -> None:
    key = private_key("rsa2048").public_key()
    pem = key.public_bytes(PEM, INFO).decode()
    lines = pem.splitlines()
    lines[3] = ("A" if lines[3][0] != "A" else "B") + lines[3][1:]
    assert key.public_bytes(DER, INFO) not in policy("\n".join(lines) + "\n")._enrolled

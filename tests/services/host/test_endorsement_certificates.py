# SPDX-License-Identifier: GPL-3.0-or-later
"""EK certificates as NV storage holds them."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from services.side_authority import SideAuthority

from trusted_infrastructure.host.endorsement_certificates import certificates_in, certified_key

CERTIFICATES = [
    x509.load_pem_x509_certificate(SideAuthority(common_name=name).certificate.encode()).public_bytes(
        Encoding.DER
    )
    for name in ("root", "intermediate")
]
ONE, TWO = CERTIFICATES

DATA = {
    "exact": (ONE, [ONE]),
    "filled with zeros": (ONE + bytes(100), [ONE]),
    "filled with 0xff": (ONE + b"\xff" * 100, [ONE]),
    "two": (ONE + TWO, [ONE, TWO]),
    "two, filled": (ONE + TWO + bytes(9), [ONE, TWO]),
    "the second cut": (ONE + TWO[:-1], [ONE]),
    "cut": (ONE[:-1], []),
    "empty": (b"", []),
    "one byte": (b"\x30", []),
    "never written": (b"\xff" * 64, []),
    "a length of lengths of zero": (b"\x30\x80" + bytes(64), []),
    "a length that is too long": (b"\x30\x84\x00\x00\x00\x01x", []),
    "a length without end": (b"\x30\x83\x01", []),
    "an empty sequence": (b"\x30\x00", [b"\x30\x00"]),
}


@pytest.mark.parametrize("name", DATA)
def test_certificates_in_nv_storage(name: str) -> None:
    data, expected = DATA[name]
    assert certificates_in(data) == expected


@given(st.binary(max_size=64))
def test_any_bytes_are_survived(data: bytes) -> None:
    assert b"".join(certificates_in(data)) == data[: sum(map(len, certificates_in(data)))]


def test_the_certified_key() -> None:
    assert certified_key([]) is None
    assert certified_key([b"\x30\x00"]) is None
    key = certified_key([ONE])
    assert key is not None
    assert key.startswith("-----BEGIN PUBLIC KEY-----")

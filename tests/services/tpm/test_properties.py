# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes at all: parsers answer or refuse, and never do anything else. Also bytes that are nearly
right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.tpm import event_log_builder as build
from services.tpm.event_log_builder import EVERY_CLASS, LogBuilder, boot
from services.tpm.software_keys import (
    attestation_key,
    endorsement_key,
    genuine_attest,
    private_key,
    sign,
)
from services.tpm.vendor import EK_KEY_USAGE, EK_USAGE, root

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import uefi
from trusted_infrastructure.tpm.certificates import parse_certificate
from trusted_infrastructure.tpm.endorsement import load_certificate_authority, verify_path
from trusted_infrastructure.tpm.event_log import Event, parse_event_log, replay
from trusted_infrastructure.tpm.keys import check_attestation_key, check_endorsement_key
from trusted_infrastructure.tpm.public_area import marshal_tpmt_public, parse_tpmt_public
from trusted_infrastructure.tpm.quote import parse_quote, parse_signature, verify_signature
from trusted_infrastructure.tpm.revocation import parse_revocation_list

EK, AK = endorsement_key(), attestation_key()
ATTEST = genuine_attest(EK, AK, bytes(32), {0: bytes(32)}, [0]).marshal()
SIGNATURE = sign(private_key("p256"), AK, ATTEST)
LOG = boot(LogBuilder()).data
LEGACY_LOG = boot(LogBuilder(legacy=True)).data
ROOT = root()
AUTHORITY = load_certificate_authority("vendor", [ROOT.pem])
CERTIFICATE = ROOT.issue(
    "", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE], tpm_names=True
).der
NOW = datetime(2026, 6, 1, tzinfo=UTC)

QUICK = settings(max_examples=60, deadline=None)


def nearly(genuine: bytes) -> st.SearchStrategy[bytes]:
    """The genuine bytes with a few places overwritten, cut or grown; or anything."""
    change = st.tuples(st.integers(0, len(genuine)), st.binary(max_size=9), st.integers(0, 9))

    def apply(changes: list[tuple[int, bytes, int]]) -> bytes:
        data = genuine
        for offset, value, removed in changes:
            data = data[:offset] + value + data[offset + removed :]
        return data

    return st.one_of(st.lists(change, max_size=3).map(apply), st.binary(max_size=200))


def _public(data: bytes) -> None:
    area = parse_tpmt_public(data)
    if area.exponent != 65537 or b"\x00\x01\x00\x01" not in data:
        assert marshal_tpmt_public(area) == data
    for check in (check_endorsement_key, check_attestation_key):
        try:
            check(area)
        except Refusal:
            continue


def _log(data: bytes) -> None:
    log = parse_event_log(data)
    for bank in log.banks:
        try:
            replay(log, bank)
        except Refusal as refusal:
            assert refusal.code == "event_log_replay"
    for event in log.events:
        assert len(event.label) < 300
        assert event.decoded is None or event.description


def _certificate(data: bytes) -> None:
    verify_path(parse_certificate(data), [], [AUTHORITY], NOW)
    assert data.rstrip(b"\0\xff") == CERTIFICATE.rstrip(b"\0\xff")


def _signature(data: bytes) -> None:
    verify_signature(AK, ATTEST, parse_signature(data))
    assert data == SIGNATURE


PARSERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "RSA public area": (EK.marshalled, _public),
    "ECC public area": (AK.marshalled, _public),
    "quote": (ATTEST, parse_quote),
    "signature": (SIGNATURE, _signature),
    "event log": (LOG, _log),
    "legacy event log": (LEGACY_LOG, _log),
    "certificate": (CERTIFICATE, _certificate),
    "revocation list": (b"x", lambda data: parse_revocation_list(data.decode("latin-1"))),
    "signature database": (build.signature_list(build.SHA256, [bytes(32)]), uefi.signature_database),
}


@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    genuine, parse = PARSERS[name]

    @QUICK
    @given(nearly(genuine))
    def check(data: bytes) -> None:
        try:
            parse(data)
        except Refusal as refusal:
            assert refusal.code and refusal.message

    check()


@pytest.mark.parametrize("index", range(len(EVERY_CLASS)))
def test_any_event_data_is_described(index: int) -> None:
    pcr, kind, genuine, _measured = EVERY_CLASS[index]

    @settings(max_examples=25, deadline=None)
    @given(nearly(genuine))
    def check(data: bytes) -> None:
        event = Event(1, pcr, kind, {"sha256": bytes(32)}, data, False)
        assert event.description.isprintable()
        assert event.digest_verified("sha256") is not True

    check()


@QUICK
@given(
    st.lists(
        st.tuples(st.integers(0, 23), st.sampled_from([4, 5, 0x80000007, 0x0D]), st.binary(max_size=40)),
        max_size=12,
    ),
    st.lists(st.sampled_from(sorted(build.ALGORITHMS)), unique=True, min_size=1),
)
def test_what_is_written_is_read(events: list[tuple[int, int, bytes]], banks: list[str]) -> None:
    builder = LogBuilder(banks)
    for event in events:
        builder.add(*event)
    log = parse_event_log(builder.data)
    assert [(event.pcr, event.type, event.data) for event in log.events[1:]] == events
    for bank in banks:
        assert replay(log, bank) == builder.pcrs[bank]

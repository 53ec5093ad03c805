# SPDX-License-Identifier: GPL-3.0-or-later
"""What is fuzzed: every reader of bytes that come from outside, each as a function of bytes.

A target may raise nothing but Refusal (InvalidField is one). Where a signature would keep random bytes out,
the target signs them itself: what is behind the signature is hostile too, once a key is stolen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fuzz import parts, services_under_test, signed
from services.tpm import corpus
from services.tpm.event_log_builder import EVERY_CLASS

from trusted_infrastructure import data_keys, sealing, wrapping
from trusted_infrastructure.config import documents
from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.key_delivery import NativeProviderPush, RewrapKeys, StandardKeys
from trusted_infrastructure.manager import base_image_document
from trusted_infrastructure.manager.vapi.binding import decode_body
from trusted_infrastructure.manager.vapi.errors import InvalidArgument
from trusted_infrastructure.manager.vapi.structure import FieldError
from trusted_infrastructure.messages import (
    ChallengeRequest,
    CreateKeyRequest,
    Evidence,
    UnwrapKeyRequest,
    decode,
)
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.certificates import parse_certificate
from trusted_infrastructure.tpm.credential import make_credential
from trusted_infrastructure.tpm.endorsement import load_certificate_authority, verify_path
from trusted_infrastructure.tpm.event_log import Event, parse_event_log, replay
from trusted_infrastructure.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    endorsement_hierarchy_names,
)
from trusted_infrastructure.tpm.public_area import marshal_tpmt_public, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import check_selection, parse_quote, parse_signature, verify_signature
from trusted_infrastructure.tpm.revocation import parse_revocation_list

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KB = 1024


@dataclass(frozen=True)
class Target:
    """run: given bytes. seeds: good inputs. largest: bytes of an input, as far as the service lets it in."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    largest: int = 4 * KB


def tolerated(call: Callable[[], object]) -> None:
    """A part of a target that may refuse without ending it."""
    try:
        call()
    except Refusal as refusal:
        assert refusal.code and refusal.message


# ---- TPM structures ---------------------------------------------------------------------------------------


def public_area(data: bytes) -> None:
    area = parse_tpm2b_public(data)
    if b"\x00\x01\x00\x01" not in data:  # the default exponent, which may also be written out
        assert marshal_tpmt_public(area) == area.marshalled
    assert endorsement_hierarchy_names(area, area)
    tolerated(lambda: check_attestation_key(area))
    tolerated(lambda: verify_signature(area, parts.ATTEST, parse_signature(parts.SIGNATURE)))
    check_endorsement_key(area)
    make_credential(area, parts.AK.name, bytes(32))


def quote(data: bytes) -> None:
    check_selection(parse_quote(data), "sha256", [0, 7])


def signature(data: bytes) -> None:
    parsed = parse_signature(data)
    for ak in (parts.AK, parts.RSA_AK):
        tolerated(functools.partial(verify_signature, ak, parts.ATTEST, parsed))


# ---- event logs -------------------------------------------------------------------------------------------


def event_log(data: bytes) -> None:
    log = parse_event_log(data)
    for bank in log.banks:
        tolerated(functools.partial(replay, log, bank))
    for event in log.events:
        describe(event, log.banks)


def event_data(data: bytes) -> None:
    """The first byte chooses the class of event."""
    pcr, kind, _data, _measured = EVERY_CLASS[data[0] % len(EVERY_CLASS)] if data else EVERY_CLASS[0]
    describe(Event(1, pcr, kind, {"sha256": bytes(32)}, data[1:], False), ("sha256",))


def describe(event: Event, banks: Sequence[str]) -> None:
    assert event.description.isprintable() and len(event.label) < 400
    assert event.decoded is None or event.description
    for bank in banks:
        assert event.digest_verified(bank) in (True, False, None)
        event.measured_content(bank)


# ---- certificates -----------------------------------------------------------------------------------------


def certificate(data: bytes) -> None:
    parsed = parse_certificate(data)
    tolerated(lambda: verify_path(parsed, [parsed], [parts.AUTHORITY], NOW))
    verify_path(parts.LEAF, [parsed], [parts.AUTHORITY], NOW)


def authority(data: bytes) -> None:
    """A CA entry as an administrator imports it: PEM of these bytes, and the bytes as text."""
    tolerated(lambda: load_certificate_authority("vendor", [data.decode("latin-1")]))
    made = load_certificate_authority("vendor", [parts.VENDOR.pem, armoured(data, "CERTIFICATE")])
    verify_path(parts.LEAF, [], [made], NOW)


def revocation_list(data: bytes) -> None:
    tolerated(lambda: parse_revocation_list(data.decode("latin-1")))
    parse_revocation_list(armoured(data, "X509 CRL"))


def identity_leaf(data: bytes) -> None:
    """A certificate of our own parts, as nginx hands it on."""
    text = data.decode("latin-1") if data.startswith(b"--") else armoured(data, "CERTIFICATE")
    signed.verify_identity(text)


def armoured(data: bytes, label: str) -> str:
    import base64

    text = base64.encodebytes(data).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n"


# ---- documents, messages, keys ----------------------------------------------------------------------------


def document(data: bytes) -> None:
    """Any document of the configuration, with its kind."""
    plain = decode_json(data, documents.Document)
    content = documents.typed(plain.kind, plain.content or {})
    assert documents.content_of(content)


def base_image(data: bytes) -> None:
    """A base image as imported: any that is accepted must be able to judge a log."""
    image = documents.typed("base_image", decode_json(data, dict))
    assert isinstance(image, documents.BaseImage)
    services_under_test.judge(image)


def imported_image(data: bytes) -> None:
    """A base image as the manager's API takes it."""
    try:
        base_image_document.parse(data)
    except FieldError as error:
        assert error.field and error.reason


def manager_body(data: bytes) -> None:
    """A body of the manager's API, before any operation looks at it."""
    try:
        decode_body(data, "body")
    except InvalidArgument as error:
        assert str(error)


def messages(data: bytes) -> None:
    for kind in (ChallengeRequest, Evidence, CreateKeyRequest, UnwrapKeyRequest):
        tolerated(functools.partial(decode, data, kind))


def wrapped_key(data: bytes) -> None:
    wrapping.parse(data)
    wrapping.unwrap(bytes(32), data)


def wrapped_data_key(data: bytes) -> None:
    data_keys.unwrap(bytes(32), data_keys.parse(data))


def key_delivery_messages(data: bytes) -> None:
    """What a workload manager sends about keys."""
    for kind in (StandardKeys, NativeProviderPush, RewrapKeys):
        tolerated(functools.partial(decode_json, data, kind))


def sealed(data: bytes) -> None:
    """The first byte chooses the suite."""
    suite = sorted(sealing.SUITES)[data[0] % len(sealing.SUITES)] if data else "X25519"
    tolerated(lambda: parts.SEALING_KEYS[suite].open(data[1:], b"context"))
    sealing.check_public_key(suite, data[1:])
    sealing.seal(suite, data[1:], b"secret", b"context")


# ---- seeds ------------------------------------------------------------------------------------------------


def corpus_files(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in corpus.files(pattern) if path is not corpus.ABSENT]


def pem_files(pattern: str) -> list[bytes]:
    """DER of the certificates in the corpus's PEM files."""
    found: list[bytes] = []
    for data in corpus_files(pattern):
        try:
            loaded = x509.load_pem_x509_certificates(data)
        except ValueError:
            continue
        found += [one.public_bytes(serialization.Encoding.DER) for one in loaded]
    return found


def logs() -> list[bytes]:
    real = [data for data in corpus_files("event_logs/*") if not data.startswith(b"{")]
    return [parts.LOG, parts.LEGACY_LOG, *real]


def certificates() -> list[bytes]:
    return [
        *parts.CERTIFICATES,
        *corpus_files("ek_certificates/*.der"),
        *pem_files("tpm_vendor_cas/**/*")[:40],
    ]


TARGETS: dict[str, Target] = {
    "public_area": Target(
        public_area, lambda: [key.tpm2b() for key in (parts.EK, parts.RSA_EK, parts.AK, parts.RSA_AK)]
    ),
    "quote": Target(quote, lambda: [parts.ATTEST]),
    "signature": Target(signature, lambda: [parts.SIGNATURE, parts.RSA_SIGNATURE]),
    "event_log": Target(event_log, logs, 96 * KB),
    "event_data": Target(
        event_data, lambda: [bytes([index]) + row[2] for index, row in enumerate(EVERY_CLASS)], 8 * KB
    ),
    "certificate": Target(certificate, certificates, 16 * KB),
    "authority": Target(authority, certificates, 16 * KB),
    "identity_leaf": Target(identity_leaf, signed.identity_seeds, 8 * KB),
    "revocation_list": Target(revocation_list, lambda: parts.REVOCATION_LISTS, 16 * KB),
    "document": Target(document, services_under_test.document_texts, 32 * KB),
    "base_image": Target(base_image, services_under_test.image_texts, 32 * KB),
    "imported_image": Target(imported_image, services_under_test.image_texts, 32 * KB),
    "manager_body": Target(manager_body, services_under_test.document_texts, 32 * KB),
    "messages": Target(messages, services_under_test.bodies, 16 * KB),
    "wrapped_key": Target(wrapped_key, lambda: [parts.WRAPPED_KEY], 7 * KB),
    "wrapped_data_key": Target(wrapped_data_key, lambda: [parts.WRAPPED_DATA_KEY], 13 * KB),
    "key_delivery_messages": Target(key_delivery_messages, lambda: parts.KEY_DELIVERIES, 8 * KB),
    "sealed": Target(sealed, lambda: parts.SEALED, 4 * KB),
    "token": Target(signed.token, signed.token_seeds, 16 * KB),
    "assertion": Target(signed.assertion, signed.assertion_seeds, 16 * KB),
    "proof": Target(signed.proof, signed.proof_seeds, 16 * KB),
    "key_set": Target(signed.key_set, signed.key_set_seeds, 16 * KB),
    "challenge_route": Target(
        services_under_test.challenge_route, services_under_test.challenge_bodies, 32 * KB
    ),
    "evidence_route": Target(
        services_under_test.evidence_route, services_under_test.evidence_bodies, 64 * KB
    ),
    "attested_log": Target(services_under_test.attested_log, logs, 64 * KB),
    "attested_quote": Target(services_under_test.attested_quote, services_under_test.quotes, 1 * KB),
    "attested_claims": Target(services_under_test.attested_claims, services_under_test.claims_texts, 4 * KB),
    "key_route": Target(services_under_test.key_route, services_under_test.key_bodies, 8 * KB),
    "key_headers": Target(services_under_test.key_headers, services_under_test.key_header_texts, 8 * KB),
}


def run(name: str, data: bytes) -> str | None:
    """Give bytes to a target. The reason code where it refused; anything else escapes."""
    try:
        TARGETS[name].run(data)
    except Refusal as refusal:
        assert refusal.code and refusal.message
        assert isinstance(refusal, InvalidField) or refusal.status != 500
        # What a service answers must be text: no lone surrogates, no bytes.
        msgspec.json.encode(refusal.as_dict())
        return refusal.code
    return None

# SPDX-License-Identifier: GPL-3.0-or-later
"""Good keys, quotes, logs and certificates: what mutations begin with."""

from __future__ import annotations

import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from services.key_provider.harness import wrapped_key
from services.tpm.event_log_builder import LogBuilder, boot
from services.tpm.software_keys import attestation_key, endorsement_key, genuine_attest, private_key, sign
from services.tpm.vendor import EK_KEY_USAGE, EK_USAGE, key_usage, root

from trusted_infrastructure import data_keys, sealing
from trusted_infrastructure.key_delivery import (
    KeyRequestAnswer,
    NativeKey,
    NativeProviderPush,
    RewrapKeys,
    StandardKey,
    StandardKeys,
)
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tpm.certificates import parse_certificate
from trusted_infrastructure.tpm.endorsement import load_certificate_authority

EK, RSA_EK = endorsement_key("p256:ek"), endorsement_key("rsa2048")
AK, RSA_AK = attestation_key("p256"), attestation_key("rsa2048:ak")
ATTEST = genuine_attest(EK, AK, bytes(32), {0: bytes(32), 7: bytes(32)}, [0, 7]).marshal()
SIGNATURE = sign(private_key("p256"), AK, ATTEST)
RSA_SIGNATURE = sign(private_key("rsa2048:ak"), RSA_AK, ATTEST)
LOG = boot(LogBuilder()).data
LEGACY_LOG = boot(LogBuilder(legacy=True)).data

VENDOR = root()
_MIDDLE = VENDOR.issue("middle", private_key("p256:middle"), usage=key_usage(key_cert_sign=True))
_LEAF = _MIDDLE.issue("", private_key("rsa2048"), ca=False, usage=EK_KEY_USAGE, extended=[EK_USAGE])
AUTHORITY = load_certificate_authority("vendor", [VENDOR.pem])
LEAF = parse_certificate(_LEAF.der)
CERTIFICATES = [VENDOR.der, _MIDDLE.der, _LEAF.der, _LEAF.der + b"\xff" * 100]


def _revocation_list(entries: int) -> bytes:
    day = datetime.timedelta(days=1)
    now = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(VENDOR.subject)
    builder = builder.last_update(now - day).next_update(now + day)
    builder = builder.add_extension(x509.CRLNumber(7), critical=False)
    for serial in range(1, entries + 1):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - day)
        builder = builder.add_revoked_certificate(revoked.build())
    made = builder.sign(VENDOR.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


REVOCATION_LISTS = [_revocation_list(0), _revocation_list(3)]
WRAPPED_KEY = wrapped_key()
WRAPPED_DATA_KEY = data_keys.wrap(
    bytes(32),
    data_keys.DataKeyHeader(
        type="TRUSTED",
        provider="finance",
        key_id="6f6a1f6e-6f0d-4f3a-9d5e-0d3f3c1f8f10",
        object_id="vm-1",
        component="Virtual Machine",
        kek_id="kek-1",
        kek_reference=WRAPPED_KEY,
        salt=bytes(32),
    ),
    bytes(32),
)
KEY_DELIVERIES = [
    msgspec.json.encode(message)
    for message in (
        StandardKeys(
            instance="0" * 32,
            keys=[StandardKey(provider="store", key_id="1", sealed_key=bytes(80))],
            answers=[KeyRequestAnswer(id="a", key_id="1")],
        ),
        NativeProviderPush(
            instance="0" * 32,
            provider="branch",
            key_id="1",
            tpm_required=True,
            keys=[NativeKey(key_id="1", sealed_key=bytes(80), check_value="0" * 64)],
        ),
        RewrapKeys(provider="store", target="branch", object_ids=["vm-1"], key_ids=["a"]),
    )
]
SEALING_KEYS = {suite: SealingKey.generate(suite) for suite in sealing.SUITES}
SEALED = [
    bytes([index]) + part
    for index, suite in enumerate(sorted(sealing.SUITES))
    for part in (
        SEALING_KEYS[suite].public_bytes(),
        sealing.seal(suite, SEALING_KEYS[suite].public_bytes(), bytes(32), b"context"),
    )
]

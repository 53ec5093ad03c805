# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent tells a manager about this host's TPM: properties, endorsement keys, event log, base image.

Binary values are base64; TPM2B structures have their size prefix. Banks are hash names with PCR numbers
(decimal text, JSON has no integer keys) and values (hex).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from trusted_infrastructure.base_images import BANKS, DEFAULT_PCRS, REQUIRED_PCRS, capture
from trusted_infrastructure.config.documents import BaseImage
from trusted_infrastructure.host.tpm_values import EndorsementKey, EndorsementKeyType
from trusted_infrastructure.host.tpm_worker import Tpm
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tpm.event_log import parse_event_log, replay
from trusted_infrastructure.tpm.public_area import ek_digest, parse_tpm2b_public
from trusted_infrastructure.tpm.structures import tpm2b

TPM_ID = "tpm0"
EVENT_LOG_TYPE = "EFI_TCG2_EVENT_LOG_FORMAT_TCG_2"


def properties(tpm: Tpm) -> dict[str, Any]:
    """Answer of GET tpm: what the TPM is, and all its PCRs."""
    found = tpm.properties()
    banks = {bank: _hex(tpm.read_pcrs(bank, pcrs)) for bank, pcrs in found.banks.items()}
    answer: dict[str, Any] = {"tpm": TPM_ID, "active": True, **msgspec.to_builtins(found), "banks": banks}
    return answer


def endorsement_keys(tpm: Tpm, identity: EndorsementKeyType) -> dict[str, Any]:
    """Answer of GET tpm/endorsement-keys. identity: type of the key that this host attests with."""
    return {
        "endorsement_keys": [_endorsement_key(key, key.type == identity) for key in tpm.endorsement_keys()]
    }


def event_log(data: bytes) -> dict[str, Any]:
    """Answer of GET tpm/event-log: the log, and the PCRs that it leads to. Raises Refusal for a bad log."""
    log = parse_event_log(_present(data))
    return {
        "type": EVENT_LOG_TYPE,
        "data": _base64(data),
        "truncated": False,
        "banks": {bank: _hex(replay(log, bank)) for bank in log.banks},
    }


def base_image(
    tpm: Tpm, data: bytes, image_version: str | None, display_name: str | None, default_name: str
) -> BaseImage:
    """A base image of the state that this host is in. data: its event log.

    image_version: None makes one from the reference values, so that hosts that booted the same get the same.
    """
    log = parse_event_log(_present(data))
    active = tpm.properties().banks
    bank = next((bank for bank in BANKS if bank in active and bank in log.banks), None)
    if bank is None:
        raise Refusal(
            "event_log_replay",
            f"no bank of {', '.join(BANKS)} is both active in the TPM ({', '.join(active)}) and in the event "
            f"log ({', '.join(log.banks)})",
            "activate the SHA-256 bank in the firmware setup",
            status=409,
        )
    values = tpm.read_pcrs(bank, sorted({*DEFAULT_PCRS, *REQUIRED_PCRS}))
    image = capture(
        log,
        values,
        bank=bank,
        image_version=image_version or "captured",
        display_name=display_name or default_name,
    )
    if image_version is None:
        image = msgspec.structs.replace(image, image_version=f"captured-{_content_digest(image)[:16]}")
    try:
        return msgspec.convert(msgspec.to_builtins(image), BaseImage)
    except msgspec.ValidationError as error:
        reason, _separator, field = str(error).partition(" - at `$.")
        raise InvalidField(field.rstrip("`"), reason) from None


def _endorsement_key(key: EndorsementKey, identity: bool) -> dict[str, Any]:
    area = parse_tpm2b_public(key.public, "ek_public")
    return {
        "key": ek_digest(area),
        "type": key.type,
        "identity": identity,
        "public_area": _base64(key.public),
        "ek_digest": ek_digest(area),
        "name": _base64(tpm2b(key.name)),
        "qualified_name": _base64(tpm2b(key.qualified_name)),
        "public_key": area.subject_public_key_info(),
        "certificate": _pem(key.certificates[0]) if key.certificates else None,
        "manufacturer_certificate_uri": _issuer_uri(key.certificates),
        "manufacturer_certificates": [_pem(certificate) for certificate in key.certificates[1:]],
    }


def _issuer_uri(certificates: Sequence[bytes]) -> str | None:
    """Where the EK certificate says that its issuer's certificate is (RFC 5280, 4.2.2.1)."""
    if not certificates:
        return None
    try:
        extensions = x509.load_der_x509_certificate(certificates[0]).extensions
        access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    for description in access:
        location = description.access_location
        if description.access_method == AuthorityInformationAccessOID.CA_ISSUERS:
            if isinstance(location, x509.UniformResourceIdentifier):
                return location.value
    return None


def _pem(certificate: bytes) -> str:
    """PEM by hand: a certificate that `cryptography` does not parse is shown as well."""
    text = base64.encodebytes(certificate).decode("ascii").replace("\n", "")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _content_digest(image: BaseImage) -> str:
    values = msgspec.json.encode([image.bank, image.pcrs, image.userspace], order="sorted")
    return hashlib.sha256(values).hexdigest()


def _present(data: bytes) -> bytes:
    if not data:
        raise Unavailable(
            "event_log_missing",
            "the firmware's event log could not be read when the agent started",
            "check the agent's setting event_log, and that the firmware provides a TCG event log",
        )
    return data


def _hex(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(pcr): value.hex() for pcr, value in sorted(values.items())}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

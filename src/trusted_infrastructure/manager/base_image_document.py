# SPDX-License-Identifier: GPL-3.0-or-later
"""A base image document as it is imported: what vSphere calls imgdb. Pure; refusals name the field."""

from __future__ import annotations

import re

import msgspec

from trusted_infrastructure.config.documents import BaseImage, ReferencePcr
from trusted_infrastructure.manager.vapi.structure import FieldError, check_name, field_error

HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
FIELD = "imgdb"


def parse(data: bytes) -> BaseImage:
    """The document in an import. data: JSON. Raises FieldError below "imgdb"."""
    try:
        image = msgspec.json.decode(data, type=BaseImage)
    except msgspec.ValidationError as error:
        found = field_error(error)
        raise FieldError(f"{FIELD}.{found.field}".rstrip("."), found.reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FieldError(FIELD, "is not a base image document: no JSON") from None
    check_name(f"{FIELD}.image_version", image.image_version)
    if not image.pcrs:
        raise FieldError(f"{FIELD}.pcrs", "must have reference values of at least one PCR")
    for number, reference in image.pcrs.items():
        check_reference(f"{FIELD}.pcrs.{number}", reference, HEX_DIGITS[image.bank])
    return image


def check_reference(field: str, reference: ReferencePcr, digits: int) -> None:
    """Exactly one way of appraisal, with digests of the image's bank. Raises FieldError."""
    if (reference.value is None) == (reference.events is None):
        raise FieldError(field, "must have exactly one of value and events")
    if reference.value is not None:
        check_digest(f"{field}.value", reference.value, digits)
    if reference.events is not None and not reference.events:
        raise FieldError(f"{field}.events", "must not be empty")
    for position, expected in enumerate(reference.events or []):
        check_digest(f"{field}.events[{position}].digest", expected.digest, digits)


def check_digest(field: str, digest: str, digits: int) -> None:
    """Raises FieldError."""
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", digest):
        raise FieldError(field, f"must have {digits} lower-case hexadecimal digits")

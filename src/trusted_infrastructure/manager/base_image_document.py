# SPDX-License-Identifier: GPL-3.0-or-later
"""A base image document as it is imported: what vSphere calls imgdb. Pure; refusals name the field."""

from __future__ import annotations

import msgspec

from trusted_infrastructure.base_images import check_image
from trusted_infrastructure.config.documents import BaseImage
from trusted_infrastructure.json_names import repeated_name
from trusted_infrastructure.manager.vapi.structure import FieldError, check_name, field_error
from trusted_infrastructure.refusal import InvalidField

FIELD = "imgdb"


def parse(data: bytes, base: str = FIELD) -> BaseImage:
    """The document in an import. data: JSON. Raises FieldError below `base`, the field that it came in."""
    try:
        image, repeated = msgspec.json.decode(data, type=BaseImage), repeated_name(data)
    except msgspec.ValidationError as error:
        found = field_error(error)
        raise FieldError(f"{base}.{found.field}".rstrip("."), found.reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FieldError(base, "is not a base image document: no JSON") from None
    if repeated is not None:
        raise FieldError(base, f"has {repeated[:64]!r} more than once")
    check_name(f"{base}.image_version", image.image_version)
    try:
        check_image(image)
    except InvalidField as invalid:
        raise FieldError(
            f"{base}.{invalid.field}", invalid.message.removeprefix(f"{invalid.field}: ")
        ) from None
    return image

# SPDX-License-Identifier: GPL-3.0-or-later
"""Vendor attributes (KMIP 1.x section 3.36): what PyKMIP's server lacks of them.

Their names begin with "x-"; their values here are short texts, one for each name. KMIP 1.1 to 1.4 encode them
alike: Attribute { Attribute Name, Attribute Index (0 where left out), Attribute Value (Text String) }.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from kmip.core import exceptions, objects
from kmip.core.attributes import CustomAttribute
from kmip.core.factories.payloads.request import RequestPayloadFactory
from kmip.core.factories.payloads.response import ResponsePayloadFactory
from kmip.core.messages import payloads
from kmip.pie import sqltypes

PREFIX = "x-"
MAX_NAME = 255
MAX_VALUE = 1024


class VendorAttribute(sqltypes.Base):
    """One vendor attribute of a managed object."""

    __tablename__ = "vendor_attributes"
    uid = sqlalchemy.Column("uid", sqlalchemy.Integer, primary_key=True, autoincrement=False)
    name = sqlalchemy.Column("name", sqlalchemy.String, primary_key=True)
    value = sqlalchemy.Column("value", sqlalchemy.String, nullable=False)


class AddAttributeRequestPayload(payloads.ModifyAttributeRequestPayload):
    """KMIP 1.x section 4.14: unique identifier and attribute, encoded like Modify Attribute (4.15)."""


class AddAttributeResponsePayload(payloads.ModifyAttributeResponsePayload):
    """The attribute as it was added."""


def know_add_attribute() -> None:
    """Tell PyKMIP's message parser of the operation that it does not know."""
    RequestPayloadFactory._create_add_attribute_payload = lambda _factory: AddAttributeRequestPayload()
    ResponsePayloadFactory._create_add_attribute_payload = lambda _factory: AddAttributeResponsePayload()


def is_vendor(attribute: Any) -> bool:
    """Whether a KMIP 1.x Attribute (None in messages of KMIP 2.0) is a vendor attribute."""
    return attribute is not None and attribute.attribute_name.value.startswith(PREFIX)


def name_and_value(attribute: Any) -> tuple[str, str]:
    """Both of a vendor attribute. Raises InvalidField for one that cannot be stored."""
    name, value = attribute.attribute_name.value, attribute.attribute_value.value
    if not name.startswith(PREFIX):
        raise exceptions.InvalidField(f"The attribute {name[:64]} cannot be added.")
    if not isinstance(value, str) or len(value) > MAX_VALUE or len(name) > MAX_NAME:
        raise exceptions.InvalidField(f"The attribute {name[:64]} is not a short text.")
    if attribute.attribute_index is not None and attribute.attribute_index.value != 0:
        raise exceptions.InvalidField(f"The attribute {name} has one value, with index 0.")
    return name, value


def kmip_attribute(name: str, value: str) -> Any:
    """A vendor attribute for a message."""
    return objects.Attribute(
        attribute_name=objects.Attribute.AttributeName(name), attribute_value=CustomAttribute(value)
    )

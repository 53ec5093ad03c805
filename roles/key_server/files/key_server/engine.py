# SPDX-License-Identifier: GPL-3.0-or-later
"""KMIP operations: PyKMIP's engine, and what it lacks.

Vendor attributes (KMIP 1.x section 3.36, names that begin with "x-") can be given to Create, Register and
AddAttribute, and come with Get Attributes. They are text. Servers of one provider replicate keys, so a key
must have one id on all of them: an administrator may ask for an id by the vendor attribute REQUESTED_ID.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from kmip.core import enums, exceptions, objects
from kmip.core.attributes import CustomAttribute
from kmip.core.factories.payloads.request import RequestPayloadFactory
from kmip.core.factories.payloads.response import ResponsePayloadFactory
from kmip.core.messages import payloads
from kmip.pie import objects as pie_objects
from kmip.pie import sqltypes
from kmip.services.server.engine import KmipEngine

VENDOR_PREFIX = "x-"
REQUESTED_ID = "x-Requested-Unique-Identifier"
MAX_VALUE = 1024

# Without it SQLAlchemy compiles every statement anew: half the server's speed.
sqltypes.EnumType.cache_ok = True
sqltypes.UsageMaskType.cache_ok = True


class VendorAttribute(sqltypes.Base):
    """One vendor attribute of a managed object."""

    __tablename__ = "vendor_attributes"
    uid = sqlalchemy.Column("uid", sqlalchemy.Integer, primary_key=True, autoincrement=False)
    name = sqlalchemy.Column("name", sqlalchemy.String, primary_key=True)
    value = sqlalchemy.Column("value", sqlalchemy.String, nullable=False)


class AddAttributeRequestPayload(payloads.ModifyAttributeRequestPayload):
    """KMIP 1.x section 4.14: unique identifier and attribute, encoded like Modify Attribute."""


class AddAttributeResponsePayload(payloads.ModifyAttributeResponsePayload):
    """The attribute as it was added."""


def know_add_attribute() -> None:
    """Tell PyKMIP's message parser of the operation that it does not know."""
    RequestPayloadFactory._create_add_attribute_payload = lambda _factory: AddAttributeRequestPayload()
    ResponsePayloadFactory._create_add_attribute_payload = lambda _factory: AddAttributeResponsePayload()


class Engine(KmipEngine):
    """PyKMIP's engine with vendor attributes. Requests are processed one at a time (PyKMIP's lock)."""

    def __init__(self, policies: dict[str, Any], database_path: str, administrators: list[str]) -> None:
        """administrators: common names of the clients that may ask for an id."""
        know_add_attribute()
        super().__init__(policies=policies, database_path=database_path)
        self._administrators = frozenset(administrators)
        self._vendor: dict[str, str] = {}

    def _process_operation(self, operation: Any, payload: Any) -> Any:
        self._vendor = {}
        if operation == enums.Operation.ADD_ATTRIBUTE:
            return self._process_add_attribute(payload)
        return super()._process_operation(operation, payload)

    def _process_create(self, payload: Any) -> Any:
        return self._with_vendor_attributes(super()._process_create(payload))

    def _process_register(self, payload: Any) -> Any:
        return self._with_vendor_attributes(super()._process_register(payload))

    def _process_destroy(self, payload: Any) -> Any:
        answer = super()._process_destroy(payload)
        uid = int(answer.unique_identifier.value)
        self._data_session.query(VendorAttribute).filter(VendorAttribute.uid == uid).delete()
        self._data_session.commit()
        return answer

    def _process_locate(self, payload: Any) -> Any:
        # PyKMIP answers with every object when it does not know the attribute.
        for attribute in payload.attributes or []:
            if attribute.attribute_name.value.startswith(VENDOR_PREFIX):
                raise exceptions.InvalidField("Objects cannot be located by a vendor attribute.")
        return super()._process_locate(payload)

    def _process_add_attribute(self, payload: Any) -> Any:
        uid = payload.unique_identifier or self._id_placeholder
        managed_object = self._get_object_with_access_controls(uid, enums.Operation.ADD_ATTRIBUTE)
        name, value = _vendor_attribute(payload.attribute)
        if self._data_session.get(VendorAttribute, (managed_object.unique_identifier, name)) is not None:
            raise exceptions.InvalidField(f"The attribute {name} has a value already.")
        self._store(managed_object.unique_identifier, {name: value})
        return AddAttributeResponsePayload(unique_identifier=str(uid), attribute=payload.attribute)

    def _process_template_attribute(self, template_attribute: Any) -> Any:
        """Take the vendor attributes out; PyKMIP refuses them."""
        known = []
        for attribute in template_attribute.attributes:
            if not attribute.attribute_name.value.startswith(VENDOR_PREFIX):
                known.append(attribute)
                continue
            name, value = _vendor_attribute(attribute)
            if name in self._vendor:
                raise exceptions.InvalidField(f"The attribute {name} is there twice.")
            self._vendor[name] = value
        template_attribute.attributes = known
        return super()._process_template_attribute(template_attribute)

    def _set_attributes_on_managed_object(self, managed_object: Any, attributes: Any) -> None:
        """The last step before the object is stored: the place to give it the id that was asked for."""
        super()._set_attributes_on_managed_object(managed_object, attributes)
        requested = self._vendor.pop(REQUESTED_ID, None)
        if requested is None:
            return
        if self._client_identity[0] not in self._administrators:
            raise exceptions.PermissionDenied("Only an administrator may ask for an id.")
        if not requested.isascii() or not requested.isdigit() or not 0 < int(requested) < 2**62:
            raise exceptions.InvalidField("The id that is asked for must be a positive number.")
        if self._data_session.get(pie_objects.ManagedObject, int(requested)) is not None:
            raise exceptions.InvalidField("An object with the id that is asked for exists.")
        # PyKMIP's Destroy leaves the row of the key's own table; KMIP never uses an id again.
        table = pie_objects.SymmetricKey.__table__
        if self._data_session.execute(table.select().where(table.c.uid == int(requested))).first():
            raise exceptions.InvalidField("The object with the id that is asked for was destroyed.")
        managed_object.unique_identifier = int(requested)

    def _get_attributes_from_managed_object(self, managed_object: Any, attr_names: Any) -> Any:
        found = super()._get_attributes_from_managed_object(managed_object, attr_names)
        stored = self._data_session.query(VendorAttribute).filter(
            VendorAttribute.uid == managed_object.unique_identifier
        )
        for vendor in stored.order_by(VendorAttribute.name):
            if not attr_names or vendor.name in attr_names:
                found.append(
                    objects.Attribute(
                        attribute_name=objects.Attribute.AttributeName(vendor.name),
                        attribute_value=CustomAttribute(vendor.value),
                    )
                )
        return found

    def _with_vendor_attributes(self, answer: Any) -> Any:
        self._store(int(answer.unique_identifier), self._vendor)
        return answer

    def _store(self, uid: int, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            self._data_session.add(VendorAttribute(uid=uid, name=name, value=value))
        self._data_session.commit()


def _vendor_attribute(attribute: Any) -> tuple[str, str]:
    name, value = attribute.attribute_name.value, attribute.attribute_value.value
    if not name.startswith(VENDOR_PREFIX):
        raise exceptions.InvalidField(f"The attribute {name} cannot be added.")
    if not isinstance(value, str) or len(value) > MAX_VALUE or len(name) > 255:
        raise exceptions.InvalidField(f"The attribute {name[:64]} is not a short text.")
    return name, value

# SPDX-License-Identifier: GPL-3.0-or-later
"""KMIP operations: PyKMIP's engine, and what it lacks.

- Vendor attributes can be given to Create, Register, AddAttribute and ModifyAttribute, and come with
  GetAttributes and GetAttributeList.
- A destroyed object loses its key for good; its attributes stay, so that clients can see what became of it
  (KMIP 1.x section 4.21 allows it).
- Servers of one provider replicate (replication.py), so an object has one id on all of them: each server
  gives ids of its own, and an administrator may ask for an id by the vendor attribute REQUESTED_ID.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy
from kmip.core import attributes as kmip_attributes
from kmip.core import enums, exceptions
from kmip.core.messages import payloads
from kmip.pie import sqltypes
from kmip.services.server.engine import KmipEngine

from . import text_strings
from .journal import DESTROYED, MAX_SERVERS, Journal
from .vendor_attributes import (
    PREFIX,
    AddAttributeResponsePayload,
    VendorAttribute,
    is_vendor,
    kmip_attribute,
    know_add_attribute,
    name_and_value,
)

_READING = frozenset(
    {
        enums.Operation.GET,
        enums.Operation.GET_ATTRIBUTES,
        enums.Operation.GET_ATTRIBUTE_LIST,
        enums.Operation.LOCATE,
        enums.Operation.QUERY,
        enums.Operation.DISCOVER_VERSIONS,
    }
)
_ADMINISTRATION = frozenset({enums.Operation.GET_ATTRIBUTES, enums.Operation.REVOKE, enums.Operation.DESTROY})
REQUESTED_ID = "x-Requested-Unique-Identifier"
# Ids that administrators ask for are small numbers; those that servers give begin here.
FIRST_GIVEN_ID = 100_000

# Without it SQLAlchemy compiles every statement anew: half the server's speed.
sqltypes.EnumType.cache_ok = True
sqltypes.UsageMaskType.cache_ok = True


class Engine(KmipEngine):
    """PyKMIP's engine. Requests are processed one at a time (PyKMIP's lock, which the journal shares)."""

    def __init__(
        self, policies: dict[str, Any], database_path: str, administrators: list[str], number: int = 0
    ) -> None:
        """administrators: common names of the clients that may ask for an id.

        number: of this server, below MAX_SERVERS and another one than its peers'."""
        know_add_attribute()
        text_strings.repair()
        super().__init__(policies=policies, database_path=database_path)
        # What PyKMIP logs of a failure would hold the statement's parameters: key bytes.
        self._data_store.hide_parameters = True
        self._data_store.dispose()
        sqlalchemy.event.listen(self._data_store, "connect", _overwrite_what_is_deleted)
        self._administrators = frozenset(administrators)
        self._number = number
        self._vendor: dict[str, str] = {}
        self._last_id = 0
        self.journal = Journal(self._data_store, self._lock, number)
        self.forward: Callable[[], None] = lambda: None

    def process_request(self, request: Any, credential: Any = None) -> Any:
        """Process a request; what it changed goes to the other servers (`forward`) before it is answered.

        The engine's lock is free then: servers that wait for each other must not hold each other up."""
        done = super().process_request(request, credential)
        if any(item.operation.value not in _READING for item in request.batch_items):
            self.forward()
        return done

    def is_administrator(self, name: str) -> bool:
        """Whether a client, by its common name, is another key server."""
        return name in self._administrators

    def _is_allowed_by_operation_policy(
        self, policy_name: str, session_identity: Any, owner: str, object_type: Any, operation: Any
    ) -> bool:
        """An administrator may end the life of any key, but not read it."""
        if operation in _ADMINISTRATION and self.is_administrator(session_identity[0]):
            return True
        return bool(
            super()._is_allowed_by_operation_policy(
                policy_name, session_identity, owner, object_type, operation
            )
        )

    def _process_operation(self, operation: Any, payload: Any) -> Any:
        self._vendor = {}
        if operation == enums.Operation.ADD_ATTRIBUTE:
            return self._process_add_attribute(payload)
        return super()._process_operation(operation, payload)

    def _process_create(self, payload: Any) -> Any:
        return self._with_vendor_attributes(super()._process_create(payload))

    def _process_register(self, payload: Any) -> Any:
        return self._with_vendor_attributes(super()._process_register(payload))

    def _process_get(self, payload: Any) -> Any:
        uid = payload.unique_identifier or self._id_placeholder
        _refuse_destroyed(self._get_object_with_access_controls(uid, enums.Operation.GET))
        return super()._process_get(payload)

    def _process_revoke(self, payload: Any) -> Any:
        found = self._addressed(payload, enums.Operation.REVOKE)
        if getattr(found, "state", None) is enums.State.DESTROYED_COMPROMISED:
            _refuse_destroyed(found)
        return super()._process_revoke(payload)

    def _process_destroy(self, payload: Any) -> Any:
        found = self._addressed(payload, enums.Operation.DESTROY)
        if not hasattr(found, "state"):
            return super()._process_destroy(payload)
        _refuse_destroyed(found)
        if found.state is enums.State.ACTIVE:
            raise exceptions.PermissionDenied("The object is active and cannot be destroyed.")
        compromised = found.state is enums.State.COMPROMISED
        found.state = enums.State.DESTROYED_COMPROMISED if compromised else enums.State.DESTROYED
        found.value = b""
        self._data_session.commit()
        uid = str(found.unique_identifier)
        return payloads.DestroyResponsePayload(unique_identifier=kmip_attributes.UniqueIdentifier(uid))

    def _process_locate(self, payload: Any) -> Any:
        # PyKMIP answers with every object when it does not know the attribute.
        for attribute in payload.attributes or []:
            if attribute.attribute_name.value.startswith(PREFIX):
                raise exceptions.InvalidField("Objects cannot be located by a vendor attribute.")
        return super()._process_locate(payload)

    def _process_add_attribute(self, payload: Any) -> Any:
        """KMIP 1.x section 4.14. Other than vendor attributes are refused."""
        uid, name, value, stored = self._vendor_attribute(payload, enums.Operation.ADD_ATTRIBUTE)
        if stored is not None:
            raise exceptions.InvalidField(f"The attribute {name} has a value already.")
        self._store(uid, {name: value})
        return AddAttributeResponsePayload(unique_identifier=str(uid), attribute=payload.attribute)

    def _process_modify_attribute(self, payload: Any) -> Any:
        """KMIP 1.x section 4.15. Other than vendor attributes are PyKMIP's."""
        if not is_vendor(payload.attribute):
            return super()._process_modify_attribute(payload)
        uid, name, value, stored = self._vendor_attribute(payload, enums.Operation.MODIFY_ATTRIBUTE)
        if stored is None:
            raise exceptions.ItemNotFound(f"The attribute {name} has no value to modify.")
        stored.value = value
        self._data_session.commit()
        return payloads.ModifyAttributeResponsePayload(
            unique_identifier=str(uid), attribute=payload.attribute
        )

    def _process_delete_attribute(self, payload: Any) -> Any:
        # A deletion would come back from a server that has not seen it.
        if (getattr(payload, "attribute_name", None) or "").startswith(PREFIX):
            raise exceptions.InvalidField("A vendor attribute can be modified, not deleted.")
        return super()._process_delete_attribute(payload)

    def _process_template_attribute(self, template_attribute: Any) -> Any:
        """Take the vendor attributes out; PyKMIP refuses them."""
        known = []
        for attribute in template_attribute.attributes:
            if not is_vendor(attribute):
                known.append(attribute)
                continue
            name, value = name_and_value(attribute)
            if name in self._vendor:
                raise exceptions.InvalidField(f"The attribute {name} is there twice.")
            self._vendor[name] = value
        template_attribute.attributes = known
        return super()._process_template_attribute(template_attribute)

    def _set_attributes_on_managed_object(self, managed_object: Any, attributes: Any) -> None:
        """The last step before the object is stored: the place to give it an id."""
        super()._set_attributes_on_managed_object(managed_object, attributes)
        requested = self._vendor.pop(REQUESTED_ID, None)
        managed_object.unique_identifier = self._next_id() if requested is None else self._checked(requested)

    def _next_id(self) -> int:
        """Never used before, and never given by another server: ids of each have a remainder of their own."""
        used = max(self._last_id, self.journal.highest_id())
        self._last_id = max(used + 1, FIRST_GIVEN_ID)
        self._last_id += (self._number - self._last_id) % MAX_SERVERS
        return self._last_id

    def _checked(self, requested: str) -> int:
        if self._client_identity[0] not in self._administrators:
            raise exceptions.PermissionDenied("Only an administrator may ask for an id.")
        if not requested.isascii() or not requested.isdigit() or not 0 < int(requested) < 2**62:
            raise exceptions.InvalidField("The id that is asked for must be a positive number.")
        if self.journal.knows(int(requested)):
            raise exceptions.InvalidField("An object with the id that is asked for exists.")
        return int(requested)

    def _get_attributes_from_managed_object(self, managed_object: Any, attr_names: Any) -> Any:
        found = super()._get_attributes_from_managed_object(managed_object, attr_names)
        stored = self._data_session.query(VendorAttribute).filter(
            VendorAttribute.uid == managed_object.unique_identifier
        )
        for vendor in stored.order_by(VendorAttribute.name):
            if not attr_names or vendor.name in attr_names:
                found.append(kmip_attribute(vendor.name, vendor.value))
        return found

    def _addressed(self, payload: Any, operation: Any) -> Any:
        """The object of an operation whose payload has a structured identifier."""
        uid = payload.unique_identifier.value if payload.unique_identifier else self._id_placeholder
        return self._get_object_with_access_controls(uid, operation)

    def _vendor_attribute(self, payload: Any, operation: Any) -> tuple[int, str, str, Any]:
        """The object's id, the attribute's name and new value, and its stored row or None."""
        uid = payload.unique_identifier or self._id_placeholder
        found = int(self._get_object_with_access_controls(uid, operation).unique_identifier)
        name, value = name_and_value(payload.attribute)
        return found, name, value, self._data_session.get(VendorAttribute, (found, name))

    def _with_vendor_attributes(self, answer: Any) -> Any:
        self._store(int(answer.unique_identifier), self._vendor)
        return answer

    def _store(self, uid: int, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            self._data_session.add(VendorAttribute(uid=uid, name=name, value=value))
        self._data_session.commit()


def _refuse_destroyed(found: Any) -> None:
    state = getattr(found, "state", None)
    if state is not None and state.value >= DESTROYED:
        raise exceptions.IllegalOperation("The object was destroyed.")


def _overwrite_what_is_deleted(connection: Any, _record: Any) -> None:
    """A destroyed key must not stay in the pages of the database that it occupied."""
    connection.execute("PRAGMA secure_delete = ON")

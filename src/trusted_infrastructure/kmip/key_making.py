# SPDX-License-Identifier: GPL-3.0-or-later
"""KMIP operations by which keys are made and put to use, over a `Session`. docs/protocol.md 7.5.

Sources: KMIP 1.1-1.4 Specification, sections 4.1 (Create), 4.14 (Add Attribute), 4.15 (Modify Attribute),
4.19 (Activate), 4.20 (Revoke), 4.21 (Destroy), 3.36 (custom attributes: text, name begins with "x-").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmip.core import enums, objects
from kmip.core.attributes import CustomAttribute, UniqueIdentifier
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.factories.payloads.response import ResponsePayloadFactory
from kmip.core.messages import payloads

from trusted_infrastructure.kmip.session import VENDOR_PREFIX, KeyServerRefusal, Session
from trusted_infrastructure.refusal import InvalidField

KEY_BITS = 256
# What a server may be asked to keep in one vendor attribute, characters.
MAX_VALUE = 255
_USES = (
    enums.CryptographicUsageMask.ENCRYPT,
    enums.CryptographicUsageMask.DECRYPT,
    enums.CryptographicUsageMask.WRAP_KEY,
    enums.CryptographicUsageMask.UNWRAP_KEY,
)


# PyKMIP makes an answer's payload by a method of this name for each operation, and lacks this one. In KMIP
# 1.x, Add Attribute has the fields of Modify Attribute.
if "_create_add_attribute_payload" not in vars(ResponsePayloadFactory):
    ResponsePayloadFactory._create_add_attribute_payload = lambda _factory: (
        payloads.ModifyAttributeResponsePayload()
    )


def create_key(session: Session, vendor: Mapping[str, str]) -> str:
    """Let the server make an AES-256 key with these vendor attributes; its id. It is not active yet.

    Raises KeyServerFailure, after which a key may have been made whose id nobody knows; KeyServerRefusal;
    InvalidField.
    """
    make = AttributeFactory().create_attribute
    attributes = [
        make(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
        make(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, KEY_BITS),
        make(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, list(_USES)),
        *(vendor_attribute(name, value) for name, value in vendor.items()),
    ]
    payload = session.call(
        enums.Operation.CREATE,
        payloads.CreateRequestPayload(
            enums.ObjectType.SYMMETRIC_KEY, objects.TemplateAttribute(attributes=attributes)
        ),
    )
    return session.taken_apart(lambda: _made_key(payload))


def activate(session: Session, key_id: str) -> None:
    """Make a key usable. Raises KeyServerFailure or KeyServerRefusal."""
    _about(session, key_id, enums.Operation.ACTIVATE, payloads.ActivateRequestPayload(_identifier(key_id)))


def discard(session: Session, key_id: str) -> None:
    """Destroy a key that was just made and that nothing was encrypted with.

    Raises KeyServerFailure or KeyServerRefusal.
    """
    destroy = payloads.DestroyRequestPayload(_identifier(key_id))
    try:
        _about(session, key_id, enums.Operation.DESTROY, destroy)
    except KeyServerRefusal as refusal:
        if refusal.reason == "ITEM_NOT_FOUND":
            return
        # An active key is not destroyed before it is revoked.
        code = objects.RevocationReason(enums.RevocationReasonCode.CESSATION_OF_OPERATION)
        revoke = payloads.RevokeRequestPayload(_identifier(key_id), code)
        _about(session, key_id, enums.Operation.REVOKE, revoke)
        _about(session, key_id, enums.Operation.DESTROY, destroy)


def set_vendor_attributes(session: Session, key_id: str, wanted: Mapping[str, str]) -> None:
    """Let the key have these vendor attributes: what it lacks is added, what differs is modified.

    Raises KeyServerFailure, KeyServerRefusal, InvalidField.
    """
    made = {name: vendor_attribute(name, value) for name, value in wanted.items()}
    found = session.attributes(key_id, tuple(wanted)).vendor
    for name, value in wanted.items():
        if found.get(name) == value:
            continue
        add, modify = enums.Operation.ADD_ATTRIBUTE, enums.Operation.MODIFY_ATTRIBUTE
        request = payloads.ModifyAttributeRequestPayload(key_id, made[name])
        _about(session, key_id, modify if name in found else add, request)


def vendor_attribute(name: str, value: str) -> Any:
    """A vendor attribute of PyKMIP's type. Raises InvalidField."""
    if not name.startswith(VENDOR_PREFIX) or len(name) > MAX_VALUE:
        raise InvalidField("name", f"{name[:64]!r} is not the name of a vendor attribute (x-...)")
    if not value or len(value) > MAX_VALUE or not value.isprintable():
        raise InvalidField(name, f"must have 1 to {MAX_VALUE} characters that can be printed")
    return objects.Attribute(
        attribute_name=objects.Attribute.AttributeName(name), attribute_value=CustomAttribute(value)
    )


def _about(session: Session, key_id: str, operation: Any, request: Any) -> None:
    payload = session.call(operation, request)
    session.taken_apart(lambda: _check_same(payload, key_id))


def _made_key(payload: Any) -> str:
    if payload.object_type is not enums.ObjectType.SYMMETRIC_KEY:
        raise ValueError("another kind of object than the one asked for")
    key_id = payload.unique_identifier
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_VALUE or not key_id.isprintable():
        raise ValueError("no id")
    return key_id


def _check_same(payload: Any, key_id: str) -> None:
    found = payload.unique_identifier
    # Some of PyKMIP's payloads have a text, others an object that holds it.
    if (found if isinstance(found, str) else found.value) != key_id:
        raise ValueError("another object than the one asked for")


def _identifier(key_id: str) -> Any:
    return UniqueIdentifier(key_id)

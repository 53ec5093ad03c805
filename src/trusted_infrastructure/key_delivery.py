# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages between the workload manager and the agents of its hosts about keys (docs/protocol.md).

The manager passes keys of standard and native providers to a host, sealed (HPKE) to a key that the agent
makes anew at each start, with `messages.delivery_info` as context; and it asks a host what keys it keeps, and
to wrap them again. Binary values are standard base64 with padding. Unknown fields are refused, and every list
and text is bounded: what is longer is not ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trusted_infrastructure.times import Moment

MAX_KEYS = 256  # in one delivery; more are delivered in several
MAX_OBJECTS = 4096  # named in one request to wrap keys again
MAX_PAGE = 1000  # keys of objects in one answer, where the manager reads page by page
MAX_PREVIOUS_KEYS = 64  # of a native provider
MAX_NATIVE_PROVIDERS = 1024  # on a host
MAX_WAIT = 30  # seconds of a long poll

# `$(?!\n)`: `$` alone also matches before a final newline.
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
# As long as the manager can note that it was removed.
NativeKeyId = Annotated[str, msgspec.Meta(min_length=1, max_length=36, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]
OptionalLabel = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Text = Annotated[str, msgspec.Meta(max_length=2048)]
Code = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9_]*$(?!\n)")]
Instance = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
CheckValue = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
PolicyReference = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
SealedKey = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
ProviderType = Literal["STANDARD", "TRUSTED", "NATIVE"]


class KeyMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all messages here."""


# ---- where keys go


class DeliveryTarget(KeyMessage, frozen=True):
    """Agent to manager: what keys for this host are sealed to. GET key-delivery.

    instance: 16 random bytes in hex, new at each start of the agent. suite: name from `sealing.SUITES`.
    """

    instance: Instance
    suite: Label
    public_key: PublicKey


class KeyRequest(KeyMessage, frozen=True):
    """A host asks for the key encryption key of an object.

    action: "create": make a new one and put it to use for this object; "get": deliver `key_id`, which the
    host held before, or another host of its cluster did. component, name, identifier: of the object, as
    x-Component, x-Name and x-Identifier on the key server; empty where the host does not say.
    """

    id: Label
    action: Literal["create", "get"]
    provider: Label
    key_id: Label | None = None
    component: OptionalLabel = ""
    name: OptionalLabel = ""
    identifier: OptionalLabel = ""


class KeyRequests(KeyMessage, frozen=True):
    """Agent to manager: keys that are asked for, and what to seal them to. GET key-requests?wait=SECONDS."""

    instance: Instance
    suite: Label
    public_key: PublicKey
    requests: list[KeyRequest]


# ---- keys of standard providers


class StandardKey(KeyMessage, frozen=True):
    """One key of a standard provider. sealed_key: the 32-byte key, sealed with info kind "standard"."""

    provider: Label
    key_id: Label
    sealed_key: SealedKey


class KeyRequestAnswer(KeyMessage, frozen=True):
    """What came of a request. key_id: of the key that this or an earlier message delivers; None, with a
    reason code, for a request that was refused."""

    id: Label
    key_id: Label | None = None
    code: Code = ""
    message: Text = ""
    remedy: Text = ""


class StandardKeys(KeyMessage, frozen=True):
    """Manager to agent: keys, and answers to requests. POST standard-keys.

    instance: of the `DeliveryTarget` that the keys are sealed to.
    """

    instance: Instance
    keys: Annotated[list[StandardKey], msgspec.Meta(max_length=MAX_KEYS)] = []
    answers: Annotated[list[KeyRequestAnswer], msgspec.Meta(max_length=MAX_KEYS)] = []


class StandardKeyName(KeyMessage, frozen=True):
    """A key that a host holds."""

    provider: Label
    key_id: Label


class StandardKeyNames(KeyMessage, frozen=True):
    """Agent to manager: keys of standard providers that it holds. GET standard-keys."""

    keys: list[StandardKeyName]


# ---- native providers


class NativeKey(KeyMessage, frozen=True):
    """A key derivation key of a native provider. sealed_key: its 32 bytes, sealed with info kind "native".
    check_value: `wrapping.check_value` of it."""

    key_id: Label
    sealed_key: SealedKey
    check_value: CheckValue


class NativeProviderPush(KeyMessage, frozen=True, omit_defaults=True):
    """Manager to agent: a native provider with all its keys, the current one (`key_id`) first.

    policy_public_key, policy_reference: PEM of the key that signs PCR policies, and the reference of those
    for the host's cluster; None where there are none. removed: ids of keys that were removed on purpose; any
    other key that the host has, and that is not here, it keeps. What is as by default is not sent: agents of
    earlier releases refuse fields that they do not know.
    """

    instance: Instance
    provider: Label
    key_id: Label
    tpm_required: bool
    keys: Annotated[list[NativeKey], msgspec.Meta(min_length=1, max_length=1 + MAX_PREVIOUS_KEYS)]
    policy_public_key: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    policy_reference: PolicyReference | None = None
    removed: Annotated[list[Label], msgspec.Meta(max_length=MAX_KEYS)] = []


class NativeProviderState(KeyMessage, frozen=True):
    """Agent to manager: a native provider on this host.

    keys: key id -> check value, also of those that the manager did not send. state: LOCKED with a reason code
    where its keys cannot be used. sealed: a copy that is sealed to the TPM is stored.
    """

    provider: Label
    key_id: Label
    keys: Annotated[dict[NativeKeyId, CheckValue], msgspec.Meta(max_length=MAX_KEYS)]
    state: Literal["AVAILABLE", "LOCKED"]
    sealed: bool
    tpm_required: bool
    code: Code = ""
    message: Text = ""


class NativeProviderStates(KeyMessage, frozen=True):
    """GET native-providers."""

    providers: Annotated[list[NativeProviderState], msgspec.Meta(max_length=MAX_NATIVE_PROVIDERS)]


# ---- keys of objects


class KeyRecord(KeyMessage, frozen=True):
    """A data encryption key that a host keeps, wrapped, for an object. Nothing in it is secret.

    key_id: of the data encryption key. kek_id: of the key that it is wrapped under; primary_key_id: of the
    primary key that this one is wrapped under (None for a standard provider). created: Unix seconds.
    deep_recrypt: the object's data must be encrypted anew under a new key: this one's protection is broken.
    """

    key_id: Label
    object_id: Label
    component: OptionalLabel
    name: OptionalLabel
    provider: Label
    type: ProviderType
    kek_id: Label
    primary_key_id: Label | None
    created: Moment
    deep_recrypt: bool = False


class KeyRecords(KeyMessage, frozen=True):
    """GET keys, or a page of them: GET keys?limit=1000&after=KEY_ID. unreadable: how many further ones
    there are whose files cannot be read."""

    keys: list[KeyRecord]
    unreadable: int = 0


class RewrapKeys(KeyMessage, frozen=True):
    """Manager to agent: wrap keys of objects again. POST keys/rewrap.

    provider: of the keys that are meant; None means all. target: provider to wrap them under; None means the
    newest primary key of their own. object_ids, key_ids (of data encryption keys): empty means all. replace:
    new key encryption keys, also where the old ones could be kept. dry_run: report what would be, and change
    nothing.
    """

    provider: Label | None = None
    target: Label | None = None
    object_ids: Annotated[list[Label], msgspec.Meta(max_length=MAX_OBJECTS)] = []
    key_ids: Annotated[list[Label], msgspec.Meta(max_length=MAX_OBJECTS)] = []
    replace: bool = False
    dry_run: bool = False


class LeftKey(KeyMessage, frozen=True):
    """A key that could not be wrapped again, and why. It is as it was."""

    key_id: Label
    object_id: Label
    provider: Label
    primary_key_id: Label | None
    code: Code
    message: str


class RewrapReport(KeyMessage, frozen=True):
    """Agent to manager: what came of `RewrapKeys`. A key that needs nothing is in none of the lists.

    rewrapped: as they are now. deep_recrypt: keys, of those that were asked for, whose objects' data must be
    encrypted anew.
    """

    rewrapped: list[KeyRecord]
    left: list[LeftKey]
    deep_recrypt: list[KeyRecord]

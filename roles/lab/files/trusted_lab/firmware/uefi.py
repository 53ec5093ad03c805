# SPDX-License-Identifier: GPL-3.0-or-later
"""UEFI structures that firmware writes into events. Integers are little-endian, GUIDs in UEFI's mixed order.

Sources: UEFI 2.10 (sections 3.1.3, 10.3, 32.4.1) and TCG PFP 1.05 (sections 10.2.2 to 10.2.6).
"""

from __future__ import annotations

import struct
import uuid

GLOBAL_VARIABLE = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
CERTIFICATE_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERTIFICATE_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")

_LOAD_OPTION_ACTIVE = 0x00000001


def text(value: str) -> bytes:
    """A NUL-terminated CHAR16 string."""
    return value.encode("utf-16-le") + b"\0\0"


def variable_data(namespace: uuid.UUID, name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA (PFP 10.2.6); the name is not NUL-terminated there."""
    header = namespace.bytes_le + struct.pack("<QQ", len(name), len(value))
    return header + name.encode("utf-16-le") + value


def signature_list(kind: uuid.UUID, owner: uuid.UUID, signature: bytes) -> bytes:
    """EFI_SIGNATURE_LIST with one signature (UEFI 32.4.1)."""
    entry = owner.bytes_le + signature
    return kind.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def file_device_path(path: str) -> bytes:
    """A media file path node and the end of the device path (UEFI 10.3.5.4); backslashes separate folders."""
    name = text(path)
    return struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\x00"


def load_option(description: str, path: str) -> bytes:
    """EFI_LOAD_OPTION, the content of a Boot#### variable (UEFI 3.1.3)."""
    device_path = file_device_path(path)
    return struct.pack("<IH", _LOAD_OPTION_ACTIVE, len(device_path)) + text(description) + device_path


def image_load_event(path: str, length: int) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT (PFP 10.2.3). The addresses are zero: here nothing is loaded into memory."""
    device_path = file_device_path(path)
    return struct.pack("<QQQQ", 0, length, 0, len(device_path)) + device_path


def firmware_blob(address: int, length: int) -> bytes:
    """UEFI_PLATFORM_FIRMWARE_BLOB (PFP 10.2.2)."""
    return struct.pack("<QQ", address, length)


def tagged_event(tag: int, data: bytes) -> bytes:
    """TCG_PCClientTaggedEvent (PFP 10.4.2.1)."""
    return struct.pack("<II", tag, len(data)) + data

# SPDX-License-Identifier: GPL-3.0-or-later
"""UEFI device paths as text: where a boot image was loaded from.

Source: UEFI Specification 2.10, 10.3 (nodes) and 10.6.1.6 (text form). Nodes without a form here are shown as
Path(type,subtype,hex). All little-endian.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

from trusted_infrastructure.tpm.event_text import shown
from trusted_infrastructure.tpm.structures import Reader

MAXIMUM_NODES = 64
_END = 0x7F
_END_ENTIRE = 0xFF
_MEDIA = 0x04
_FILE = 0x04
_PNP = 0x41D0  # compressed EISA id 'PNP'
_CODE = "event_log_malformed"
# Of variables, which are in every log many times: a look-up in place of formatting.
_GUIDS = {
    uuid.UUID(text).bytes_le: text
    for text in (
        "8be4df61-93ca-11d2-aa0d-00e098032b8c",
        "d719b2cb-3d3a-4596-a3bc-dad00e67656f",
        "605dab50-e046-4300-abb6-3dd810dd8b23",
    )
}


def guid(data: bytes) -> str:
    """EFI_GUID (16 bytes, first three fields little-endian) as text, lower case."""
    return _GUIDS.get(data) or str(uuid.UUID(bytes_le=data))


def device_path_text(data: bytes) -> str:
    """Text form of a device path. Raises InvalidField (event_log_malformed)."""
    return "/".join(_node_text(kind, subtype, body) for kind, subtype, body in nodes(data))


def file_path(data: bytes) -> str | None:
    r"""The file in a device path, such as '\EFI\BOOT\BOOTX64.EFI'; None where it names none.

    Raises InvalidField (event_log_malformed).
    """
    parts = [_file_name(body) for kind, subtype, body in nodes(data) if (kind, subtype) == (_MEDIA, _FILE)]
    return "\\".join(part.rstrip("\\") for part in parts).replace("\\\\", "\\") if parts else None


def nodes(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, subtype, content) of each node up to the end node. Raises InvalidField (event_log_malformed)."""
    reader = Reader(data, "device_path", order="<", code=_CODE)
    for _index in range(MAXIMUM_NODES):
        if not reader.remaining:
            return  # some firmware leaves the end node out
        kind, subtype, length = reader.u8("type"), reader.u8("subtype"), reader.u16("length")
        if kind == _END:
            if subtype == _END_ENTIRE:
                reader.finish()
                return
            yield kind, subtype, b""  # end of an instance: another path follows
            continue
        if length < 4:
            raise reader.refusal("length", f"is {length}: a node has at least 4 bytes")
        yield kind, subtype, reader.take(length - 4, "node")
    raise reader.refusal("", f"has more than {MAXIMUM_NODES} nodes")


def _node_text(kind: int, subtype: int, body: bytes) -> str:
    form = _FORMS.get((kind, subtype))
    if form is not None:
        minimum, text = form
        if len(body) >= minimum:
            return text(body)
    return f"Path({kind},{subtype},{body[:64].hex()})"


def _number(body: bytes, offset: int, size: int) -> int:
    return int.from_bytes(body[offset : offset + size], "little")


def _file_name(body: bytes) -> str:
    return shown(body.decode("utf-16-le", "replace").rstrip("\0"))


def _acpi(body: bytes) -> str:
    hid, uid = _number(body, 0, 4), _number(body, 4, 4)
    if hid & 0xFFFF == _PNP:
        names = {
            0x0A03: "PciRoot",
            0x0A08: "PcieRoot",
            0x0604: "Floppy",
            0x0301: "Keyboard",
            0x0501: "Serial",
        }
        name = names.get(hid >> 16)
        if name is not None:
            return f"{name}(0x{uid:x})"
    return f"Acpi(0x{hid:08x},0x{uid:x})"


def _hard_drive(body: bytes) -> str:
    number, start, size = _number(body, 0, 4), _number(body, 4, 8), _number(body, 12, 8)
    form, kind = body[36], body[37]
    if kind == 2:
        signature = guid(body[20:36])
    elif kind == 1:
        signature = f"0x{_number(body, 20, 4):08x}"
    else:
        signature = "none"
    form_name = {1: "MBR", 2: "GPT"}.get(form, str(form))
    return f"HD({number},{form_name},{signature},0x{start:x},0x{size:x})"


def _sata(body: bytes) -> str:
    return f"Sata(0x{_number(body, 0, 2):x},0x{_number(body, 2, 2):x},0x{_number(body, 4, 2):x})"


def _nvme(body: bytes) -> str:
    eui = "-".join(f"{byte:02x}" for byte in reversed(body[4:12]))
    return f"NVMe(0x{_number(body, 0, 4):x},{eui})"


def _memory(body: bytes) -> str:
    return f"MemoryMapped({_number(body, 0, 4)},0x{_number(body, 4, 8):x},0x{_number(body, 12, 8):x})"


def _hex_pair(name: str, size: int) -> Callable[[bytes], str]:
    return lambda body: f"{name}(0x{_number(body, 0, size):x},0x{_number(body, size, size):x})"


# (type, subtype) to (least bytes of content, text form)
_FORMS: dict[tuple[int, int], tuple[int, Callable[[bytes], str]]] = {
    (0x01, 0x01): (2, lambda body: f"Pci(0x{body[1]:x},0x{body[0]:x})"),
    (0x01, 0x03): (20, _memory),
    (0x01, 0x04): (16, lambda body: f"VenHw({guid(body[:16])})"),
    (0x01, 0x05): (4, lambda body: f"Ctrl(0x{_number(body, 0, 4):x})"),
    (0x02, 0x01): (8, _acpi),
    (0x03, 0x02): (4, _hex_pair("Scsi", 2)),
    (0x03, 0x05): (2, _hex_pair("USB", 1)),
    (0x03, 0x0A): (16, lambda body: f"VenMsg({guid(body[:16])})"),
    (0x03, 0x0B): (33, lambda body: f"MAC({body[:6].hex()},0x{body[32]:x})"),
    (0x03, 0x0C): (8, lambda body: f"IPv4({'.'.join(map(str, body[4:8]))})"),
    (0x03, 0x0D): (32, lambda body: f"IPv6({body[16:32].hex()})"),
    (0x03, 0x11): (4, lambda body: f"Unit(0x{_number(body, 0, 4):x})"),
    (0x03, 0x12): (6, _sata),
    (0x03, 0x17): (12, _nvme),
    (0x03, 0x18): (0, lambda body: f"Uri({shown(body.decode('ascii', 'replace'))})"),
    (0x04, 0x01): (38, _hard_drive),
    (0x04, 0x02): (20, lambda body: f"CDROM(0x{_number(body, 0, 4):x})"),
    (0x04, 0x03): (16, lambda body: f"VenMedia({guid(body[:16])})"),
    (0x04, 0x04): (2, _file_name),
    (0x04, 0x06): (16, lambda body: f"FvFile({guid(body[:16])})"),
    (0x04, 0x07): (16, lambda body: f"Fv({guid(body[:16])})"),
    (0x04, 0x08): (20, lambda body: f"Offset(0x{_number(body, 4, 8):x},0x{_number(body, 12, 8):x})"),
    (0x05, 0x01): (2, lambda body: f"BBS(0x{_number(body, 0, 2):x})"),
    (0x7F, 0x01): (0, lambda body: ","),
}

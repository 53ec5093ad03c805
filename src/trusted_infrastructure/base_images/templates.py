# SPDX-License-Identifier: GPL-3.0-or-later
"""Content templates: a text that is the same on equal machines but for identifiers.

A template is literal text with placeholders from a fixed list; a brace of the text itself is doubled. There
are no regular expressions in documents: a template takes time in proportion to its length, and a placeholder
can stand for nothing but an identifier of its form, never for a word that means something to a boot loader or
kernel.

The text of an event is what its digest is over, decoded without loss, so that equal texts were equal bytes
(but for the encoding and one NUL at the end); a partition table is put into words first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.tpm import event_class, uefi
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_digest import digest_of
from trusted_infrastructure.tpm.event_log import Event, EventLog
from trusted_infrastructure.tpm.event_text import looks_like_utf16

MAXIMUM_TEXT = 64 << 10  # Linux takes a command line of 2 to 32 KiB
MAXIMUM_PARTS = 2048  # placeholders in a template; GRUB's menus have one for each entry
_COMMAND_LINE_PCRS = (8, 12)
_MAXIMUM_COMMAND_LINES = 4  # that load options are looked for in
_TEXTS = frozenset({types.EV_IPL, types.EV_EVENT_TAG, types.EV_ACTION, types.EV_EFI_ACTION})

_HEX = "[0-9a-fA-F]"
PLACEHOLDERS = {
    "uuid": re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}(?!{_HEX})"),
    "machine_id": re.compile(f"[0-9a-f]{{32}}(?!{_HEX})"),
    "fat_id": re.compile(f"{_HEX}{{4}}-{_HEX}{{4}}(?![-0-9a-zA-Z])"),
    "mac": re.compile(f"(?:{_HEX}{{2}}[:-]){{5}}{_HEX}{{2}}(?!{_HEX})"),
    "ipv4": re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9.])"),
}
_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z0-9_]*)\}|[{}]")

# What capture replaces. A hash is never one of them: it is 64 digits or more, or has no dashes. Nor is the
# type of a partition (`_partition_table`), which is the same everywhere.
_VARYING = re.compile(
    rf"(?<!{_HEX})(?<!type )(?P<uuid>{PLACEHOLDERS['uuid'].pattern})"
    rf"|(?:(?<=machine_id=)|(?<=machine-id=)|(?<=/))(?P<machine_id>[0-9a-f]{{32}})(?=[\s/-]|$)"
    r"|(?:(?<=UUID=)|(?<=search --no-floppy --fs-uuid --set=root )|(?<=search\.fs_uuid ))"
    rf"(?P<fat_id>{PLACEHOLDERS['fat_id'].pattern})"
    rf"|(?:(?<=BOOTIF=01-)|(?<=\.cfg-01-))(?P<mac>{PLACEHOLDERS['mac'].pattern})"
)


def template_of(text: str) -> str:
    """The template that capture writes for a text: identifiers of one machine become placeholders."""
    parts: list[str] = []
    position = 0
    for found in _VARYING.finditer(text):
        parts += [_escaped(text[position : found.start()]), "{" + str(found.lastgroup) + "}"]
        position = found.end()
    return "".join([*parts, _escaped(text[position:])])


def has_placeholder(template: str) -> bool:
    """Whether a template fits more than one text. Raises InvalidField."""
    return any(placeholder for placeholder, _literal in _parts(template))


def check(template: str) -> None:
    """Raises InvalidField (field "content") for a template that is none."""
    if len(template) > MAXIMUM_TEXT:
        raise InvalidField("content", f"is {len(template)} characters long: expected at most {MAXIMUM_TEXT}")
    if sum(1 for _part in _parts(template)) > MAXIMUM_PARTS:
        raise InvalidField("content", f"has more than {MAXIMUM_PARTS} placeholders and braces")


def is_template(template: str) -> bool:
    """Whether `check` lets it through."""
    try:
        check(template)
    except InvalidField:
        return False
    return True


def matches(template: str, text: str) -> bool:
    """Whether the text is one that the template stands for. Raises InvalidField for a bad template."""
    position = 0
    for placeholder, literal in _parts(template):
        if placeholder:
            found = PLACEHOLDERS[placeholder].match(text, position)
            if found is None:
                return False
            position = found.end()
        elif text.startswith(literal, position):
            position += len(literal)
        else:
            return False
    return position == len(text)


def filled(template: str, text: str) -> str:
    """The template with the identifiers of `text` in its places, as far as the text fits; from there on with
    its placeholders. Raises InvalidField for a bad template."""
    result: list[str] = []
    position: int | None = 0
    for placeholder, literal in _parts(template):
        if not placeholder:
            result.append(literal)
            fits = position is not None and text.startswith(literal, position)
            position = position + len(literal) if fits and position is not None else None
            continue
        found = None if position is None else PLACEHOLDERS[placeholder].match(text, position)
        result.append("{" + placeholder + "}" if found is None else found[0])
        position = None if found is None else found.end()
    return "".join(result)


def text_of(event: Event, bank: str, load_options: Mapping[bytes, str]) -> str | None:
    """The text that an event measured, None where it measured none, or none that the log has.

    load_options: of this log and bank (`load_options_of`).
    """
    if event.type in (types.EV_EFI_GPT_EVENT, types.EV_EFI_GPT_EVENT2):
        if event_class.classify(event, bank) != event_class.PARTITION_TABLE:
            return None
        table = event.decoded
        return _partition_table(table) if isinstance(table, uefi.Gpt) else None
    if event.type not in _TEXTS:
        return None
    measured = event.measured_content(bank)
    if measured is None:
        return load_options.get(event.digests.get(bank, b"")) if event.type == types.EV_EVENT_TAG else None
    return decoded(measured)


def load_options_of(log: EventLog, bank: str) -> dict[bytes, str]:
    """What Linux may have measured as its load options: digest to text.

    Its own event names them only ("LOADED_IMAGE::LoadOptions"), so they are looked for among the command
    lines that boot loaders measured in the same log, in the forms in which they are handed over.
    """
    found: dict[bytes, str] = {}
    for content in _command_lines(bank, log):
        for text in (content, "BOOT_IMAGE=" + content):
            for candidate in (text + "\0", text):
                found[digest_of(candidate.encode("utf-16-le", "replace"), bank)] = text
    return found


def decoded(data: bytes) -> str | None:
    """Bytes as text without one NUL at the end; None where decoding would lose something."""
    if len(data) > MAXIMUM_TEXT:
        return None
    encoding = "utf-16-le" if looks_like_utf16(data) and len(data) % 2 == 0 else "utf-8"
    try:
        return data.decode(encoding).removesuffix("\0")
    except UnicodeDecodeError:
        return None


def _parts(template: str) -> Iterator[tuple[str, str]]:
    """(placeholder, '') or ('', literal), in order. Raises InvalidField."""
    position = 0
    for token in _TOKEN.finditer(template):
        if token.start() > position:
            yield "", template[position : token.start()]
        position = token.end()
        if token[0] in ("{{", "}}"):
            yield "", token[0][0]
        elif token[1] in PLACEHOLDERS:
            yield token[1], ""
        else:
            known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            reason = f"has {token[0]!r} at character {token.start()}: placeholders are {known}"
            raise InvalidField("content", f"{reason}; a brace itself is doubled")
    if position < len(template):
        yield "", template[position:]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _command_lines(bank: str, log: EventLog) -> list[str]:
    found: list[str] = []
    for pcr in _COMMAND_LINE_PCRS:
        for event in log.events_of(pcr):
            if len(found) == _MAXIMUM_COMMAND_LINES:
                return found
            if event.type != types.EV_IPL or event_class.classify(event, bank) != event_class.COMMAND_LINE:
                continue
            measured = event.measured_content(bank)
            text = None if measured is None else decoded(measured)
            if text is not None:
                found.append(text)
    return found


def _partition_table(table: uefi.Gpt) -> str:
    """A partition table in words: all but sizes and places, which disks of equal machines differ in."""
    lines = [f"disk {table.disk}"]
    for partition in table.partitions:
        name = partition.name.encode("unicode_escape").decode("ascii")
        lines.append(
            f"partition {partition.identifier}: type {partition.kind}, "
            f"attributes 0x{partition.attributes:016x}, name '{name}'"
        )
    return "; ".join(lines)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Distinguished names: read from their bytes, compared as RFC 5280 wants it, and shown.

A name chooses which issuer to try, and no more: what counts is that issuer's signature. So the comparison may
be generous (case, spaces, string types, order within a set); vendors write the same name in several ways.

Sources: RFC 5280, 4.1.2.4 (Name), 7.1 (comparison); TCG EK Credential Profile for TPM 2.0, 3.2.9 (TPM names
in the subject alternative name); TCG OID registry (tcg-at-tpm...).
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted_infrastructure.tpm import der

_SHORT = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.23.133.2.1": "tpmManufacturer",
    "2.23.133.2.2": "tpmModel",
    "2.23.133.2.3": "tpmVersion",
}
_TPM = {"2.23.133.2.1": "manufacturer", "2.23.133.2.2": "model", "2.23.133.2.3": "version"}
_DIRECTORY_NAME = 0xA4
_CODECS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x14: "latin-1", 0x1E: "utf-16-be", 0x1C: "utf-32-be"}
_MAXIMUM_TEXT = 256


@dataclass(frozen=True)
class Name:
    """A distinguished name. parts: per relative name the attributes (dotted OID, text folded for comparison);
    equal for equal names. text: for people, most specific part first, without control characters."""

    parts: tuple[frozenset[tuple[str, str]], ...]
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


def read_name(data: bytes) -> Name:
    """A Name (DER, but for the order within a set). Raises ValueError."""
    attributes = _attributes(data)
    parts = tuple(frozenset((oid, _folded(text)) for oid, text in part) for part in attributes)
    shown = (
        "+".join(f"{_SHORT.get(oid, oid)}={_printable(text)}" for oid, text in part)
        for part in reversed(attributes)
    )
    return Name(parts, ",".join(shown))


def tpm_names(alternative_names: bytes) -> dict[str, str]:
    """What a subject alternative name (GeneralNames) says of the TPM: 'manufacturer', 'model' and 'version'
    as far as they are there. Raises ValueError."""
    found: dict[str, str] = {}
    for name in der.inside(alternative_names, der.SEQUENCE, "subject alternative name"):
        if name.tag == _DIRECTORY_NAME:
            for part in _attributes(name.content):
                found |= {_TPM[oid]: _printable(text) for oid, text in part if oid in _TPM}
    return found


def _attributes(data: bytes) -> list[list[tuple[str, str]]]:
    return [
        [_attribute(element) for element in _members(part)] for part in der.inside(data, der.SEQUENCE, "name")
    ]


def _members(part: der.Element) -> list[der.Element]:
    members = der.elements(part.content)
    if part.tag != der.SET or not members:
        raise ValueError("name: a part of it is not a set of attributes")
    return members


def _attribute(element: der.Element) -> tuple[str, str]:
    pair = der.elements(element.content)
    if element.tag != der.SEQUENCE or len(pair) != 2 or pair[0].tag != der.OBJECT_IDENTIFIER:
        raise ValueError("name: an attribute is not a type and a value")
    kind, value = pair
    codec = _CODECS.get(value.tag)
    # What is no text is compared, and shown, by its bytes.
    text = value.raw.hex() if codec is None else value.content.decode(codec, errors="backslashreplace")
    return der.dotted(kind.content), text


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:_MAXIMUM_TEXT]

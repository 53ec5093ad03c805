# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that are genuine and not quite DER: what some TPM vendors have burnt into their chips.

A strict parser refuses them, and the chips cannot be changed. This reads the same facts again, for the
deviations below alone, each of which leaves no doubt about what the certificate says. The signature is then
verified over the bytes as they came, never over what was put right here.

| deviation                                                          | seen in                               |
| ------------------------------------------------------------------ | ------------------------------------- |
| attributes of a relative name not in the order of a DER set        | Nuvoton roots 1110, 1111, 2111, 2112  |
| NULL as parameters of an ECDSA signature algorithm                 | Intel OnDie CA root                   |
| an extension that is not critical and not read here is malformed   | issuer without serial in key ids      |
| FALSE written out where it is the default, TRUE not as 0xFF        | basic constraints, critical           |
| a serial number with superfluous leading zeros                     |                                       |
| the key is marked for RSAES-OAEP, not as plain RSA                 | older EK certificates                 |

Everything else that a strict parser refuses stays refused: among others lengths that are not in their
shortest form, times without seconds, an extension that is there twice, and a malformed extension that is
read.

Sources: RFC 5280, 4.1, 4.2.1.3, 4.2.1.9, 4.2.1.12; X.690, 10 and 11; RFC 4055, 4.1 (id-RSAES-OAEP).
"""

from __future__ import annotations

from dataclasses import dataclass

from trusted_infrastructure.tpm import der

_ECDSA = "1.2.840.10045.4."
_RSAES_OAEP = "1.2.840.113549.1.1.7"
_RSA = bytes.fromhex("300d06092a864886f70d0101010500")  # AlgorithmIdentifier rsaEncryption, NULL
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_NO_NAME = der.encode(der.SEQUENCE, b"")
_NULL = b"\x05\x00"
_USAGES = {0: "digitalSignature", 2: "keyEncipherment", 4: "keyAgreement", 5: "keyCertSign", 6: "cRLSign"}

BASIC_CONSTRAINTS = "2.5.29.19"
KEY_USAGE = "2.5.29.15"
EXTENDED_KEY_USAGE = "2.5.29.37"
ALTERNATIVE_NAMES = "2.5.29.17"


@dataclass(frozen=True)
class Parts:
    """A certificate taken apart. signed: TBSCertificate as it came. issuer, subject: Name (DER).
    algorithms_agree: the signed signature algorithm is the one outside. fields: of TBSCertificate."""

    signed: bytes
    issuer: bytes
    subject: bytes
    algorithms_agree: bool
    fields: tuple[der.Element, ...]
    algorithm: der.Element
    signature: der.Element

    @property
    def _first(self) -> int:
        return 1 if self.fields[0].tag == _VERSION else 0

    @property
    def extensions(self) -> dict[str, tuple[bool, bytes]]:
        """Dotted OID -> (critical, value). Raises ValueError."""
        last = self.fields[-1]
        if last.tag != _EXTENSIONS:
            return {}
        found: dict[str, tuple[bool, bytes]] = {}
        for extension in der.inside(last.content, der.SEQUENCE, "extensions"):
            oid, critical, value = _extension(extension)
            # Without this, it would depend on the reader which of two statements holds.
            if oid in found:
                raise ValueError(f"extension {oid} is there twice")
            found[oid] = (critical, value)
        return found

    def normal(self) -> bytes:
        """The certificate for a strict parser: without names and extensions, which are read here, and with
        the deviations put right. Its signature does not verify. Raises ValueError."""
        fields = [field.raw for field in self.fields if field.tag != _EXTENSIONS]
        first = self._first
        fields[first] = der.encode(der.INTEGER, _shortest(self.fields[first].content))
        fields[first + 1] = _algorithm(self.fields[first + 1])
        fields[first + 2] = fields[first + 4] = _NO_NAME
        fields[first + 5] = _key(self.fields[first + 5])
        signed = der.encode(der.SEQUENCE, b"".join(fields))
        return der.encode(der.SEQUENCE, signed + _algorithm(self.algorithm) + self.signature.raw)


def take_apart(certificate: bytes) -> Parts:
    """The parts of a DER certificate. Raises ValueError."""
    outer = der.inside(certificate, der.SEQUENCE, "certificate")
    if len(outer) != 3 or (outer[0].tag, outer[1].tag, outer[2].tag) != (0x30, 0x30, 0x03):
        raise ValueError("certificate: is not a signed structure, an algorithm and a signature")
    # Nobody signs this count: with another one, the same certificate would have several encodings.
    if outer[2].content[:1] != b"\0":
        raise ValueError("certificate: its signature does not consist of whole octets")
    fields = tuple(der.elements(outer[0].content))
    first = 1 if fields and fields[0].tag == _VERSION else 0
    known = [field.tag for field in fields[first : first + 6]]
    if known != [der.INTEGER, *[der.SEQUENCE] * 5] or len(fields) > first + 9:
        raise ValueError("certificate: does not have the fields of one")
    return Parts(
        signed=outer[0].raw,
        issuer=fields[first + 2].raw,
        subject=fields[first + 4].raw,
        algorithms_agree=_algorithm(fields[first + 1]) == _algorithm(outer[1]),
        fields=fields,
        algorithm=outer[1],
        signature=outer[2],
    )


def basic_constraints(value: bytes) -> tuple[bool, int | None]:
    """cA and pathLenConstraint. Raises ValueError."""
    fields = der.inside(value, der.SEQUENCE, "basic constraints")
    is_ca = False
    if fields and fields[0].tag == der.BOOLEAN:
        is_ca = _boolean(fields.pop(0))
    if not fields:
        return is_ca, None
    length = int.from_bytes(fields[0].content, "big", signed=True)
    if len(fields) != 1 or fields[0].tag != der.INTEGER or not fields[0].content or length < 0:
        raise ValueError("basic constraints: path length is not a number")
    return is_ca, length


def key_usage(value: bytes) -> frozenset[str]:
    """Names as in RFC 5280 of those usages that matter here. Raises ValueError."""
    bits = der.content(value, der.BIT_STRING, "key usage")
    if not 2 <= len(bits) <= 3 or bits[0] > 7:
        raise ValueError("key usage: is not a string of bits")
    return frozenset(name for bit, name in _USAGES.items() if bits[1] & 0x80 >> bit)


def extended_key_usage(value: bytes) -> frozenset[str]:
    """Dotted OIDs. Raises ValueError."""
    found = der.inside(value, der.SEQUENCE, "extended key usage")
    if not found or any(element.tag != der.OBJECT_IDENTIFIER for element in found):
        raise ValueError("extended key usage: is not a list of object identifiers")
    return frozenset(der.dotted(element.content) for element in found)


def _extension(element: der.Element) -> tuple[str, bool, bytes]:
    fields = der.elements(element.content)
    critical = len(fields) == 3 and fields[1].tag == der.BOOLEAN and _boolean(fields.pop(1))
    tags = [field.tag for field in fields]
    if element.tag != der.SEQUENCE or tags != [der.OBJECT_IDENTIFIER, der.OCTET_STRING]:
        raise ValueError("extension: is not an identifier and a value")
    return der.dotted(fields[0].content), critical, fields[1].content


def _boolean(element: der.Element) -> bool:
    if len(element.content) != 1:
        raise ValueError("a truth value of several octets")
    return element.content != b"\0"


def _shortest(number: bytes) -> bytes:
    while len(number) > 1 and number[0] == 0 and number[1] < 0x80:
        number = number[1:]
    return number


def _algorithm(element: der.Element) -> bytes:
    fields = der.elements(element.content)
    names_ecdsa = fields and der.dotted(fields[0].content).startswith(_ECDSA)
    if names_ecdsa and len(fields) == 2 and fields[1].raw == _NULL:
        return der.encode(der.SEQUENCE, fields[0].raw)
    return element.raw


def _key(element: der.Element) -> bytes:
    fields = der.elements(element.content)
    if len(fields) == 2 and fields[0].tag == der.SEQUENCE:
        algorithm = der.elements(fields[0].content)
        if algorithm and der.dotted(algorithm[0].content) == _RSAES_OAEP:
            return der.encode(der.SEQUENCE, _RSA + fields[1].raw)
    return element.raw

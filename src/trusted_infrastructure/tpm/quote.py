# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotes: parse what a TPM signed, and verify it.

The rules, in the order of docs/protocol.md 3.4: `verify_signed` applies 1 to 7 to what the TPM signed,
`check_pcr_digest` the last to the values that are judged, once they are known.
1. magic: made inside a TPM        2. type: a quote
3. exact length                    4. signature by the attestation key's own scheme
5. qualifying data: ours, now      6. qualified name: a key under the endorsement hierarchy
7. signed PCR selection = policy   8. PCR digest = the values that are judged
The clock (`Quote.clock`) is returned; the caller compares it with the history of the endorsement key.

Sources: TCG TPM 2.0 Library Part 2, 10.12 (TPMS_ATTEST, TPMS_QUOTE_INFO, TPMS_CLOCK_INFO), 10.6.2
(TPMS_PCR_SELECTION), 11.3 (TPMT_SIGNATURE); Part 3, 18.4 (TPM2_Quote).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.public_area import PublicArea
from trusted_infrastructure.tpm.structures import Reader, u8, u16, u32

TPM_GENERATED_VALUE = 0xFF544347  # Part 2, 6.2
ST_ATTEST_QUOTE = 0x8018  # Part 2, 6.9
PCR_COUNT = 24  # PC Client platforms have PCRs 0 to 23
MAXIMUM_SIZE = 1024  # TPMS_ATTEST of a quote takes under 300 bytes
_MAXIMUM_NAME = 2 + 64
_MAXIMUM_SELECTIONS = 16


@dataclass(frozen=True)
class ClockInfo:
    """TPMS_CLOCK_INFO and the firmware version, as signed.

    clock: milliseconds of power since the last TPM2_Clear. reset_count: TPM resets since then. restart_count:
    resumes since the last reset. safe: False when `clock` may have been reported before (after a crash).
    firmware_version: vendor's 64-bit number. In the owner hierarchy a TPM obfuscates all but clock and safe.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int


@dataclass(frozen=True)
class Quote:
    """TPMS_ATTEST of type quote. selections: (TPM_ALG_ID of the bank, PCR numbers ascending) in signed
    order."""

    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    selections: tuple[tuple[int, tuple[int, ...]], ...]
    pcr_digest: bytes


@dataclass(frozen=True)
class Signature:
    """TPMT_SIGNATURE. algorithm, hash: TPM_ALG_ID. value: PKCS#1 bytes (RSA) or DER (ECDSA)."""

    algorithm: int
    hash: int
    value: bytes


def parse_quote(attest: bytes) -> Quote:
    """Parse TPMS_ATTEST (without a size) of a quote: steps 1 to 3.

    Raises Refusal (quote_magic, quote_type) or InvalidField (malformed_request).
    """
    if len(attest) > MAXIMUM_SIZE:
        raise InvalidField("quote", f"is {len(attest)} bytes long: expected at most {MAXIMUM_SIZE}")
    reader = Reader(attest, "quote")
    # 1. Only structures made inside the TPM begin so. Without this, a restricted key's signature over foreign
    #    data (which may not begin so) could be passed off as a quote.
    magic = reader.u32("magic")
    if magic != TPM_GENERATED_VALUE:
        raise Refusal("quote_magic", f"quote: magic must be 0xff544347: found 0x{magic:08x}", status=400)
    # 2. Without this, another attestation (of time, of a certified key) whose bytes happen to fit would do.
    kind = reader.u16("type")
    if kind != ST_ATTEST_QUOTE:
        raise Refusal("quote_type", f"quote: type must be 0x8018 (quote): found 0x{kind:04x}", status=400)
    signer = reader.sized(_MAXIMUM_NAME, "qualifiedSigner")
    extra = reader.sized(_MAXIMUM_NAME, "extraData")
    clock, resets, restarts = (
        reader.u64("clockInfo.clock"),
        reader.u32("clockInfo.resetCount"),
        reader.u32("clockInfo.restartCount"),
    )
    safe = reader.u8("clockInfo.safe")
    if safe > 1:
        raise reader.refusal("clockInfo.safe", f"must be 0 or 1: found {safe}")
    firmware = reader.u64("firmwareVersion")
    selections = _selections(reader)
    digest = reader.sized(64, "pcrDigest")
    # 3. Trailing bytes would be signed but judged by nobody.
    reader.finish()
    return Quote(signer, extra, ClockInfo(clock, resets, restarts, bool(safe), firmware), selections, digest)


def _selections(reader: Reader) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """TPML_PCR_SELECTION. Bit n of octet i selects PCR 8 * i + n (Part 2, 10.6.1)."""
    count = reader.u32("pcrSelect.count")
    if count > _MAXIMUM_SELECTIONS:
        raise reader.refusal("pcrSelect.count", f"is {count}: expected at most {_MAXIMUM_SELECTIONS}")
    selections = []
    for _index in range(count):
        bank = reader.u16("pcrSelect.hash")
        octets = reader.take(reader.u8("pcrSelect.sizeofSelect"), "pcrSelect.pcrSelect")
        bits = int.from_bytes(octets, "little")
        selections.append((bank, tuple(n for n in range(bits.bit_length()) if bits >> n & 1)))
    return tuple(selections)


def pcr_selection(bank: str, pcrs: Iterable[int]) -> bytes:
    """TPML_PCR_SELECTION with one bank: what a quote is asked for, and what qualifying data binds.

    bank: hash name ('sha256'). pcrs: numbers 0 to 23. Raises InvalidField (malformed_request).
    """
    known = algorithms.HASHES_BY_NAME.get(bank)
    if known is None:
        raise InvalidField("bank", f"{bank!r} is not a PCR bank: expected one of {_banks()}")
    bits = 0
    for pcr in pcrs:
        if not 0 <= pcr < PCR_COUNT:
            raise InvalidField("pcrs", f"{pcr} is not a PCR: expected 0 to {PCR_COUNT - 1}")
        bits |= 1 << pcr
    return u32(1) + u16(known.identifier) + u8(PCR_COUNT // 8) + bits.to_bytes(PCR_COUNT // 8, "little")


def _banks() -> str:
    return ", ".join(sorted(algorithms.HASHES_BY_NAME))


def parse_signature(data: bytes) -> Signature:
    """Parse TPMT_SIGNATURE (RSASSA, RSAPSS or ECDSA), exactly. Raises InvalidField (quote_signature)."""
    reader = Reader(data, "signature", code="quote_signature")
    algorithm = reader.u16("sigAlg")
    if algorithm not in (algorithms.RSASSA, algorithms.RSAPSS, algorithms.ECDSA):
        raise reader.refusal("sigAlg", f"{algorithms.name_of(algorithm)} is not RSASSA, RSAPSS or ECDSA")
    hash_algorithm = reader.u16("hash")
    if algorithm == algorithms.ECDSA:
        r = int.from_bytes(reader.sized(66, "signatureR"), "big")
        s = int.from_bytes(reader.sized(66, "signatureS"), "big")
        value = encode_dss_signature(r, s)
    else:
        value = reader.sized(algorithms.MAXIMUM_RSA_BITS // 8, "sig")
    reader.finish()
    return Signature(algorithm, hash_algorithm, value)


def verify_signed(
    *,
    ak: PublicArea,
    attest: bytes,
    signature: bytes,
    qualifying_data: bytes,
    qualified_names: Collection[bytes],
    bank: str,
    pcrs: Collection[int],
) -> Quote:
    """Verify what a TPM signed; returns it when steps 1 to 7 pass. Its values are still to be checked, with
    `check_pcr_digest`.

    ak: the attestation key, already through `keys.check_attestation_key`. attest: TPMS_ATTEST (no size).
    signature: TPMT_SIGNATURE. qualifying_data: what we computed ourselves. qualified_names: the names that
    the signer may have (`keys.endorsement_hierarchy_names`). bank, pcrs: the policy's.
    Raises Refusal with a quote_* code, or InvalidField (malformed_request).
    """
    quote = parse_quote(attest)  # steps 1 to 3
    verify_signature(ak, attest, parse_signature(signature))  # step 4
    check_qualifying_data(quote, qualifying_data)  # step 5
    check_qualified_name(quote, qualified_names)  # step 6
    check_selection(quote, bank, pcrs)  # step 7
    return quote


def verify_signature(ak: PublicArea, attest: bytes, signature: Signature) -> None:
    """Step 4. Raises Refusal (quote_signature)."""
    scheme = ak.scheme
    # The key's own scheme, never the signature's: otherwise the sender chooses the weaker algorithm.
    if (signature.algorithm, signature.hash) != (scheme.algorithm, scheme.hash):
        raise Refusal(
            "quote_signature",
            f"quote: signed with {algorithms.name_of(signature.algorithm)} and "
            f"{algorithms.name_of(signature.hash)}: the attestation key's scheme is "
            f"{algorithms.name_of(scheme.algorithm)} and {algorithms.name_of(scheme.hash)}",
        )
    known = algorithms.HASHES.get(scheme.hash)
    if known is None:
        raise Refusal("quote_signature", f"quote: hash {algorithms.name_of(scheme.hash)} is not supported")
    hash_ = known.cryptography
    key = ak.public_key()
    # Without this, anybody could write a quote.
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature.value, attest, ec.ECDSA(hash_))
        elif isinstance(key, rsa.RSAPublicKey) and signature.algorithm == algorithms.RSASSA:
            key.verify(signature.value, attest, padding.PKCS1v15(), hash_)
        else:
            # TPMs salt with the digest's size or with all that fits (Part 1, B.7), so the length is read.
            pss = padding.PSS(padding.MGF1(hash_), padding.PSS.AUTO)
            key.verify(signature.value, attest, pss, hash_)
    except InvalidSignature:
        raise Refusal(
            "quote_signature",
            "quote: the signature is not by the attestation key of this challenge",
            "attest again; if it stays, restart the agent so that it makes a new attestation key",
        ) from None


def check_qualifying_data(quote: Quote, expected: bytes) -> None:
    """Step 5. Raises Refusal (quote_qualifying_data)."""
    # Without this, an old quote, or one made for another service, log or key, could be sent again.
    if not hmac.compare_digest(quote.extra_data, expected):
        raise Refusal(
            "quote_qualifying_data",
            "quote: the signed qualifying data is not that of this challenge, event log and keys",
            "attest again",
        )


def check_qualified_name(quote: Quote, expected: Collection[bytes]) -> None:
    """Step 6. Raises Refusal (quote_qualified_name)."""
    # In the owner hierarchy a TPM obfuscates reset count and firmware version: a cleared TPM would not show.
    if quote.qualified_signer not in expected:
        raise Refusal(
            "quote_qualified_name",
            f"quote: signer's qualified name {quote.qualified_signer.hex()} is not that of a primary key of "
            "the endorsement hierarchy or of a child of the endorsement key",
            "make the attestation key in the endorsement hierarchy",
        )


def check_selection(quote: Quote, bank: str, pcrs: Collection[int]) -> None:
    """Step 7. Raises Refusal (quote_pcr_selection)."""
    # Without this, an attacker would quote the PCRs that are still clean, none at all, or another bank's,
    # which the firmware may leave without measurements for anybody to extend.
    wanted = tuple(sorted(set(pcrs)))
    known = algorithms.HASHES_BY_NAME.get(bank)
    if known is None or not wanted:
        raise Refusal("quote_pcr_selection", f"quote: the policy selects no PCR of a known bank ({bank!r})")
    if quote.selections != ((known.identifier, wanted),):
        found = (
            "; ".join(f"{algorithms.name_of(b)} {list(numbers)}" for b, numbers in quote.selections) or "none"
        )
        raise Refusal(
            "quote_pcr_selection",
            f"quote: signed PCR selection must be {algorithms.name_of(known.identifier)} {list(wanted)}: "
            f"found {found}",
        )


def check_pcr_digest(
    quote: Quote, ak: PublicArea, pcrs: Collection[int], values: Mapping[int, bytes]
) -> None:
    """Step 8. Raises Refusal (quote_pcr_digest)."""
    # Without this, PCR values would be what the sender says, not what the TPM has.
    missing = sorted(set(pcrs) - values.keys())
    if missing:
        raise Refusal(
            "quote_pcr_digest", f"quote: no value for PCR {', '.join(map(str, missing))}", status=400
        )
    # The digest is by the hash of the signing scheme, over the selected PCRs in ascending order (Part 3,
    # 18.4).
    hash_ = algorithms.HASHES[ak.scheme.hash]
    computed = hash_.digest(b"".join(values[pcr] for pcr in sorted(set(pcrs))))
    if not hmac.compare_digest(computed, quote.pcr_digest):
        raise Refusal(
            "quote_pcr_digest",
            f"quote: signed PCR digest {quote.pcr_digest.hex()} is not that of the values to judge "
            f"({computed.hex()})",
            "attest again: a PCR may have changed between reading and quoting; if it stays, the event log "
            "does not say everything that was measured",
        )

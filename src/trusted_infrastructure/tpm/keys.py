# SPDX-License-Identifier: GPL-3.0-or-later
"""What an endorsement key and an attestation key must be before anything is built on them.

Rules:
- an endorsement key is a restricted decryption key that was made in its TPM and can never leave it;
- an attestation key is a restricted signing key that was made in its TPM and can never leave it;
- both are RSA-2048, RSA-3072, ECC P-256 or ECC P-384 with a Name by SHA-256 or stronger;
- an attestation key has one signature scheme, and its qualified name shows that it lives under the
  endorsement hierarchy.

Sources: TCG TPM 2.0 Library Part 1, 16 (Names), 25 (object attributes); Part 2, 8.3 (TPMA_OBJECT); TCG EK
Credential Profile for TPM 2.0, clause 2 (endorsement keys) and Annex B (templates).
"""

from __future__ import annotations

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm import algorithms, roca
from trusted_infrastructure.tpm.public_area import RH_ENDORSEMENT, Attributes, PublicArea
from trusted_infrastructure.tpm.structures import u16, u32

_SIGNATURE_SCHEMES = {
    algorithms.RSA: frozenset({algorithms.RSASSA, algorithms.RSAPSS}),
    algorithms.ECC: frozenset({algorithms.ECDSA}),
}
_SUPPORTED_AES_BITS = frozenset({128, 256})
_STRONG = "RSA-2048, RSA-3072, ECC P-256 or ECC P-384"

# fixedTPM, fixedParent: without them the key could be copied to software, which would answer for the TPM.
# sensitiveDataOrigin: without it the private key came from outside, and whoever made it still has it.
_BOUND_TO_TPM = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.SENSITIVE_DATA_ORIGIN

# restricted: without it the key signs any digest, also that of a quote written by hand; with decrypt, a
# restricted key is a storage parent and not a signing key.
_ATTESTATION_KEY = _BOUND_TO_TPM | Attributes.RESTRICTED | Attributes.SIGN

# restricted and decrypt: without restricted, TPM2_RSA_Decrypt would open a credential's seed for anybody, and
# no check of the attestation key's Name would take place; with sign, the key's use is not what we believe.
_ENDORSEMENT_KEY = _BOUND_TO_TPM | Attributes.RESTRICTED | Attributes.DECRYPT


def check_endorsement_key(public: PublicArea) -> None:
    """Refuse what is not an endorsement key. Raises Refusal (ek_attributes, ek_weak, malformed_request)."""
    what = "endorsement key"
    remedy = "use the endorsement key of the TPM's TCG template"
    _require_attributes(public, _ENDORSEMENT_KEY, Attributes.SIGN, "ek_attributes", what, remedy)
    _require_strength(public, "ek_weak", what, remedy)
    # A restricted decryption key has exactly one symmetric cipher; a weaker or unknown one would protect the
    # credential's secret badly, or not in a way that we can produce.
    symmetric = public.symmetric
    known = symmetric.algorithm == algorithms.AES and symmetric.key_bits in _SUPPORTED_AES_BITS
    if not known or symmetric.mode != algorithms.CFB:
        found = f"{algorithms.name_of(symmetric.algorithm)}-{symmetric.key_bits}"
        raise Refusal(
            "ek_weak",
            f"endorsement key: symmetric cipher must be AES-128 or AES-256 CFB: found {found}",
            remedy,
        )
    if public.scheme.algorithm != algorithms.NULL:
        found = algorithms.name_of(public.scheme.algorithm)
        raise Refusal(
            "ek_attributes", f"endorsement key: must have no scheme of its own: found {found}", remedy
        )


def check_attestation_key(public: PublicArea) -> None:
    """Refuse what is not an attestation key. Raises Refusal (ak_attributes, ak_weak, malformed_request)."""
    what = "attestation key"
    remedy = "make the attestation key anew with the agent's template"
    _require_attributes(public, _ATTESTATION_KEY, Attributes.DECRYPT, "ak_attributes", what, remedy)
    _require_strength(public, "ak_weak", what, remedy)
    # Only a storage key has a cipher (Part 2, 12.2.3.5): whatever this is, no TPM made it.
    if public.symmetric.algorithm != algorithms.NULL:
        found = algorithms.name_of(public.symmetric.algorithm)
        raise Refusal("ak_attributes", f"{what}: must have no symmetric cipher: found {found}", remedy)
    # Without a fixed scheme the signer chooses one for each quote, and could choose the weakest.
    if public.scheme.algorithm not in _SIGNATURE_SCHEMES[public.key_type]:
        found = algorithms.name_of(public.scheme.algorithm)
        raise Refusal(
            "ak_attributes", f"attestation key: scheme must be RSASSA, RSAPSS or ECDSA: found {found}", remedy
        )
    if public.scheme.hash not in algorithms.STRONG_HASHES:
        found = algorithms.name_of(public.scheme.hash)
        raise Refusal(
            "ak_weak", f"attestation key: scheme hash must be SHA256 or stronger: found {found}", remedy
        )


def qualified_name(parent: bytes | int, public: PublicArea) -> bytes:
    """Qualified name of a key (Part 1, 16): nameAlg || H_nameAlg(qualified name of the parent || Name).

    parent: the parent's qualified name, or the handle of the hierarchy of a primary key (its four bytes are
    the hierarchy's name).
    """
    parent_name = u32(parent) if isinstance(parent, int) else parent
    return u16(public.name_alg) + public.name_hash.digest(parent_name + public.name)


def endorsement_hierarchy_names(ek: PublicArea, ak: PublicArea) -> tuple[bytes, bytes]:
    """The two qualified names that an attestation key of this TPM may have: as a primary key of the
    endorsement hierarchy, and as a child of the endorsement key `ek` (itself a primary there)."""
    return qualified_name(RH_ENDORSEMENT, ak), qualified_name(qualified_name(RH_ENDORSEMENT, ek), ak)


def _require_attributes(
    public: PublicArea, required: Attributes, forbidden: Attributes, code: str, what: str, remedy: str
) -> None:
    missing = required & ~public.attributes
    if missing:
        raise Refusal(code, f"{what}: lacks the attributes {_names(missing)}", remedy)
    if public.attributes & forbidden:
        raise Refusal(code, f"{what}: must not have the attribute {_names(forbidden)}", remedy)


def _require_strength(public: PublicArea, code: str, what: str, remedy: str) -> None:
    # A weak key can be computed from its public half: whoever does owns the identity.
    if public.key_type == algorithms.RSA:
        if public.key_bits not in algorithms.SUPPORTED_RSA_BITS:
            raise Refusal(code, f"{what}: must be {_STRONG}: found {public.algorithm_name}", remedy)
        # Small exponents make padding errors exploitable; TPMs use 65537.
        if public.exponent != algorithms.DEFAULT_RSA_EXPONENT:
            raise Refusal(code, f"{what}: RSA exponent must be 65537: found {public.exponent}", remedy)
        # CVE-2017-15361: primes of one vendor's library can be found from the modulus.
        if roca.has_fingerprint(int.from_bytes(public.modulus, "big")):
            raise Refusal(
                code,
                f"{what}: its RSA key is of the weak kind of CVE-2017-15361 (ROCA)",
                "replace the TPM or update its firmware, then make new keys",
            )
    elif public.curve not in algorithms.SUPPORTED_CURVES:
        raise Refusal(code, f"{what}: must be {_STRONG}: found {public.algorithm_name}", remedy)
    # With a SHA-1 Name, two public areas with one Name can be made, and a credential is bound to the Name.
    if public.name_alg not in algorithms.STRONG_HASHES:
        found = algorithms.name_of(public.name_alg)
        raise Refusal(code, f"{what}: nameAlg must be SHA256 or stronger: found {found}", remedy)
    public.public_key()


def _names(attributes: Attributes) -> str:
    return ", ".join(_FIELD_NAMES[flag] for flag in Attributes if flag & attributes)


_FIELD_NAMES = {
    Attributes.FIXED_TPM: "fixedTPM",
    Attributes.ST_CLEAR: "stClear",
    Attributes.FIXED_PARENT: "fixedParent",
    Attributes.SENSITIVE_DATA_ORIGIN: "sensitiveDataOrigin",
    Attributes.USER_WITH_AUTH: "userWithAuth",
    Attributes.ADMIN_WITH_POLICY: "adminWithPolicy",
    Attributes.FIRMWARE_LIMITED: "firmwareLimited",
    Attributes.SVN_LIMITED: "svnLimited",
    Attributes.NO_DA: "noDA",
    Attributes.ENCRYPTED_DUPLICATION: "encryptedDuplication",
    Attributes.RESTRICTED: "restricted",
    Attributes.DECRYPT: "decrypt",
    Attributes.SIGN: "sign",
    Attributes.X509_SIGN: "x509sign",
}

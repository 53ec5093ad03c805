# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sealed to this host's TPM, opened under PCR values that a key approved.

Sealed data is a child of the storage primary key (SRK) of the owner hierarchy: no other TPM opens it, and
TPM2_Clear ends it. Its only authorization is a policy, TPM2_PolicyAuthorize for one signing key: see
`tpm.policy`. The secret goes to and from the TPM in a session that is salted to the storage key, as an
encrypted parameter, so that it does not cross the bus in the clear.

Sources: TCG TPM 2.0 Library Part 1, 19 (sessions, policy), 21 (parameter encryption), 27.5 (sealed data);
Part 3, 12.1 (TPM2_Create), 12.3 (TPM2_LoadExternal), 12.7 (TPM2_Unseal), 20.1 (TPM2_VerifySignature), 23.7,
23.16; TCG TPM v2.0 Provisioning Guidance, 7.5.1 (storage primary key).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tpm2_pytss import TSS2_Exception, constants, types

from trusted_infrastructure.host.tpm_device.connection import TpmConnection, command, tpm_error, unmarshal
from trusted_infrastructure.host.tpm_values import SealedData, StorageKeyType
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tpm.keys import qualified_name
from trusted_infrastructure.tpm.policy import (
    DIGEST_SIZE,
    SIGNATURE_SIZE,
    SignedPcrPolicy,
    pcr_values_digest,
    policy_authorize_digest,
    policy_key_name,
    policy_key_public_area,
    to_be_signed,
)
from trusted_infrastructure.tpm.public_area import RH_OWNER, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import pcr_selection

MAXIMUM_SECRET = 128  # Part 2, 11.1.14: MAX_SYM_DATA
UNSEAL_ATTEMPTS = 5
STORAGE_KEY_HANDLE = 0x81000001
_PCR_CHANGED = 0x128  # TPM_RC_PCR_CHANGED

# Fixed to its parent in its TPM; opened by policy alone. noDA: there is no authorization value to guess.
_SEALED_ATTRIBUTES = (
    constants.TPMA_OBJECT.FIXEDTPM
    | constants.TPMA_OBJECT.FIXEDPARENT
    | constants.TPMA_OBJECT.ADMINWITHPOLICY
    | constants.TPMA_OBJECT.NODA
)
_STORAGE_ATTRIBUTES = (
    constants.TPMA_OBJECT.FIXEDTPM
    | constants.TPMA_OBJECT.FIXEDPARENT
    | constants.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | constants.TPMA_OBJECT.USERWITHAUTH
    | constants.TPMA_OBJECT.NODA
    | constants.TPMA_OBJECT.RESTRICTED
    | constants.TPMA_OBJECT.DECRYPT
)


@dataclass(frozen=True)
class _StorageKey:
    """handle: ESYS_TR."""

    type: StorageKeyType
    handle: Any
    name: bytes


class SealedStorage(TpmConnection):
    """The part of a visit that seals and unseals. Raises Unavailable as `TpmConnection`."""

    def seal(self, secret: bytes, policy: bytes) -> SealedData:
        """Seal `secret` (1 to 128 bytes) to this TPM. policy: digest (32 bytes), `policy_authorize_digest`.

        Raises InvalidField (secret, policy).
        """
        if not 1 <= len(secret) <= MAXIMUM_SECRET:
            raise InvalidField("secret", f"has {len(secret)} bytes; 1 to {MAXIMUM_SECRET} can be sealed")
        if len(policy) != DIGEST_SIZE:
            raise InvalidField("policy", f"has {len(policy)} bytes; a policy digest has {DIGEST_SIZE}")
        sensitive = types.TPM2B_SENSITIVE_CREATE(
            types.TPMS_SENSITIVE_CREATE(data=types.TPM2B_SENSITIVE_DATA(secret))
        )
        with (
            self._storage_key(None) as parent,
            self.salted_session(parent.handle) as session,
            command("TPM2_Create"),
        ):
            private, public, *_rest = self.esapi.create(
                parent.handle,
                sensitive,
                _sealed_template(policy),
                session1=constants.ESYS_TR.PASSWORD,
                session2=session,
            )
            return SealedData(parent.type, parent.name, public.marshal(), private.marshal())

    def unseal(self, sealed: SealedData, policy: SignedPcrPolicy) -> bytes:
        """The secret, if the PCRs have the values of `policy` and its key is the one that was sealed for.

        Raises Refusal: sealed_data_foreign (another TPM, or cleared since), sealed_data_invalid,
        pcr_policy_invalid (key or signature), pcr_policy_mismatch (PCR values).
        """
        if _policy_of(sealed) != policy_authorize_digest(
            policy_key_name(policy.public_key), policy.reference
        ):
            raise _policy_invalid("is of another key or for another cluster than the data was sealed for")
        with self._storage_key(sealed.storage_key) as parent:
            if parent.name != sealed.storage_key_name:
                raise Refusal(
                    "sealed_data_foreign",
                    "the TPM's storage key is another one than the data was sealed to: the TPM was cleared, "
                    "or replaced",
                    "let the workload manager push the provider again",
                    status=409,
                )
            with self._sealed_object(parent, sealed) as item:
                return self._unsealed(parent, item, policy)

    # ---- sealed data --------------------------------------------------------------------------------------

    @contextmanager
    def _sealed_object(self, parent: _StorageKey, sealed: SealedData) -> Iterator[Any]:
        public = unmarshal(types.TPM2B_PUBLIC, sealed.public, "public")
        private = unmarshal(types.TPM2B_PRIVATE, sealed.private, "private")
        try:
            handle = self.esapi.load(parent.handle, private, public, session1=constants.ESYS_TR.PASSWORD)
        except TSS2_Exception as error:
            raise _judged("TPM2_Load", error, _data_invalid(f"is not loaded by the TPM: {error}")) from None
        with self.flushed(handle):
            yield handle

    def _unsealed(self, parent: _StorageKey, item: Any, policy: SignedPcrPolicy) -> bytes:
        for _attempt in range(UNSEAL_ATTEMPTS):
            # A policy session is of one use: when a PCR moved in between, a new one is needed.
            with self.salted_session(parent.handle, constants.TPM2_SE.POLICY) as session:
                self._fulfil(session, policy)
                try:
                    return bytes(self.esapi.unseal(item, session1=session))
                except TSS2_Exception as error:
                    if int(error.rc) != _PCR_CHANGED:
                        refusal = _policy_invalid(f"does not open what was sealed: {error}")
                        raise _judged("TPM2_Unseal", error, refusal) from None
        raise Unavailable(
            "tpm_pcrs_unstable",
            f"the PCRs changed in {UNSEAL_ATTEMPTS} attempts to unseal",
            "find what extends these PCRs all the time",
        )

    def _fulfil(self, session: Any, policy: SignedPcrPolicy) -> None:
        """Bring a policy session to what the key approved, then to the key itself."""
        key_name, ticket = self._approval(policy)
        selection = unmarshal(types.TPML_PCR_SELECTION, pcr_selection(policy.bank, list(policy.pcrs)), "pcrs")
        try:
            self.esapi.policy_pcr(session, pcr_values_digest(policy.pcrs), selection)
        except TSS2_Exception as error:
            refusal = Refusal(
                "pcr_policy_mismatch",
                "the PCRs have other values than the signed policy",
                "see which PCRs differ; sign a policy for the base image that this host runs",
                status=409,
            )
            raise _judged("TPM2_PolicyPCR", error, refusal) from None
        try:
            self.esapi.policy_authorize(session, policy.digest, key_name, ticket, policy.reference)
        except TSS2_Exception as error:
            refusal = _policy_invalid(f"is not accepted by the TPM: {error}")
            raise _judged("TPM2_PolicyAuthorize", error, refusal) from None

    def _approval(self, policy: SignedPcrPolicy) -> tuple[bytes, Any]:
        """Name of the approving key, and the TPM's ticket that it verified the signature."""
        public = unmarshal(types.TPM2B_PUBLIC, policy_key_public_area(policy.public_key), "public_key")
        approved = hashlib.sha256(to_be_signed(policy.digest, policy.reference)).digest()
        with command("TPM2_LoadExternal"):
            # Only a key of a hierarchy gets a ticket that says anything; NULL gives an empty one.
            key = self.esapi.load_external(public, hierarchy=constants.ESYS_TR.OWNER)
        with self.flushed(key):
            try:
                ticket = self.esapi.verify_signature(key, approved, _signature(policy.signature))
            except TSS2_Exception as error:
                refusal = _policy_invalid("has a signature that is not its key's")
                raise _judged("TPM2_VerifySignature", error, refusal) from None
        return policy_key_name(policy.public_key), ticket

    # ---- storage key --------------------------------------------------------------------------------------

    @contextmanager
    def _storage_key(self, key_type: StorageKeyType | None) -> Iterator[_StorageKey]:
        """The storage primary key of a type; None: a persistent one, else the quickest that the TPM makes."""
        wanted: tuple[StorageKeyType, ...] = (key_type,) if key_type else ("ECC_NIST_P_256", "RSA_2048")
        found = self._persistent_storage_key(wanted)
        if found is not None:
            try:
                yield found
            finally:
                self.esapi.tr_close(found.handle)
            return
        made: StorageKeyType = key_type or ("ECC_NIST_P_256" if self.has_p256() else "RSA_2048")
        with command("TPM2_CreatePrimary"):
            handle, public, *_rest = self.esapi.create_primary(
                None, _storage_template(made), constants.ESYS_TR.OWNER, session1=constants.ESYS_TR.PASSWORD
            )
        with self.flushed(handle):
            yield _StorageKey(made, handle, parse_tpm2b_public(public.marshal(), "storage_key").name)

    def _persistent_storage_key(self, wanted: tuple[StorageKeyType, ...]) -> _StorageKey | None:
        """The key at the handle that the TCG gives to the storage primary key, if the template made it."""
        if STORAGE_KEY_HANDLE not in self.handles(STORAGE_KEY_HANDLE):
            return None
        with command("TPM2_ReadPublic"):
            handle = self.esapi.tr_from_tpmpublic(STORAGE_KEY_HANDLE)
            public, _name, qualified = self.esapi.read_public(handle)
        for key_type in wanted:
            template = _storage_template(key_type)
            if public.publicArea.type != template.publicArea.type:
                continue
            template.publicArea.unique = public.publicArea.unique
            if template.marshal() == public.marshal():
                area = parse_tpm2b_public(public.marshal(), "storage_key")
                # Any key could have been put there: the qualified name shows a primary key of this hierarchy.
                if bytes(qualified) == qualified_name(RH_OWNER, area):
                    return _StorageKey(key_type, handle, area.name)
        self.esapi.tr_close(handle)
        return None


def _judged(name: str, error: Any, refusal: Refusal) -> Refusal:
    """`refusal` where the TPM judged what it was given; Unavailable for a fault of the moment."""
    return refusal if error.fmt1 else tpm_error(name, error)


def _policy_invalid(reason: str) -> Refusal:
    return Refusal(
        "pcr_policy_invalid",
        f"the PCR policy {reason}",
        "let the workload manager sign the policy with the key that the provider was pushed with",
        status=409,
    )


def _data_invalid(reason: str) -> Refusal:
    return Refusal(
        "sealed_data_invalid",
        f"the sealed data {reason}",
        "let the workload manager push the provider again",
        status=409,
    )


def _policy_of(sealed: SealedData) -> bytes:
    public = unmarshal(types.TPM2B_PUBLIC, sealed.public, "public")
    return bytes(public.publicArea.authPolicy)


def _signature(signature: bytes) -> Any:
    """TPMT_SIGNATURE from r and s. A length that no signature has is left to the TPM's judgement."""
    if len(signature) != SIGNATURE_SIZE:
        raise _policy_invalid(f"has a signature of {len(signature)} bytes; expected {SIGNATURE_SIZE}")
    half = SIGNATURE_SIZE // 2
    ecdsa = types.TPMS_SIGNATURE_ECC(
        hash=constants.TPM2_ALG.SHA256, signatureR=signature[:half], signatureS=signature[half:]
    )
    return types.TPMT_SIGNATURE(sigAlg=constants.TPM2_ALG.ECDSA, signature=types.TPMU_SIGNATURE(ecdsa=ecdsa))


def _sealed_template(policy: bytes) -> Any:
    """TPM2B_PUBLIC of sealed data: a keyed hash object without a scheme."""
    template = types.TPM2B_PUBLIC.parse("keyedhash", objectAttributes=_SEALED_ATTRIBUTES, nameAlg="sha256")
    template.publicArea.authPolicy = policy
    return template


def _storage_template(key_type: StorageKeyType) -> Any:
    """TPM2B_PUBLIC: the TCG's template, `unique` all zeros."""
    base = "ecc256:null:aes128cfb" if key_type == "ECC_NIST_P_256" else "rsa2048:null:aes128cfb"
    template = types.TPM2B_PUBLIC.parse(base, objectAttributes=_STORAGE_ATTRIBUTES, nameAlg="sha256")
    if key_type == "ECC_NIST_P_256":
        template.publicArea.unique.ecc.x = bytes(32)
        template.publicArea.unique.ecc.y = bytes(32)
    else:
        template.publicArea.unique.rsa = bytes(256)
    return template

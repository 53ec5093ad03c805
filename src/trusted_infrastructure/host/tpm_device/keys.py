# SPDX-License-Identifier: GPL-3.0-or-later
"""The endorsement key and the attestation key in this host's TPM: find or make, activate a credential, quote.

The attestation key (AK) is a child of the endorsement key (EK): the TPM itself ties the two together, its
qualified name follows from both public areas, and TPM2_Clear ends it. Commands that use it run in a session
that is salted to the EK, so neither the AK's authorization value nor an activated secret crosses the bus in
the clear.

Sources: TCG TPM 2.0 Library Part 1, 19 (sessions), 24 (credential protection); Part 3, 12 (objects), 18.4
(TPM2_Quote), 24.1 (TPM2_CreatePrimary); TCG EK Credential Profile for TPM 2.0, 2.2.1 (NV indices) and Annex B
(templates).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tpm2_pytss import TSS2_Exception, constants, types, utils

from trusted_infrastructure.host.endorsement_certificates import (
    CHAIN_INDICES,
    certificates_in,
    certified_key,
)
from trusted_infrastructure.host.tpm_device.connection import command, tpm_error, unmarshal
from trusted_infrastructure.host.tpm_device.sealed_data import SealedStorage
from trusted_infrastructure.host.tpm_values import (
    AttestationKey,
    EndorsementKey,
    EndorsementKeyType,
    SignedQuote,
)
from trusted_infrastructure.refusal import Refusal, Unavailable
from trusted_infrastructure.tpm.keys import qualified_name
from trusted_infrastructure.tpm.public_area import RH_ENDORSEMENT, Attributes, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import parse_quote, pcr_selection

AUTHORIZATION_SIZE = 32
QUOTE_ATTEMPTS = 5
_PERSISTENT_ENDORSEMENT = range(0x81010000, 0x81020000)

# EK type -> name of the TCG template. Templates "H-n" exist only where the TPM has a certificate for them.
_TEMPLATES: dict[EndorsementKeyType, str] = {
    "RSA_2048": "EK-RSA2048",
    "ECC_NIST_P_256": "EK-ECC256",
    "RSA_3072": "EK-HIGH-RSA3072",
    "ECC_NIST_P_384": "EK-HIGH-ECC384",
}


@dataclass(frozen=True)
class _LoadedEndorsementKey:
    """handle: ESYS_TR. public: TPM2B_PUBLIC."""

    handle: Any
    public: bytes
    qualified_name: bytes

    @property
    def name_alg(self) -> int:
        return parse_tpm2b_public(self.public, "ek_public").name_alg

    @property
    def takes_password(self) -> bool:
        """True for the templates whose use the (empty) authorization value allows, beside their policy."""
        return bool(parse_tpm2b_public(self.public, "ek_public").attributes & Attributes.USER_WITH_AUTH)


class TpmDevice(SealedStorage):
    """One visit to the TPM; a context manager. A visit belongs to one thread; `TpmWorker` lets them in one at
    a time. Everything raises Unavailable (tpm_unavailable: not reached; tpm_error: a command failed).
    """

    # ---- keys ---------------------------------------------------------------------------------------------

    def endorsement_key(self, key_type: EndorsementKeyType) -> EndorsementKey:
        """The endorsement key of `key_type` with its certificates. Raises Refusal (ek_missing)."""
        with self._loaded_endorsement_key(key_type) as key:
            return EndorsementKey(
                key_type,
                key.public,
                parse_tpm2b_public(key.public, "ek_public").name,
                key.qualified_name,
                self._certificates(key_type),
            )

    def endorsement_keys(self) -> list[EndorsementKey]:
        """The endorsement keys by the TCG templates: RSA-2048, and those with a certificate."""
        found = []
        for key_type in _TEMPLATES:
            if key_type == "RSA_2048" or self.read_nv(_certificate_index(key_type)) is not None:
                found.append(self.endorsement_key(key_type))
        return found

    def create_attestation_key(self, key_type: EndorsementKeyType) -> AttestationKey:
        """Make a new attestation key below the endorsement key of `key_type`: ECDSA P-256 with SHA-256, or
        RSASSA-2048 with SHA-256 on a TPM without that curve. Nothing stays in the TPM."""
        authorization = secrets.token_bytes(AUTHORIZATION_SIZE)
        sensitive = types.TPM2B_SENSITIVE_CREATE(
            types.TPMS_SENSITIVE_CREATE(userAuth=types.TPM2B_AUTH(authorization))
        )
        template = _attestation_key_template(self.has_p256())
        with (
            self._loaded_endorsement_key(key_type) as parent,
            self.salted_session(parent.handle) as session,
            self._use_of(parent) as use,
            command("TPM2_Create"),
        ):
            private, public, *_rest = self.esapi.create(
                parent.handle, sensitive, template, session1=use, session2=session
            )
            return AttestationKey(key_type, public.marshal(), private.marshal(), authorization)

    def accepts(self, key: AttestationKey) -> bool:
        """Whether this TPM can load `key`: not after TPM2_Clear, nor when the key is of another TPM."""
        with self._loaded_endorsement_key(key.endorsement_key) as parent:
            try:
                handle = self._load(parent, key)
            except TSS2_Exception as error:
                if error.fmt1:  # the TPM judged the parameters; everything else is a fault of the moment
                    return False
                raise tpm_error("TPM2_Load", error) from None
            with self.flushed(handle):
                return True

    def prove(
        self,
        key: AttestationKey,
        credential_blob: bytes,
        encrypted_secret: bytes,
        qualify: Callable[[bytes], bytes],
        bank: str,
        pcrs: Sequence[int],
    ) -> SignedQuote:
        """Activate a credential and quote in one visit.

        credential_blob: TPM2B_ID_OBJECT; encrypted_secret: TPM2B_ENCRYPTED_SECRET, both with their size.
        qualify: gets the activated secret, gives the qualifying data (32 bytes) of the quote.
        Raises Refusal (challenge_invalid) when the credential is not for this endorsement and attestation
        key, InvalidField (malformed_request) for bytes that are no credential, or no PCR of an active bank.
        """
        identity = unmarshal(types.TPM2B_ID_OBJECT, credential_blob, "credential_blob")
        seed = unmarshal(types.TPM2B_ENCRYPTED_SECRET, encrypted_secret, "encrypted_secret")
        with self._loaded_endorsement_key(key.endorsement_key) as parent:
            with command("TPM2_Load"):
                handle = self._load(parent, key)
            with self.flushed(handle), self.salted_session(parent.handle) as session:
                with self._use_of(parent) as use:
                    secret = self._activate(handle, parent.handle, identity, seed, session, use)
                return self._quote(handle, session, qualify(secret), bank, pcrs)

    # ---- endorsement key ----------------------------------------------------------------------------------

    @contextmanager
    def _loaded_endorsement_key(self, key_type: EndorsementKeyType) -> Iterator[_LoadedEndorsementKey]:
        template = self._endorsement_template(key_type)
        found = self._persistent_endorsement_key(key_type, template)
        if found is not None:
            # tr_close forgets our handle and leaves the key where it is.
            with ExitStack() as stack:
                stack.callback(self.esapi.tr_close, found.handle)
                yield found
            return
        with command("TPM2_CreatePrimary"):
            handle, public, *_rest = self.esapi.create_primary(
                None, template, constants.ESYS_TR.ENDORSEMENT, session1=constants.ESYS_TR.PASSWORD
            )
        with self.flushed(handle):
            yield _described(handle, public)

    def _persistent_endorsement_key(
        self, key_type: EndorsementKeyType, template: Any
    ) -> _LoadedEndorsementKey | None:
        """The persistent key that is the one of `template`, or None. Making an RSA key takes a hardware TPM
        seconds, so a provisioned one is worth looking for."""
        certified = certified_key(self._certificates(key_type))
        for persistent in self.handles(_PERSISTENT_ENDORSEMENT.start):
            if persistent not in _PERSISTENT_ENDORSEMENT:
                continue
            with command("TPM2_ReadPublic"):
                handle = self.esapi.tr_from_tpmpublic(persistent)
                public, _name, qualified = self.esapi.read_public(handle)
            # Whoever has the owner's authorization can put a key at this handle: the qualified name shows
            # that it is in the endorsement hierarchy, the template what it may do.
            if _is_of_template(public, template):
                key = _described(handle, public)
                same = (
                    certified is None or certified == parse_tpm2b_public(key.public).subject_public_key_info()
                )
                if same and bytes(qualified) == key.qualified_name:
                    return key
            self.esapi.tr_close(handle)
        return None

    def _endorsement_template(self, key_type: EndorsementKeyType) -> Any:
        """TPM2B_PUBLIC template, with the nonce or template that the manufacturer put into NV storage."""
        try:
            with command("TPM2_NV_Read"):
                _certificate, template = utils.create_ek_template(_TEMPLATES[key_type], self.read_nv_or_raise)
        except ValueError:
            raise Refusal(
                "ek_missing",
                f"endorsement key: this TPM has no certificate for a key of type {key_type}, so no such key",
                "choose another endorsement key type for this host",
            ) from None
        return template

    def _certificates(self, key_type: EndorsementKeyType) -> tuple[bytes, ...]:
        """The key's own certificate, then the intermediates; without the key's own, none."""
        own = certificates_in(self.read_nv(_certificate_index(key_type)) or b"")
        if not own:
            return ()
        chain = b""
        for index in self.handles(CHAIN_INDICES.start):
            if index in CHAIN_INDICES:
                chain += self.read_nv(index) or b""
        return (own[0], *certificates_in(chain))

    @contextmanager
    def _use_of(self, key: _LoadedEndorsementKey) -> Iterator[Any]:
        """The session that authorizes one use of an endorsement key: PolicySecret(TPM_RH_ENDORSEMENT) for the
        low-range templates, whose authorization value alone allows nothing."""
        if key.takes_password:
            yield constants.ESYS_TR.PASSWORD
            return
        with command("TPM2_PolicySecret"):
            session = self.esapi.start_auth_session(
                constants.ESYS_TR.NONE,
                constants.ESYS_TR.NONE,
                constants.TPM2_SE.POLICY,
                None,
                constants.TPM2_ALG(key.name_alg),
            )
        with self.flushed(session):
            with command("TPM2_PolicySecret"):
                self.esapi.policy_secret(constants.ESYS_TR.ENDORSEMENT, session, expiration=0)
            yield session

    # ---- attestation key ----------------------------------------------------------------------------------

    def _load(self, parent: _LoadedEndorsementKey, key: AttestationKey) -> Any:
        """ESYS_TR, to be flushed by the caller. Raises TSS2_Exception when the TPM does not take the key."""
        private = unmarshal(types.TPM2B_PRIVATE, key.private, "private")
        public = unmarshal(types.TPM2B_PUBLIC, key.public, "public")
        with self._use_of(parent) as use:
            handle = self.esapi.load(parent.handle, private, public, session1=use)
        self.esapi.tr_set_auth(handle, key.authorization)
        return handle

    def _activate(self, key: Any, parent: Any, identity: Any, seed: Any, session: Any, use: Any) -> bytes:
        try:
            secret = self.esapi.activate_credential(
                key, parent, identity, seed, session1=session, session2=use
            )
        except TSS2_Exception as error:
            if not error.fmt1:
                raise tpm_error("TPM2_ActivateCredential", error) from None
            raise Refusal(
                "challenge_invalid",
                "the TPM does not open the challenge's credential, so it was made for another endorsement "
                f"or attestation key: {error}",
                "attest again; if it stays, compare the endorsement key in the host's assertion",
            ) from None
        return bytes(secret)

    def _quote(
        self, key: Any, session: Any, qualifying_data: bytes, bank: str, pcrs: Sequence[int]
    ) -> SignedQuote:
        selection = unmarshal(types.TPML_PCR_SELECTION, pcr_selection(bank, pcrs), "pcrs")
        for _attempt in range(QUOTE_ATTEMPTS):
            values = self.read_pcrs(bank, pcrs)
            with command("TPM2_Quote"):
                attest, signature = self.esapi.quote(key, selection, qualifying_data, session1=session)
            quoted = parse_quote(bytes(attest)).pcr_digest
            read = hashlib.sha256(b"".join(values[pcr] for pcr in sorted(values))).digest()
            if hmac.compare_digest(read, quoted):
                return SignedQuote(bytes(attest), signature.marshal(), values)
        raise Unavailable(
            "tpm_pcrs_unstable",
            f"the PCRs of bank {bank} changed between reading and quoting, {QUOTE_ATTEMPTS} times",
            "find what extends these PCRs all the time, or leave them out of the base image",
        )


def _described(handle: Any, public: Any) -> _LoadedEndorsementKey:
    area = public.marshal()
    name = qualified_name(RH_ENDORSEMENT, parse_tpm2b_public(area, "ek_public"))
    return _LoadedEndorsementKey(handle, area, name)


def _is_of_template(public: Any, template: Any) -> bool:
    """Whether `public` (TPM2B_PUBLIC) is a key made by `template`: equal but for the key itself."""
    if public.publicArea.type != template.publicArea.type:
        return False
    expected, _size = types.TPM2B_PUBLIC.unmarshal(template.marshal())
    expected.publicArea.unique = public.publicArea.unique
    return bool(expected.marshal() == public.marshal())


def _attestation_key_template(p256: bool) -> Any:
    """TPM2B_PUBLIC of a restricted signing key. noDA: its authorization value is 32 random bytes, and wrong
    guesses at other objects must not lock attestation out."""
    base = "ecc256:ecdsa-sha256:null" if p256 else "rsa2048:rsassa-sha256:null"
    bits = constants.TPMA_OBJECT
    attributes = (
        bits.FIXEDTPM
        | bits.FIXEDPARENT
        | bits.SENSITIVEDATAORIGIN
        | bits.USERWITHAUTH
        | bits.NODA
        | bits.RESTRICTED
        | bits.SIGN_ENCRYPT
    )
    return types.TPM2B_PUBLIC.parse(base, objectAttributes=attributes, nameAlg="sha256")


def _certificate_index(key_type: EndorsementKeyType) -> int:
    return int(utils.ek_template.lookup(_TEMPLATES[key_type]).cert_index)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sealed to a software TPM: who opens it, under which PCR values, and what is seen on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from integration.certified_tpm import CertifiedTpm
from integration.pcr_policies import OTHERS, OURS, PolicyKey
from integration.recorded_bus import RecordedBus
from tpm2_pytss import constants, types

from trusted_infrastructure.host.tpm_device import TpmDevice
from trusted_infrastructure.host.tpm_device.connection import TpmConnection, unmarshal
from trusted_infrastructure.host.tpm_values import SealedData
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.policy import (
    SignedPcrPolicy,
    pcr_policy_digest,
    policy_authorize_digest,
    policy_key_name,
    policy_key_public_area,
)
from trusted_infrastructure.tpm.quote import pcr_selection

SECRET = bytes(range(100, 132))
PCRS = (0, 4, 7, 12)


@pytest.fixture(scope="module")
def tpm() -> Iterator[CertifiedTpm]:
    with CertifiedTpm() as started:
        yield started


@pytest.fixture
def device(tpm: CertifiedTpm) -> Iterator[TpmDevice]:
    with TpmDevice(tpm.tcti) as opened:
        yield opened


@pytest.fixture(scope="module")
def key() -> PolicyKey:
    return PolicyKey()


def authorized_by(key: PolicyKey, reference: bytes = OURS) -> bytes:
    return policy_authorize_digest(policy_key_name(key.public), reference)


def policy_now(device: TpmDevice, key: PolicyKey, pcrs: tuple[int, ...] = PCRS) -> SignedPcrPolicy:
    return key.policy(device.read_pcrs("sha256", pcrs))


def refused(device: TpmDevice, sealed: SealedData, policy: SignedPcrPolicy) -> str:
    with pytest.raises(Refusal) as refusal:
        device.unseal(sealed, policy)
    assert SECRET.hex() not in str(refusal.value)
    return refusal.value.code


# ---- the digests are those of the TPM ---------------------------------------------------------------------


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
@pytest.mark.parametrize("pcrs", [(7,), PCRS, tuple(range(24))])
def test_a_tpm_computes_the_same_pcr_policy(device: TpmDevice, bank: str, pcrs: tuple[int, ...]) -> None:
    values = device.read_pcrs(bank, pcrs)
    with trial(device) as session:
        selection = unmarshal(types.TPML_PCR_SELECTION, pcr_selection(bank, pcrs), "pcrs")
        device.esapi.policy_pcr(session, None, selection)
        assert bytes(device.esapi.policy_get_digest(session)) == pcr_policy_digest(bank, values)


def test_a_tpm_computes_the_same_name_and_authorization(device: TpmDevice, key: PolicyKey) -> None:
    public = unmarshal(types.TPM2B_PUBLIC, policy_key_public_area(key.public), "public")
    handle = device.esapi.load_external(public, hierarchy=constants.ESYS_TR.OWNER)
    with device.flushed(handle):
        name = bytes(device.esapi.tr_get_name(handle))
    assert name == policy_key_name(key.public)
    ticket = types.TPMT_TK_VERIFIED(tag=constants.TPM2_ST.VERIFIED, hierarchy=constants.TPM2_RH.OWNER)
    with trial(device) as session:
        device.esapi.policy_authorize(session, b"", name, ticket, OURS)
        assert bytes(device.esapi.policy_get_digest(session)) == authorized_by(key)


def trial(device: TpmDevice) -> Any:
    session = device.esapi.start_auth_session(
        constants.ESYS_TR.NONE,
        constants.ESYS_TR.NONE,
        constants.TPM2_SE.TRIAL,
        types.TPMT_SYM_DEF(algorithm=constants.TPM2_ALG.NULL),
        constants.TPM2_ALG.SHA256,
    )

    class Trial:
        def __enter__(self) -> Any:
            return session

        def __exit__(self, *_error: object) -> None:
            device.esapi.flush_context(session)

    return Trial()


# ---- who does not open it ---------------------------------------------------------------------------------

Change = Callable[[SignedPcrPolicy, PolicyKey], SignedPcrPolicy]
OTHER_KEY = PolicyKey()


def signed_by_another(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return OTHER_KEY.policy(policy.pcrs)


def signature_of_another(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, signature=OTHER_KEY.sign(policy.digest))


def signed_for_another_use(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, signature=key.sign(policy.digest, b"another use"))


def another_use(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    signature = key.sign(policy.digest, b"another use")
    return dataclasses.replace(policy, signature=signature, reference=b"another use")


def of_another_cluster(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    return key.policy(policy.pcrs, reference=OTHERS)


def of_another_cluster_as_if_ours(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(of_another_cluster(policy, key), reference=OURS)


def changed_value(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, pcrs={**policy.pcrs, 4: bytes(32)[:-1] + b"\1"})


def other_values(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    return key.policy({**policy.pcrs, 4: b"\x44" * 32})


def other_bank(policy: SignedPcrPolicy, key: PolicyKey) -> SignedPcrPolicy:
    return key.policy({number: value + b"\1" * 16 for number, value in policy.pcrs.items()}, "sha384")


def fewer_pcrs_than_signed(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, pcrs={0: policy.pcrs[0]})


def without_signature(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, signature=b"")


def zero_signature(policy: SignedPcrPolicy, _key: PolicyKey) -> SignedPcrPolicy:
    return dataclasses.replace(policy, signature=bytes(64))


REFUSALS: dict[Change, str] = {
    signed_by_another: "pcr_policy_invalid",
    signature_of_another: "pcr_policy_invalid",
    signed_for_another_use: "pcr_policy_invalid",
    another_use: "pcr_policy_invalid",
    of_another_cluster: "pcr_policy_invalid",
    of_another_cluster_as_if_ours: "pcr_policy_invalid",
    changed_value: "pcr_policy_invalid",
    fewer_pcrs_than_signed: "pcr_policy_invalid",
    without_signature: "pcr_policy_invalid",
    zero_signature: "pcr_policy_invalid",
    other_values: "pcr_policy_mismatch",
    other_bank: "pcr_policy_mismatch",
}


@pytest.mark.parametrize("change", REFUSALS, ids=lambda change: change.__name__)
def test_what_opens_nothing(device: TpmDevice, key: PolicyKey, change: Change) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    policy = policy_now(device, key)
    assert refused(device, sealed, change(policy, key)) == REFUSALS[change]
    assert device.unseal(sealed, policy) == SECRET


REFUSED_BY_THE_TPM: dict[Change, str] = {
    signed_by_another: "does not open what was sealed",
    another_use: "does not open what was sealed",
    of_another_cluster: "does not open what was sealed",
    of_another_cluster_as_if_ours: "signature that is not its key's",
}


@pytest.mark.parametrize("change", REFUSED_BY_THE_TPM, ids=lambda change: change.__name__)
def test_the_tpm_itself_refuses_another_key_or_cluster(
    device: TpmDevice, key: PolicyKey, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """Our own comparison is taken away: TPM2_VerifySignature and TPM2_Unseal are what refuses."""
    sealed = device.seal(SECRET, authorized_by(key))
    policy = change(policy_now(device, key), key)
    expected = policy_authorize_digest(policy_key_name(policy.public_key), policy.reference)
    monkeypatch.setattr("trusted_infrastructure.host.tpm_device.sealed_data._policy_of", lambda _: expected)
    with pytest.raises(Refusal, match=f"pcr_policy_invalid.*{REFUSED_BY_THE_TPM[change]}"):
        device.unseal(sealed, policy)
    # The same for the other side: what was sealed for that key and cluster, it opens.
    if change is not of_another_cluster_as_if_ours:
        assert device.unseal(device.seal(SECRET, expected), policy) == SECRET


def test_an_extended_pcr_closes_and_a_policy_for_its_value_opens(key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        with TpmDevice(tpm.tcti) as device:
            sealed = device.seal(SECRET, authorized_by(key))
            before = policy_now(device, key)
            assert device.unseal(sealed, before) == SECRET
        tpm.tool("tpm2_pcrextend", "4:sha256=" + "ab" * 32)
        with TpmDevice(tpm.tcti) as device:
            assert refused(device, sealed, before) == "pcr_policy_mismatch"
            assert device.unseal(sealed, policy_now(device, key)) == SECRET
        tpm.reboot()
        with TpmDevice(tpm.tcti) as device:
            assert device.unseal(sealed, before) == SECRET


def test_another_tpm_does_not_open_it(device: TpmDevice, key: PolicyKey) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    policy = policy_now(device, key)
    with CertifiedTpm() as other, TpmDevice(other.tcti) as foreign:
        assert refused(foreign, sealed, policy) == "sealed_data_foreign"
        with foreign._storage_key(sealed.storage_key) as parent:
            renamed = dataclasses.replace(sealed, storage_key_name=parent.name)
        assert refused(foreign, renamed, policy) == "sealed_data_invalid"


def test_a_cleared_tpm_does_not_open_it(key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        with TpmDevice(tpm.tcti) as device:
            sealed = device.seal(SECRET, authorized_by(key))
            policy = policy_now(device, key)
        tpm.tool("tpm2_clear", "-c", "p")
        with TpmDevice(tpm.tcti) as device:
            assert refused(device, sealed, policy) == "sealed_data_foreign"


def test_changed_sealed_data_is_not_opened(device: TpmDevice, key: PolicyKey) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    policy = policy_now(device, key)
    for index in range(2, len(sealed.private), 17):
        private = bytearray(sealed.private)
        private[index] ^= 1
        changed = dataclasses.replace(sealed, private=bytes(private))
        assert refused(device, changed, policy) in ("sealed_data_invalid", "malformed_request")


@pytest.mark.parametrize("secret", [b"", bytes(129)])
def test_what_cannot_be_sealed_is_said(device: TpmDevice, key: PolicyKey, secret: bytes) -> None:
    with pytest.raises(InvalidField, match="secret"):
        device.seal(secret, authorized_by(key))
    with pytest.raises(InvalidField, match="policy"):
        device.seal(SECRET, b"short")


# ---- what is sealed, and below what -----------------------------------------------------------------------


def test_the_attributes_leave_the_policy_alone(device: TpmDevice, key: PolicyKey) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    area = unmarshal(types.TPM2B_PUBLIC, sealed.public, "public").publicArea
    bits = constants.TPMA_OBJECT
    assert area.objectAttributes == bits.FIXEDTPM | bits.FIXEDPARENT | bits.ADMINWITHPOLICY | bits.NODA
    assert (area.type, area.nameAlg) == (constants.TPM2_ALG.KEYEDHASH, constants.TPM2_ALG.SHA256)
    assert bytes(area.authPolicy) == authorized_by(key)


def test_no_password_opens_it(device: TpmDevice, key: PolicyKey) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    with device._storage_key(sealed.storage_key) as parent, device._sealed_object(parent, sealed) as item:
        with pytest.raises(Exception, match="policy|auth"):
            device.esapi.unseal(item)


@pytest.mark.parametrize("curve", [True, False])
def test_a_persistent_storage_key_is_used(
    key: PolicyKey, monkeypatch: pytest.MonkeyPatch, curve: bool
) -> None:
    monkeypatch.setattr(TpmConnection, "has_p256", lambda _self: curve)
    with CertifiedTpm() as tpm:
        with TpmDevice(tpm.tcti) as device:
            sealed = device.seal(SECRET, authorized_by(key))
            assert sealed.storage_key == ("ECC_NIST_P_256" if curve else "RSA_2048")
            with device._storage_key(sealed.storage_key) as made:
                device.esapi.evict_control(constants.ESYS_TR.OWNER, made.handle, 0x81000001)
        with TpmDevice(tpm.tcti) as device:
            with monkeypatch.context() as without:
                without.setattr(device.esapi, "create_primary", None)
                policy = policy_now(device, key)
                assert device.unseal(sealed, policy) == SECRET
                again = device.seal(SECRET, authorized_by(key))
            assert again.storage_key == sealed.storage_key
            assert device.unseal(again, policy) == SECRET
        assert tpm.handles("transient") + tpm.handles("loaded-session") == []


def test_a_foreign_key_at_the_handle_is_not_sealed_to(key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
        tpm.tool(
            *("tpm2_createprimary", "-C", "e", "-g", "sha256", "-G", "ecc256:aes128cfb", "-c", "decoy.ctx"),
            *("-a", attributes),
        )
        tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "decoy.ctx", "0x81000001")
        tpm.flush()
        with TpmDevice(tpm.tcti) as device:
            assert device._persistent_storage_key(("ECC_NIST_P_256",)) is None
            sealed = device.seal(SECRET, authorized_by(key))
            assert device.unseal(sealed, policy_now(device, key)) == SECRET


# ---- on the way, and after --------------------------------------------------------------------------------


def test_the_secret_does_not_cross_the_bus(tpm: CertifiedTpm, key: PolicyKey) -> None:
    with RecordedBus(tpm.folder / "sock") as bus:
        with TpmDevice(bus.tcti) as device:
            sealed = device.seal(SECRET, authorized_by(key))
            assert device.unseal(sealed, policy_now(device, key)) == SECRET
        seen = bus.bytes_seen
    # It is this conversation: the sealed object and the signed policy were seen in it, and nothing in clear.
    assert sealed.public in seen and sealed.private in seen
    assert OURS in seen
    assert SECRET not in seen
    assert SECRET[:8] not in seen


def test_the_bus_shows_what_is_sent_without_encryption(tpm: CertifiedTpm) -> None:
    with RecordedBus(tpm.folder / "sock") as bus, TpmDevice(bus.tcti) as device:
        device.esapi.hash(SECRET, constants.TPM2_ALG.SHA256, constants.ESYS_TR.NULL)
        assert SECRET in bus.bytes_seen


def test_a_pcr_that_changes_while_unsealing_is_tried_again(
    device: TpmDevice, key: PolicyKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = device.seal(SECRET, authorized_by(key))
    policy = policy_now(device, key)
    unseal, done = device.esapi.unseal, []

    def racing(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(device.esapi.pcr_reset(constants.ESYS_TR.PCR16))
            device.esapi.pcr_event(constants.ESYS_TR.PCR23, b"moved")
        return unseal(*arguments, **named)

    monkeypatch.setattr(device.esapi, "unseal", racing)
    assert device.unseal(sealed, policy) == SECRET
    assert done


def test_nothing_is_left_in_the_tpm(tpm: CertifiedTpm, key: PolicyKey) -> None:
    with TpmDevice(tpm.tcti) as device:
        sealed = device.seal(SECRET, authorized_by(key))
        policy = policy_now(device, key)
        for _number in range(4):
            assert device.unseal(sealed, policy) == SECRET
            for change in (signature_of_another, other_values):
                refused(device, sealed, change(policy, key))
    left = tpm.handles("transient") + tpm.handles("loaded-session") + tpm.handles("saved-session")
    assert left == []

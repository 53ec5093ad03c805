# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's use of a TPM, on a software TPM: keys, certificates, credentials, quotes; nothing is left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from integration.certified_tpm import CertifiedTpm
from services.tpm.verified_quote import verify_quote

from trusted_infrastructure.host.attestation_key import identity
from trusted_infrastructure.host.tpm_device import TpmDevice
from trusted_infrastructure.host.tpm_device import keys as device_keys
from trusted_infrastructure.host.tpm_device.connection import TpmConnection
from trusted_infrastructure.host.tpm_values import AttestationKey, EndorsementKeyType, SignedQuote
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.tpm import algorithms
from trusted_infrastructure.tpm.credential import make_credential
from trusted_infrastructure.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    endorsement_hierarchy_names,
)
from trusted_infrastructure.tpm.public_area import parse_tpm2b_public

SECRET = bytes(range(32))
PCRS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 14, 23]
TYPES: list[EndorsementKeyType] = ["RSA_2048", "ECC_NIST_P_256", "ECC_NIST_P_384"]


@pytest.fixture(scope="module")
def tpm() -> Iterator[CertifiedTpm]:
    with CertifiedTpm() as started:
        yield started


@pytest.fixture
def device(tpm: CertifiedTpm) -> Iterator[TpmDevice]:
    with TpmDevice(tpm.tcti) as opened:
        yield opened


def prove(device: TpmDevice, key: AttestationKey, **changes: Any) -> SignedQuote:
    """A quote whose qualifying data is the digest of the activated secret."""
    ek = parse_tpm2b_public(changes.get("ek", device.endorsement_key(key.endorsement_key).public))
    name = changes.get("name", parse_tpm2b_public(key.public).name)
    blob, seed = make_credential(ek, name, SECRET)
    return device.prove(
        key,
        changes.get("blob", blob),
        changes.get("seed", seed),
        lambda secret: hashlib.sha256(secret).digest(),
        changes.get("bank", "sha256"),
        changes.get("pcrs", PCRS),
    )


def verify(device: TpmDevice, key: AttestationKey, quote: SignedQuote) -> None:
    """As the Attestation Service does."""
    ek = parse_tpm2b_public(device.endorsement_key(key.endorsement_key).public)
    ak = parse_tpm2b_public(key.public)
    check_endorsement_key(ek)
    check_attestation_key(ak)
    verify_quote(
        ak=ak,
        attest=quote.attest,
        signature=quote.signature,
        qualifying_data=hashlib.sha256(SECRET).digest(),
        qualified_names=endorsement_hierarchy_names(ek, ak)[1:],
        bank="sha256",
        pcrs=PCRS,
        pcr_values=quote.pcrs,
    )


@pytest.mark.parametrize("key_type", TYPES)
def test_a_child_of_each_endorsement_key_proves_itself(
    device: TpmDevice, key_type: EndorsementKeyType
) -> None:
    key = device.create_attestation_key(key_type)
    verify(device, key, prove(device, key))


def test_a_tpm_without_the_curve_signs_with_rsa(device: TpmDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TpmConnection, "has_p256", lambda _self: False)
    key = device.create_attestation_key("RSA_2048")
    area = parse_tpm2b_public(key.public)
    assert (area.algorithm_name, area.scheme.algorithm) == ("RSA-2048", algorithms.RSASSA)
    verify(device, key, prove(device, key))


def test_an_endorsement_key_that_the_tpm_has_not_is_said_to_be_missing(device: TpmDevice) -> None:
    with pytest.raises(Refusal, match="ek_missing"):
        device.endorsement_key("RSA_3072")


def test_endorsement_keys_come_with_their_certificates(tpm: CertifiedTpm, device: TpmDevice) -> None:
    found = {key.type: key for key in device.endorsement_keys()}
    assert sorted(found) == ["ECC_NIST_P_384", "RSA_2048"]
    issuer = x509.load_pem_x509_certificate(tpm.vendor_chain[1].encode())
    for key in found.values():
        certificate = x509.load_der_x509_certificate(key.certificates[0])
        certificate.verify_directly_issued_by(issuer)
        area = parse_tpm2b_public(key.public)
        assert certificate.public_key() == area.public_key()
        assert key.name == area.name


def test_the_persistent_key_is_the_one_that_would_be_made(
    device: TpmDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    persistent = device.endorsement_key("RSA_2048")
    monkeypatch.setattr(TpmDevice, "_persistent_endorsement_key", lambda *_arguments: None)
    assert device.endorsement_key("RSA_2048") == persistent
    key = device.create_attestation_key("RSA_2048")
    verify(device, key, prove(device, key))


# ---- credentials ------------------------------------------------------------------------------------------


def test_a_credential_for_another_key_does_not_open(device: TpmDevice) -> None:
    key, other = (device.create_attestation_key("RSA_2048") for _number in range(2))
    with pytest.raises(Refusal, match="challenge_invalid"):
        prove(device, key, name=parse_tpm2b_public(other.public).name)


def test_a_credential_for_another_tpm_does_not_open(device: TpmDevice) -> None:
    key = device.create_attestation_key("RSA_2048")
    with CertifiedTpm() as other, TpmDevice(other.tcti) as foreign:
        ek = foreign.endorsement_key("RSA_2048").public
        assert not foreign.accepts(key)
        assert foreign.accepts(foreign.create_attestation_key("RSA_2048"))
    # swtpm 0.7 has TPM_RC_FAILURE, and goes on, where others have TPM_RC_VALUE: the padding does not fit.
    with pytest.raises(Refusal, match="challenge_invalid|tpm_error"):
        prove(device, key, ek=ek)
    verify(device, key, prove(device, key))


MALFORMED: dict[str, dict[str, Any]] = {
    "no credential": {"blob": b""},
    "a credential with trailing bytes": {"blob": b"\0\1xx"},
    "a credential that is too long": {"blob": b"\xff\xff"},
    "no seed": {"seed": b""},
    "a seed with trailing bytes": {"seed": b"\0\1xx"},
    "an unknown bank": {"bank": "md5"},
    "a bank that is not active": {"bank": "sha512"},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_challenges_name_the_field(device: TpmDevice, name: str) -> None:
    key = device.create_attestation_key("RSA_2048")
    with pytest.raises(InvalidField):
        prove(device, key, **MALFORMED[name])


# ---- quotes -----------------------------------------------------------------------------------------------


def test_a_quote_shows_what_was_extended(tpm: CertifiedTpm) -> None:
    with TpmDevice(tpm.tcti) as device:
        key = device.create_attestation_key("RSA_2048")
        before = prove(device, key).pcrs[23]
    tpm.tool("tpm2_pcrextend", "23:sha256=" + "ab" * 32)
    with TpmDevice(tpm.tcti) as device:
        quote = prove(device, key)
        verify(device, key, quote)
    assert quote.pcrs[23] == hashlib.sha256(before + b"\xab" * 32).digest()
    assert list(quote.pcrs) == PCRS


def _racing(device: TpmDevice, monkeypatch: pytest.MonkeyPatch, races: int) -> list[int]:
    """Let a PCR change between reading and quoting, `races` times."""
    read, done = device.read_pcrs, []

    def racing(bank: str, pcrs: Any) -> dict[int, bytes]:
        values = read(bank, pcrs)
        if len(done) < races:
            done.append(1)
            device.esapi.pcr_reset(device_keys.constants.ESYS_TR.PCR16)
            device.esapi.pcr_event(device_keys.constants.ESYS_TR.PCR16, len(done).to_bytes(4, "big"))
        return values

    monkeypatch.setattr(device, "read_pcrs", racing)
    return done


def test_a_pcr_that_changes_while_quoting_is_read_again(
    device: TpmDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = device.create_attestation_key("RSA_2048")
    done = _racing(device, monkeypatch, 2)
    quote = prove(device, key, pcrs=[0, 16])
    assert len(done) == 2
    assert quote.pcrs == device.read_pcrs("sha256", [0, 16])


def test_a_pcr_that_changes_all_the_time_is_said(device: TpmDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    key = device.create_attestation_key("RSA_2048")
    _racing(device, monkeypatch, 1000)
    with pytest.raises(Unavailable, match="tpm_pcrs_unstable"):
        prove(device, key, pcrs=[0, 16])


def test_all_pcrs_are_read(tpm: CertifiedTpm) -> None:
    with TpmDevice(tpm.tcti) as device:
        values = device.read_pcrs("sha256", range(24))
        assert device.read_pcrs("sha1", [3]) == {3: bytes(20)}
    lines = tpm.tool("tpm2_pcrread", "sha256").splitlines()[1:]
    printed = dict(line.split(":") for line in lines)
    assert {pcr: int(value, 16) for pcr, value in printed.items()} == {
        f"    {pcr:<2d}": int.from_bytes(value, "big") for pcr, value in values.items()
    }


def test_properties_are_those_of_the_tools(tpm: CertifiedTpm) -> None:
    with TpmDevice(tpm.tcti) as device:
        found = device.properties()
    assert (found.major_version, found.minor_version) == (2, 0)
    assert (found.manufacturer, found.model) == ("IBM", "SW TPM")
    assert set(found.banks) == {"sha1", "sha256", "sha384"}
    assert found.banks["sha256"] == tuple(range(24))
    assert f"value: {found.specification}" in tpm.tool("tpm2_getcap", "properties-fixed")


# ---- the attestation key that is kept ---------------------------------------------------------------------


def test_a_kept_key_serves_after_a_reboot_but_not_after_clear(tmp_path: Path) -> None:
    with CertifiedTpm() as tpm:
        with TpmDevice(tpm.tcti) as device:
            first = identity(device, "RSA_2048", tmp_path)
        tpm.reboot()
        with TpmDevice(tpm.tcti) as device:
            assert identity(device, "RSA_2048", tmp_path) == first
        tpm.tool("tpm2_clear", "-c", "p")
        with TpmDevice(tpm.tcti) as device:
            second = identity(device, "RSA_2048", tmp_path)
            assert second.attestation_key != first.attestation_key
            assert second.endorsement_key == first.endorsement_key
            verify(device, second.attestation_key, prove(device, second.attestation_key))


def test_without_its_authorization_value_the_key_is_not_used(device: TpmDevice) -> None:
    key = device.create_attestation_key("RSA_2048")
    stolen = AttestationKey(key.endorsement_key, key.public, key.private, b"")
    with pytest.raises(Refusal):
        prove(device, stolen)


# ---- what lies where --------------------------------------------------------------------------------------


def test_a_foreign_key_at_the_handle_is_not_taken_for_the_endorsement_key() -> None:
    with CertifiedTpm() as tpm:
        with TpmDevice(tpm.tcti) as device:
            genuine = device.endorsement_key("RSA_2048")
        # The owner puts a key of the same template, but of the owner hierarchy, where the genuine one was.
        tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "0x81010001")
        (tpm.folder / "policy").write_bytes(parse_tpm2b_public(genuine.public).auth_policy)
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
        tpm.tool(
            *("tpm2_createprimary", "-C", "o", "-g", "sha256", "-G", "rsa2048:aes128cfb", "-c", "decoy.ctx"),
            *("-a", attributes, "-L", "policy"),
        )
        tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", "decoy.ctx", "0x81010001")
        tpm.flush()
        with TpmDevice(tpm.tcti) as device:
            assert device.endorsement_key("RSA_2048") == genuine


def test_intermediates_are_read_across_indices() -> None:
    with CertifiedTpm() as tpm:
        chain = [
            x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
            for pem in tpm.vendor_chain
        ]
        data = b"".join(chain)
        cut = len(chain[0]) + 100
        for index, part in (("0x01c00100", data[:cut]), ("0x01c00101", data[cut:] + b"\xff" * 20)):
            (tpm.folder / "part").write_bytes(part)
            attributes = "ownerread|ownerwrite|policywrite"
            tpm.tool("tpm2_nvdefine", index, "-C", "o", "-s", str(len(part)), "-a", attributes)
            tpm.tool("tpm2_nvwrite", index, "-C", "o", "-i", "part")
        with TpmDevice(tpm.tcti) as device:
            assert device.endorsement_key("RSA_2048").certificates[1:] == tuple(chain)


# ---- nothing left behind ----------------------------------------------------------------------------------


def _loaded(tpm: CertifiedTpm) -> list[str]:
    return tpm.handles("transient") + tpm.handles("loaded-session") + tpm.handles("saved-session")


def test_a_visit_leaves_nothing(tpm: CertifiedTpm) -> None:
    for _number in range(5):
        with TpmDevice(tpm.tcti) as device:
            key = device.create_attestation_key("RSA_2048")
            prove(device, key)
    assert _loaded(tpm) == []


def test_a_visit_that_fails_leaves_nothing(tpm: CertifiedTpm) -> None:
    def fail(_secret: bytes) -> bytes:
        raise RuntimeError

    for _number in range(5):
        with TpmDevice(tpm.tcti) as device:
            key = device.create_attestation_key("RSA_2048")
            with pytest.raises(Refusal):
                prove(device, key, name=parse_tpm2b_public(device.endorsement_key("RSA_2048").public).name)
            ek = parse_tpm2b_public(device.endorsement_key("RSA_2048").public)
            blob, seed = make_credential(ek, parse_tpm2b_public(key.public).name, SECRET)
            with pytest.raises(RuntimeError):
                device.prove(key, blob, seed, fail, "sha256", PCRS)
    assert _loaded(tpm) == []


def test_what_others_left_is_flushed(tpm: CertifiedTpm) -> None:
    for number in range(3):
        tpm.tool("tpm2_createprimary", "-C", "n", "-c", f"stale-{number}.ctx")
        tpm.tool("tpm2_startauthsession", "-S", f"stale-{number}.session")
    assert len(_loaded(tpm)) >= 3
    with TpmDevice(tpm.tcti) as device:
        prove(device, device.create_attestation_key("RSA_2048"))
    assert _loaded(tpm) == []


@pytest.mark.parametrize("tcti", ["swtpm:path=/nonexistent/sock", "device:/nonexistent", "nonsense", ""])
def test_a_tpm_that_is_not_there_is_unavailable(tcti: str) -> None:
    with pytest.raises(Unavailable, match="tpm_unavailable"), TpmDevice(tcti):
        pass

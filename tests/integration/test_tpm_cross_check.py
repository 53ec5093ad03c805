# SPDX-License-Identifier: GPL-3.0-or-later
"""Our verifier against a TPM and tools that are not ours: names, credentials and quotes must agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.software_tpm import SoftwareTpm
from services.tpm.verified_quote import verify_quote

from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.tpm.credential import make_credential
from trusted_infrastructure.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    endorsement_hierarchy_names,
)
from trusted_infrastructure.tpm.public_area import PublicArea, marshal_tpmt_public, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import parse_quote
from trusted_infrastructure.tpm.structures import u32

SECRET = bytes(range(32))
QUALIFYING_DATA = bytes(range(32, 64))
PCRS = [0, 4, 7, 16]


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftwareTpm]:
    with SoftwareTpm() as started:
        yield started


def _endorsement_key(tpm: SoftwareTpm, kind: str) -> PublicArea:
    tpm.tool("tpm2_createek", "-G", kind, "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")
    tpm.flush()
    return parse_tpm2b_public(tpm.read("ek.pub"), "ek_public")


def _attestation_key(
    tpm: SoftwareTpm, kind: str = "ecc", hash_: str = "sha256", scheme: str = "ecdsa"
) -> PublicArea:
    arguments = [
        "-G",
        kind,
        "-g",
        hash_,
        "-s",
        scheme,
        "-u",
        "ak.pub",
        "-n",
        "ak.name",
        "-q",
        "ak.qn",
        "-f",
        "tss",
    ]
    tpm.tool("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", *arguments)
    tpm.flush()
    return parse_tpm2b_public(tpm.read("ak.pub"), "ak_public")


def _activate(tpm: SoftwareTpm, blob: bytes, encrypted_secret: bytes) -> bytes:
    """TPM2_ActivateCredential; the tool's file is magic, version, then our two structures."""
    (tpm.folder / "credential").write_bytes(u32(0xBADCC0DE) + u32(1) + blob + encrypted_secret)
    (tpm.folder / "secret").unlink(missing_ok=True)
    tpm.tool("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
    try:
        tpm.tool("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
        arguments = ["-i", "credential", "-o", "secret", "-P", "session:session.ctx"]
        tpm.tool("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", *arguments)
    finally:
        tpm.tool("tpm2_flushcontext", "session.ctx")
        tpm.flush()
    return tpm.read("secret")


def _activate_with_password(tpm: SoftwareTpm, blob: bytes, encrypted_secret: bytes) -> bytes:
    """As `_activate`, for the templates of the high range: their keys have userWithAuth and an empty
    value."""
    (tpm.folder / "credential").write_bytes(u32(0xBADCC0DE) + u32(1) + blob + encrypted_secret)
    (tpm.folder / "secret").unlink(missing_ok=True)
    tpm.tool("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret")
    tpm.flush()
    return tpm.read("secret")


@pytest.mark.parametrize(
    ("kind", "name", "high_range"),
    [
        ("rsa", "RSA-2048", False),
        ("ecc", "ECC P-256", False),
        ("rsa3072", "RSA-3072", True),
        ("ecc384", "ECC P-384", True),
    ],
)
def test_credential_round_trip(tpm: SoftwareTpm, kind: str, name: str, high_range: bool) -> None:
    ek = _endorsement_key(tpm, kind)
    ak = _attestation_key(tpm)
    check_endorsement_key(ek)
    check_attestation_key(ak)
    assert ek.algorithm_name == name
    assert marshal_tpmt_public(ek) == ek.marshalled
    assert marshal_tpmt_public(ak) == ak.marshalled
    assert ak.name == tpm.read("ak.name")
    activate = _activate_with_password if high_range else _activate
    assert activate(tpm, *make_credential(ek, ak.name, SECRET)) == SECRET
    # The TPM refuses a credential for another key.
    with pytest.raises(RuntimeError, match="tpm2_activatecredential"):
        activate(tpm, *make_credential(ek, ek.name, SECRET))


@pytest.mark.parametrize(
    ("kind", "hash_", "scheme"),
    [
        ("rsa", "sha256", "rsassa"),
        ("rsa", "sha256", "rsapss"),
        ("rsa", "sha384", "rsassa"),
        ("ecc", "sha256", "ecdsa"),
        ("ecc384", "sha384", "ecdsa"),
    ],
)
def test_quote_verifies(tpm: SoftwareTpm, kind: str, hash_: str, scheme: str) -> None:
    ek = _endorsement_key(tpm, "rsa")
    ak = _attestation_key(tpm, kind, hash_, scheme)
    check_attestation_key(ak)
    names = endorsement_hierarchy_names(ek, ak)
    # tpm2-tools compute the qualified name on their own.
    assert names[1] == tpm.read("ak.qn")
    tpm.tool("tpm2_pcrextend", "16:sha256=" + "5a" * 32)
    selection = "sha256:" + ",".join(map(str, PCRS))
    tpm.tool("tpm2_pcrread", selection, "-o", "values")
    tpm.tool(
        *(
            "tpm2_quote",
            "-c",
            "ak.ctx",
            "-l",
            selection,
            "-q",
            QUALIFYING_DATA.hex(),
            "-g",
            hash_,
            "--scheme",
            scheme,
        ),
        *("-m", "quote.msg", "-s", "quote.sig", "-f", "tss"),
    )
    tpm.flush()
    read = tpm.read("values")
    values = {pcr: read[32 * n : 32 * n + 32] for n, pcr in enumerate(PCRS)}
    quote = verify_quote(
        ak=ak,
        attest=tpm.read("quote.msg"),
        signature=tpm.read("quote.sig"),
        qualifying_data=QUALIFYING_DATA,
        qualified_names=names,
        bank="sha256",
        pcrs=PCRS,
        pcr_values=values,
    )
    assert quote.selections == ((0x000B, tuple(PCRS)),)
    assert quote.clock.firmware_version == parse_quote(tpm.read("quote.msg")).clock.firmware_version > 0
    with pytest.raises(Refusal, match="quote_pcr_digest"):
        verify_quote(
            ak=ak,
            attest=tpm.read("quote.msg"),
            signature=tpm.read("quote.sig"),
            qualifying_data=QUALIFYING_DATA,
            qualified_names=names,
            bank="sha256",
            pcrs=PCRS,
            pcr_values=values | {16: bytes(32)},
        )


def test_primary_attestation_key_in_the_endorsement_hierarchy(tpm: SoftwareTpm) -> None:
    ek = _endorsement_key(tpm, "ecc")
    attributes = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    tpm.tool(
        *(
            "tpm2_createprimary",
            "-C",
            "e",
            "-G",
            "ecc256:ecdsa-sha256:null",
            "-g",
            "sha256",
            "-a",
            attributes,
        ),
        *("-c", "primary.ctx"),
    )
    tpm.flush()
    tpm.tool("tpm2_readpublic", "-c", "primary.ctx", "-f", "tss", "-o", "primary.pub", "-q", "primary.qn")
    tpm.flush()
    ak = parse_tpm2b_public(tpm.read("primary.pub"), "ak_public")
    check_attestation_key(ak)
    assert endorsement_hierarchy_names(ek, ak)[0] == tpm.read("primary.qn")
    tpm.tool(
        *("tpm2_quote", "-c", "primary.ctx", "-l", "sha256:0", "-q", QUALIFYING_DATA.hex()),
        *("-m", "quote.msg", "-s", "quote.sig", "-f", "tss"),
    )
    tpm.flush()
    assert parse_quote(tpm.read("quote.msg")).qualified_signer == endorsement_hierarchy_names(ek, ak)[0]


def test_attestation_key_of_the_owner_hierarchy_is_refused(tpm: SoftwareTpm) -> None:
    ek = _endorsement_key(tpm, "ecc")
    attributes = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    tpm.tool(
        *(
            "tpm2_createprimary",
            "-C",
            "o",
            "-G",
            "ecc256:ecdsa-sha256:null",
            "-g",
            "sha256",
            "-a",
            attributes,
        ),
        *("-c", "owner.ctx"),
    )
    tpm.flush()
    tpm.tool("tpm2_readpublic", "-c", "owner.ctx", "-f", "tss", "-o", "owner.pub")
    tpm.flush()
    ak = parse_tpm2b_public(tpm.read("owner.pub"), "ak_public")
    tpm.tool("tpm2_pcrread", "sha256:0", "-o", "values")
    tpm.tool(
        *("tpm2_quote", "-c", "owner.ctx", "-l", "sha256:0", "-q", QUALIFYING_DATA.hex()),
        *("-m", "quote.msg", "-s", "quote.sig", "-f", "tss"),
    )
    tpm.flush()
    with pytest.raises(Refusal, match="quote_qualified_name"):
        verify_quote(
            ak=ak,
            attest=tpm.read("quote.msg"),
            signature=tpm.read("quote.sig"),
            qualifying_data=QUALIFYING_DATA,
            qualified_names=endorsement_hierarchy_names(ek, ak),
            bank="sha256",
            pcrs=[0],
            pcr_values={0: tpm.read("values")},
        )

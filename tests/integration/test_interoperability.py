# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence that we did not make, and readers that we did not write.

A TPM that is not ours (swtpm), driven by tools that are not ours (tpm2-tools), is attested from challenge to
token with every kind of key that the protocol allows; and the token is verified by a JOSE implementation that
is not ours (joserfc), from the JWK set alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from integration.software_tpm import SoftwareTpm
from integration.test_attestation import TpmHost
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet
from services.attestation.world import BOOT, GROUP, Boot, Change, Host, World

from trusted_infrastructure import tokens
from trusted_infrastructure.messages import Challenge
from trusted_infrastructure.tpm.public_area import parse_tpm2b_public

# Kind of the EK, kind of the AK, its hash, its scheme.
KEYS = [
    ("rsa", "ecc", "sha256", "ecdsa"),
    ("ecc", "ecc", "sha256", "ecdsa"),
    ("rsa3072", "ecc", "sha256", "ecdsa"),
    ("ecc384", "ecc", "sha256", "ecdsa"),
    ("rsa", "rsa", "sha256", "rsassa"),
    ("rsa", "rsa", "sha256", "rsapss"),
    ("ecc", "rsa", "sha384", "rsassa"),
    ("rsa", "ecc384", "sha384", "ecdsa"),
    ("ecc384", "ecc384", "sha384", "ecdsa"),
]
# The EKs of the templates' high range have an authorization value, which is empty, instead of a policy.
HIGH_RANGE = ("rsa3072", "ecc384")


class ToolsHost(TpmHost):
    """A host whose keys, credential and quote are tpm2-tools' alone. Its PCRs were measured before."""

    def __init__(self, tpm: SoftwareTpm, ek: str, ak: str, hash_name: str, scheme: str) -> None:
        self.options = (ak, hash_name, scheme)
        super().__init__(tpm, ek)

    def make_keys(self) -> None:
        ak, hash_name, scheme = self.options
        tools = self.tpm
        tools.tool("tpm2_createek", "-G", self.kind, "-c", "ek.ctx", "-u", "ek.pub", "-f", "tss")
        tools.flush()
        options = f"-G {ak} -g {hash_name} -s {scheme} -u ak.pub -n ak.name -f tss"
        tools.tool("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", *options.split())
        tools.flush()
        self.ek = parse_tpm2b_public(tools.read("ek.pub"), "ek_public")
        self.ak = parse_tpm2b_public(tools.read("ak.pub"), "ak_public")

    def start(self, boot: Boot) -> None:
        Host.start(self, boot)

    def activate(self, challenge: Challenge) -> bytes:
        if self.kind not in HIGH_RANGE:
            return super().activate(challenge)
        blob = challenge.credential_blob + challenge.encrypted_secret
        (self.tpm.folder / "credential").write_bytes(bytes.fromhex("badcc0de00000001") + blob)
        files = ("-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret")
        self.tpm.tool("tpm2_activatecredential", *files)
        self.tpm.flush()
        return self.tpm.read("secret")

    def quote(
        self, challenge: Challenge, extra: bytes, change: Change, signing_key: Any
    ) -> tuple[bytes, bytes]:
        _ak, hash_name, scheme = self.options
        selection = f"{challenge.bank}:{','.join(map(str, challenge.pcrs))}"
        self.tpm.tool(
            "tpm2_quote",
            *("-c", "ak.ctx", "-l", selection, "-q", extra.hex(), "-g", hash_name, "--scheme", scheme),
            *("-m", "quote", "-s", "signature", "-f", "tss"),
        )
        self.tpm.flush()
        return self.tpm.read("quote"), self.tpm.read("signature")


@pytest.fixture(scope="module")
def tpm() -> Iterator[SoftwareTpm]:
    """A TPM into which one boot was measured."""
    with SoftwareTpm() as started:
        for pcr, _kind, content in BOOT:
            started.tool("tpm2_pcrextend", f"{pcr}:sha256={hashlib.sha256(content).hexdigest()}")
        yield started


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.service.close()


def token_of(world: World, host: Host | None = None) -> str:
    answer = world.attest(host)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["token"]
    return token


def published(world: World) -> KeySet:
    return KeySet.import_key_set(world.public.get("/attestation/v1/jwks").json())


@pytest.mark.parametrize(("ek", "ak", "hash_name", "scheme"), KEYS)
def test_evidence_of_foreign_tools_is_accepted(
    world: World, tpm: SoftwareTpm, ek: str, ak: str, hash_name: str, scheme: str
) -> None:
    host = world.add_host(ToolsHost(tpm, ek, ak, hash_name, scheme))
    found = jwt.decode(token_of(world, host), published(world), algorithms=["ES256"])
    assert found.header["typ"] == "ti-token+jwt"
    assert (found.claims["sub"], found.claims["aud"], found.claims["base_image"]) == (
        "host1",
        GROUP,
        "image-1",
    )
    assert found.claims["ek_digest"] == hashlib.sha256(tpm.read("ek.pub")[2:]).hexdigest()
    assert found.claims["cnf"]["jkt"] == tokens.thumbprint(host.proof_key.public_key())


def test_a_foreign_reader_refuses_a_changed_token(world: World) -> None:
    token, keys = token_of(world), published(world)
    head, payload, signature = token.split(".")
    other = payload[:-2] + ("A" if payload[-2] != "A" else "B") + payload[-1]
    for changed in (f"{head}.{other}.{signature}", f"{head}.{payload}.{'A' * 86}"):
        with pytest.raises((JoseError, ValueError)):
            jwt.decode(changed, keys, algorithms=["ES256"])
    assert jwt.decode(token, keys, algorithms=["ES256"]).claims["sub"] == "host1"


def test_key_ids_are_thumbprints_to_a_foreign_reader(world: World) -> None:
    token = token_of(world)
    plain = world.public.get("/attestation/v1/jwks").json()["keys"]
    assert plain and all("d" not in key for key in plain)
    for key in plain:
        bare = {name: key[name] for name in ("kty", "crv", "x", "y")}
        assert ECKey.import_key(bare).thumbprint() == key["kid"]
    assert jws.extract_compact(token.encode()).headers()["kid"] in {key["kid"] for key in plain}


def test_the_signed_key_set_verifies_and_says_the_same(world: World) -> None:
    text = world.public.get("/attestation/v1/keys").json()["keys"]
    head = text.partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    leaf = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0]))
    key = ECKey.import_key(tokens.jwk(leaf.public_key()))
    registry = jws.JWSRegistry(algorithms=["ES256"])
    registry.max_header_length = 8192  # with a certificate in it
    found = jws.deserialize_compact(text, key, registry=registry)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(world.side.certificate.encode()))
    claimed = {one["kid"] for one in json.loads(found.payload)["keys"]}
    assert claimed == {one["kid"] for one in world.public.get("/attestation/v1/jwks").json()["keys"]}


def test_a_proof_by_a_foreign_library_is_accepted() -> None:
    key = ECKey.generate_key("P-256")
    header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": key.as_dict(private=False) | {}}
    header["jwk"] = {name: header["jwk"][name] for name in ("kty", "crv", "x", "y")}
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"{}").digest()).rstrip(b"=").decode()
    token_digest = base64.urlsafe_b64encode(hashlib.sha256(b"token").digest()).rstrip(b"=").decode()
    claims = {
        "jti": "0123456789abcdef",
        "htm": "POST",
        "htu": "https://ta1/kms/v1/providers/finance/keys",
        "iat": 1_800_000_000,
        "ath": token_digest,
        "body": digest,
    }
    proof = jwt.encode(header, claims, key, algorithms=["ES256"])
    arguments = ("POST", claims["htu"], b"{}", "token", key.thumbprint(), 1_800_000_000)
    assert tokens.verify_proof(proof, *arguments) == claims["jti"]

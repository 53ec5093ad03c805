# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/protocol.md and docs/api.md against the code.

Test vectors are recomputed, reason codes are those that are raised, and operations are those of the table.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from services.tpm.verified_quote import verify_quote

from trusted_infrastructure import audit, data_keys, messages, sealing, tokens, wrapping
from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.host import sealed_provider
from trusted_infrastructure.manager import native_backup
from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.errors import ERRORS
from trusted_infrastructure.messages import ChallengeRequest, ProofKey, UnwrapKeyRequest
from trusted_infrastructure.refusal import Refusal
from trusted_infrastructure.sealing import SealedSecret, SealingKey
from trusted_infrastructure.tpm import policy
from trusted_infrastructure.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    endorsement_hierarchy_names,
    qualified_name,
)
from trusted_infrastructure.tpm.public_area import RH_ENDORSEMENT, PublicArea, parse_tpm2b_public
from trusted_infrastructure.tpm.quote import pcr_selection

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
VECTORS: dict[str, dict[str, Any]] = {
    vector.pop("vector"): vector
    for vector in map(json.loads, re.findall(r"^```json\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
}


def vector(name: str) -> dict[str, Any]:
    return VECTORS[name]


def text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def octets(value: str | list[str]) -> bytes:
    return bytes.fromhex(text(value))


def public_key(jwk: dict[str, str]) -> ec.EllipticCurvePublicKey:
    assert (jwk["kty"], jwk["crv"]) == ("EC", "P-256")
    return tokens.public_key_from_jwk(jwk["x"], jwk["y"])


def private_key(scalar: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(scalar, 16), ec.SECP256R1())


def tpm_keys() -> tuple[PublicArea, PublicArea]:
    keys = vector("tpm-keys")
    return parse_tpm2b_public(octets(keys["ek_public"])), parse_tpm2b_public(octets(keys["ak_public"]))


def test_length_prefixed() -> None:
    given = vector("length-prefixed")
    assert messages.length_prefixed([octets(part) for part in given["parts"]]) == octets(given["result"])


def test_tpm_keys() -> None:
    given = vector("tpm-keys")
    ek, ak = tpm_keys()
    check_endorsement_key(ek)
    check_attestation_key(ak)
    assert ek.digest == given["ek_digest"]
    assert ek.name == octets(given["ek_name"])
    assert qualified_name(RH_ENDORSEMENT, ek) == octets(given["ek_qualified_name"])
    assert ak.name == octets(given["ak_name"])
    names = ["ak_qualified_name_as_primary", "ak_qualified_name_below_ek"]
    assert endorsement_hierarchy_names(ek, ak) == tuple(octets(given[name]) for name in names)


def test_host_assertion() -> None:
    given = vector("host-assertion")
    principal = tokens.Principal(given["issuer"], [[text(given["certificate"])]])
    claims = tokens.verify_assertion(text(given["assertion"]), [principal], given["audience"], given["now"])
    assert msgspec.to_builtins(claims) == given["claims"]
    with pytest.raises(Refusal, match="assertion_expired"):
        tokens.verify_assertion(
            text(given["assertion"]), [principal], given["audience"], given["claims"]["exp"]
        )


def test_pcr_selection() -> None:
    given = vector("pcr-selection")
    assert pcr_selection(given["bank"], given["pcrs"]) == octets(given["pcr_selection"])


def test_proof_key() -> None:
    given = vector("proof-key")
    key = private_key(given["private_key"])
    assert tokens.jwk(key.public_key()) == given["jwk"]
    assert ProofKey(x=given["jwk"]["x"], y=given["jwk"]["y"]).thumbprint() == given["thumbprint"]
    assert tokens.thumbprint(key.public_key()) == given["thumbprint"]


def test_qualifying_data() -> None:
    given = vector("qualifying-data")
    request = text(given["challenge_request"]).encode()
    secret_proof = hmac.digest(octets(given["secret"]), octets(given["challenge_id"]), "sha256")
    assert secret_proof == octets(given["secret_proof"])
    found = messages.qualifying_data(
        purpose=given["purpose"],
        service_id=given["service_id"],
        nonce=octets(given["nonce"]),
        challenge_request=request,
        secret_proof=secret_proof,
        pcr_selection=pcr_selection(given["bank"], given["pcrs"]),
        proof_key_thumbprint=given["proof_key_thumbprint"],
        hpke_suite=given["hpke_suite"],
        hpke_public_key=octets(given["hpke_public_key"]),
        event_log=octets(given["event_log"]),
        claims=given["claims"].encode(),
    )
    assert found == octets(given["qualifying_data"])
    message = messages.decode(request, ChallengeRequest)
    ek, ak = tpm_keys()
    assert (message.ek_public, message.ak_public) == (ek.tpm2b(), ak.tpm2b())
    assert message.assertion == text(vector("host-assertion")["assertion"])


def test_quote() -> None:
    given = vector("quote")
    ek, ak = tpm_keys()
    values = {int(pcr): octets(value) for pcr, value in given["pcr_values"].items()}
    quote = verify_quote(
        ak=ak,
        attest=octets(given["attest"]),
        signature=octets(given["signature"]),
        qualifying_data=octets(given["qualifying_data"]),
        qualified_names=endorsement_hierarchy_names(ek, ak),
        bank=given["bank"],
        pcrs=list(values),
        pcr_values=values,
    )
    assert given["qualifying_data"] == vector("qualifying-data")["qualifying_data"]
    clock = msgspec.to_builtins(quote.clock)
    assert clock == {name: given[name] for name in clock}


def test_token() -> None:
    given = vector("token")
    key = public_key(given["token_key"])
    assert tokens.thumbprint(key) == given["kid"]
    token = text(given["token"])
    assert tokens.unverified_kid(token) == given["kid"]
    claims = tokens.verify_token(
        token, {given["kid"]: key}, given["audience"], given["now"], {given["kid"]: given["service_id"]}
    )
    assert msgspec.to_builtins(claims) == given["claims"]
    assert claims.cnf.jkt == vector("proof-key")["thumbprint"]
    session_key = octets(vector("qualifying-data")["hpke_public_key"])
    assert claims.hpke.digest == hashlib.sha256(session_key).hexdigest()


def test_key_set() -> None:
    given = vector("key-set")
    found = tokens.verify_key_set(
        text(given["key_set"]), text(given["anchor"]), given["side"], given["role"], {"ta1"}, given["now"]
    )
    assert (found.service_id, found.host, found.expires) == (
        given["service_id"],
        given["host"],
        given["expires"],
    )
    assert list(found.keys) == given["kids"] == [vector("token")["kid"]]


def test_wrapped_key() -> None:
    given = vector("wrapped-key")
    names = ("provider", "primary_key_id", "kek_id", "object_label", "scope")
    header = wrapping.WrappedKeyHeader(**{name: given[name] for name in names}, salt=octets(given["salt"]))
    primary_key, kek, wrapped = (octets(given[name]) for name in ("primary_key", "kek", "wrapped_key"))
    assert wrapping.encode_header(header) == octets(given["header"])
    assert wrapping.wrap(primary_key, header, kek) == wrapped
    assert wrapping.unwrap(primary_key, wrapped) == (header, kek)


def test_delivery_info() -> None:
    given = vector("delivery-info")
    names = ("kind", "host", "instance", "provider", "key_id")
    assert messages.delivery_info(**{name: given[name] for name in names}) == octets(given["info"])


def test_wrapped_data_key() -> None:
    given = vector("wrapped-data-key")
    names = ("type", "provider", "key_id", "object_id", "component", "kek_id")
    header = data_keys.DataKeyHeader(
        **{name: given[name] for name in names},
        kek_reference=octets(given["kek_reference"]),
        salt=octets(given["salt"]),
    )
    kek, key, wrapped = (octets(given[name]) for name in ("kek", "data_key", "wrapped_key"))
    assert data_keys.encode_header(header) == octets(given["header"])
    assert data_keys.wrap(kek, header, key) == wrapped
    parsed = data_keys.parse(wrapped)
    assert (parsed.header, data_keys.unwrap(kek, parsed)) == (header, key)


def test_primary_key_check_value() -> None:
    given = vector("primary-key-check-value")
    found = wrapping.check_value(octets(given["primary_key"]), given["primary_key_id"])
    assert found == given["check_value"]


def test_pcr_policy() -> None:
    given = vector("pcr-policy")
    key, reference, signature = (
        text(given["public_key"]),
        octets(given["reference"]),
        octets(given["signature"]),
    )
    assert private_key(given["private_key"]).public_key() == serialization.load_pem_public_key(key.encode())
    assert reference == messages.pcr_policy_reference(given["cluster"])
    assert policy.policy_key_public_area(key) == octets(given["public_area"])
    assert policy.policy_key_name(key) == octets(given["key_name"])
    values = {int(number): octets(value) for number, value in given["values"].items()}
    approved = policy.pcr_policy_digest(given["bank"], values)
    assert approved == octets(given["pcr_policy_digest"])
    assert policy.is_signed(key, approved, reference, signature)
    assert not policy.is_signed(key, approved[::-1], reference, signature)
    assert not policy.is_signed(key, approved, messages.pcr_policy_reference("another"), signature)
    assert policy.policy_authorize_digest(octets(given["key_name"]), reference) == octets(given["policy"])


def test_native_backup() -> None:
    given = vector("native-backup")
    header, document = b"TINB\x01" + octets(given["salt"]), text(given["document"]).encode()
    cipher, nonce = native_backup._cipher(private_key(given["private_key"]), header)
    assert header + cipher.encrypt(nonce, document, header) == octets(given["envelope"])
    found = msgspec.json.decode(document, type=native_backup.BackupDocument)
    assert msgspec.json.encode(found) == document
    oid = re.search(r"OID (2\.25\.[0-9]+), not critical", TEXT)
    assert oid is not None and native_backup.BACKUP_OID.dotted_string == oid[1]


def test_sealed_native_provider() -> None:
    given = vector("sealed-native-provider")
    keys = {key_id: octets(key) for key_id, key in given["keys"].items()}
    assert {key_id: wrapping.check_value(key, key_id) for key_id, key in keys.items()} == given[
        "check_values"
    ]
    described = sealed_provider.Described(
        provider=given["provider"],
        key_id=given["key_id"],
        check_values=given["check_values"],
        tpm_required=given["tpm_required"],
        policy_public_key=text(given["policy_public_key"]),
        policy_reference=octets(given["policy_reference"]),
    )
    assert described.authenticated(given["host"]) == octets(given["additional_data"])
    opened = AESGCM(octets(given["file_key"])).decrypt(
        bytes(12), octets(given["ciphertext"]), octets(given["additional_data"])
    )
    assert opened == b"".join(keys.values())


def test_proof() -> None:
    given = vector("proof")
    body, token = text(given["body"]).encode(), text(vector("token")["token"])
    arguments = (given["method"], given["url"], body, token, given["jkt"])
    assert tokens.verify_proof(text(given["proof"]), *arguments, given["now"]) == given["jti"]
    with pytest.raises(Refusal, match="proof_expired"):
        tokens.verify_proof(text(given["proof"]), *arguments, given["now"] + 3600)
    message = messages.decode(body, UnwrapKeyRequest)
    assert message.wrapped_key == octets(vector("wrapped-key")["wrapped_key"])


def test_answer() -> None:
    given = vector("answer")
    request = text(vector("proof")["body"]).encode()
    info = messages.seal_info(
        suite=given["suite"],
        token_jti=given["token_jti"],
        request=request,
        service_id=given["service_id"],
    )
    assert info == octets(given["seal_info"])
    key = SealingKey.from_bytes(given["suite"], octets(given["hpke_private_key"]))
    assert key.public_bytes() == octets(vector("qualifying-data")["hpke_public_key"])
    sealed_key = octets(given["sealed_key"])
    assert key.open(sealed_key, info) == octets(given["kek"]) == octets(vector("wrapped-key")["kek"])
    signed = messages.answer_to_be_signed(
        request=request,
        proof_jti=given["proof_jti"],
        kek_id=given["kek_id"],
        sealed_key=sealed_key,
        wrapped_key=None,
        service_id=given["service_id"],
    )
    assert hashlib.sha256(signed).hexdigest() == given["to_be_signed_sha256"]
    response_key = public_key(given["response_key"])
    assert tokens.thumbprint(response_key) == given["key_id"]
    signature = octets(given["signature"])
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    response_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))


def test_answer_to_be_signed() -> None:
    given = vector("answer-to-be-signed")
    signed = messages.answer_to_be_signed(
        request=given["request"].encode(),
        proof_jti=given["proof_jti"],
        kek_id=given["kek_id"],
        sealed_key=octets(given["sealed_key"]),
        wrapped_key=octets(given["wrapped_key"]),
        service_id=given["service_id"],
    )
    assert signed == octets(given["to_be_signed"])


def test_sealing() -> None:
    cases = vector("sealing")["cases"]
    assert {case["suite"] for case in cases} | {vector("answer")["suite"]} == set(sealing.SUITES)
    for case in cases:
        key = SealingKey.from_bytes(case["suite"], octets(case["private_key"]))
        assert key.public_bytes() == octets(case["public_key"])
        assert key.open(octets(case["sealed"]), octets(case["info"])) == octets(case["plaintext"])


def test_sealed_field() -> None:
    given = vector("sealed-field")
    key = SealingKey.from_bytes(given["suite"], octets(given["private_key"]))
    digest = text(given["digest"])
    sealed = SealedSecret(given["suite"], digest, {given["host"]: octets(given["sealed"])})
    secret = sealing.open_secret(sealed, given["host"], key, given["purpose"])
    assert secret == octets(given["secret"])
    assert sealing.secret_digest(secret, bytes.fromhex(digest.partition(":")[0])) == digest


def test_document_digest() -> None:
    given = vector("document-digest")
    document = Document("scope", "default", Generation(1, 1), given["content"])
    assert document.digest == given["digest"]
    deleted = msgspec.structs.replace(document, content=None)
    assert deleted.digest == given["digest_of_a_deleted_document"]


def test_audit_chain(tmp_path: Path) -> None:
    given = vector("audit-chain")
    path = tmp_path / "audit.log"
    path.write_text("".join(text(line) + "\n" for line in given["lines"]), encoding="utf-8")
    found = audit.verify(path)
    assert found.intact, found.reason
    assert msgspec.to_builtins(found.head) == given["head"]


def test_sizes_of_the_table_of_suites() -> None:
    row = r"^\| `(\w+)`[^|]*\| 0x\w{4} \|.*\| (\d+) \| (\d+) \| (\d+) \|$"
    rows = re.findall(row, TEXT, re.MULTILINE)
    assert {name for name, *_sizes in rows} == set(sealing.SUITES)
    for name, public, private, enc in rows:
        key = SealingKey.generate(name)
        sealed = sealing.seal(name, key.public_bytes(), b"", b"")
        sizes = (len(key.public_bytes()), len(key.to_bytes()), len(sealed) - 16)
        assert sizes == (int(public), int(private), int(enc)), name


def test_every_vector_is_checked() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert set(VECTORS) == set(re.findall(r'\bvector\("([a-z-]+)"\)', source))


# ---- reason codes ------------------------------------------------------------------------------------------

CODE_NAMES = {"code", "invalid_code", "CODE", "_CODE"}
ALLOWED = "ok"  # what an audit record has in place of a reason code
NGINX = ROOT / "roles" / "service_runtime" / "templates" / "nginx.conf.j2"


def called(function: ast.expr) -> str:
    """The name by which something is called, without what stands before the last point."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def texts(value: ast.expr | None) -> Iterator[str]:
    """The constants that an expression may give; names and calls give none."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from texts(value.body)
        yield from texts(value.orelse)
    elif isinstance(value, ast.Tuple):
        for part in value.elts:
            yield from texts(part)


def taking_a_code(trees: list[ast.Module]) -> dict[str, int]:
    """Functions and classes that take a reason code: name -> the position of that argument."""
    found = {}
    for tree in trees:
        owners = {
            function: owner
            for owner in ast.walk(tree)
            if isinstance(owner, ast.ClassDef)
            for function in owner.body
        }
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                owner = owners.get(function)
                names = [argument.arg for argument in function.args.args[1 if owner else 0 :]]
                if "code" in names:
                    name = owner.name if owner and function.name == "__init__" else function.name
                    found[name] = names.index("code")
    return found


def codes_in(node: ast.AST, taking: dict[str, int]) -> Iterator[str]:
    """Reason codes that one node of the source names: in a call, as a default, or in a variable for codes."""
    if isinstance(node, ast.Call):
        position = taking.get(called(node.func))
        if position is not None and position < len(node.args):
            yield from texts(node.args[position])
        for keyword in node.keywords:
            if keyword.arg in CODE_NAMES and (position is not None or keyword.arg != "code"):
                yield from texts(keyword.value)
    elif isinstance(node, ast.FunctionDef):
        positional = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        named = [*zip(positional, node.args.defaults, strict=True)]
        named += [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
        for argument, default in named:
            if argument.arg in CODE_NAMES:
                yield from texts(default)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        if node.target.id in CODE_NAMES:
            yield from texts(node.value)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        if node.targets[0].id in CODE_NAMES:
            yield from texts(node.value)


@functools.cache
def raised() -> dict[str, str]:
    """Reason code -> a place that raises it. In the manager, codes are the `reason` of an error."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    taking = taking_a_code(list(trees.values()))
    found = {error.name: "manager/vapi/errors.py" for error in ERRORS}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            codes = [*codes_in(node, taking)]
            if isinstance(node, ast.Call) and "manager" in path.parts:
                codes += [
                    code for word in node.keywords if word.arg == "reason" for code in texts(word.value)
                ]
            for code in codes:
                if re.fullmatch("[a-z]+(?:_[a-z0-9]+)*", code) and code != ALLOWED:
                    found.setdefault(code, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    return found


def documented() -> dict[str, str]:
    """Reason code -> what the operator can do, of the table in docs/protocol.md."""
    section = TEXT.partition("## 12. Reason codes")[2].partition("## 13.")[0]
    return dict(re.findall(r"^\| `([a-z0-9_]+)` \| [^|]+ \| (.+) \|$", section, re.MULTILINE))


def test_the_search_for_codes_finds_them() -> None:
    """One code of each way in which the source names one; else an empty search would pass."""
    wanted = {
        "quote_magic": "an argument of Refusal",
        "tpm_busy": "an argument of Unavailable",
        "invalid_document": "a keyword",
        "assertion_invalid": "a variable named code",
        "event_log_malformed": "a constant _CODE",
        "base_image_mismatch": "a field with a default",
        "ek_attributes": "an argument that is passed on",
        "no_cluster": "a reason in the manager",
        "already_exists": "the name of an error of the API",
        "service_down": "a choice of two",
    }
    assert [code for code in wanted if code not in raised()] == []


def test_every_reason_code_is_in_the_table() -> None:
    table = documented()
    assert {code: place for code, place in raised().items() if code not in table} == {}


def test_the_table_has_only_codes_that_exist() -> None:
    named = "".join(path.read_text(encoding="utf-8") for path in [*SOURCES, NGINX])
    assert [code for code in documented() if f'"{code}"' not in named] == []


def test_the_table_is_in_order_and_says_what_to_do() -> None:
    codes = list(documented())
    assert codes == sorted(codes)
    assert [code for code, act in documented().items() if len(act) < 15] == []


# ---- operations of the management API ----------------------------------------------------------------------

VSPHERE = "/vcenter/trusted-infrastructure/"
AUTHORITY = f"{VSPHERE}trust-authority-clusters/{{cluster}}/"
API_PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def listed() -> set[tuple[str, str, str | None, bool]]:
    """What docs/api.md says: (method, path, action, task) of each operation."""
    found = set()
    rows = re.findall(r"^\| `([^`]+)` \| ([A-Za-z*, -]+) \| [A-Za-z ]+ \|$", API_PAGE, re.MULTILINE)
    for path, operations in rows:
        if path.startswith("TA/"):
            path = AUTHORITY + path.removeprefix("TA/")
        elif not path.startswith("/"):
            path = VSPHERE + path
        for operation in operations.split(", "):
            method, _space, action = operation.rstrip("*").partition(" ")
            found.add((method, path, action or None, operation.endswith("*")))
    return found


def test_the_page_of_the_api_has_the_operations_of_the_table() -> None:
    assert listed() == {(one.method, one.path, one.action, one.task) for one in TABLE}


def test_the_page_of_the_api_has_their_privileges() -> None:
    named = set(re.findall(r"^\| `([A-Z]\w+(?:\.\w+)+)` \|", API_PAGE, re.MULTILINE))
    assert named == {privilege.id for one in TABLE for privilege in one.privileges}

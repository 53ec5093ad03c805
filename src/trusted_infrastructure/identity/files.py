# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys and leaf certificates as files of one machine: `identity ensure` and `identity install`.

A key is made on the machine that uses it and never leaves it; the request travels to the manager and the leaf
comes back. Files are replaced by rename, and have their mode before they have content.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.identity.issuing import create_request
from trusted_infrastructure.identity.names import LeafNames, canonical_ip, leaf_identity, leaf_names, role_uri
from trusted_infrastructure.identity.pem import (
    certificate_pem,
    described,
    generate_key,
    invalid,
    load_certificates,
    load_key,
    utc,
)
from trusted_infrastructure.identity.verification import issued_by, key_matches, renewal_due, verify_leaf
from trusted_infrastructure.refusal import InvalidField, Refusal

KEY_MODE = 0o600
CERTIFICATE_MODE = 0o644
SIDE_CA = "side_ca.pem"

FileName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z")]
Side = Literal["trust_authority", "workload"]


class WantedLeaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One leaf that a machine must have: files <name>.key and <name>.pem. owner, group: of the key file."""

    name: FileName
    role: str
    host: str
    side: Side
    dns: list[str] = []
    ips: list[str] = []
    owner: str = "root"
    group: str = "root"

    def names(self) -> LeafNames:
        """Its whole SAN. Raises InvalidField."""
        ips = tuple(canonical_ip(ip) for ip in self.ips)
        return LeafNames(role_uri(self.side, self.role, self.host), tuple(self.dns), ips)


class EnsureLeaves(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Input of `identity ensure`. directory: absolute path, which exists."""

    directory: str
    leaves: list[WantedLeaf]


class SignedLeaf(msgspec.Struct, frozen=True, kw_only=True):
    """One signed leaf: PEM, leaf first, then the intermediates of an operator's CA if it has any.

    Other fields, such as the host that `authority sign` adds, are not looked at.
    """

    name: FileName
    certificate: str


class InstallLeaves(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Input of `identity install`. side_ca: PEM of the side's CA, two of them during a rollover."""

    directory: str
    certificates: list[SignedLeaf] = []
    side_ca: str | None = None


def ensure_leaves(wanted: EnsureLeaves, now: int, *, check: bool = False) -> dict[str, Any]:
    """Make missing keys, and tell which leaves must be signed.

    Returns {"changed", "requests": [{name, csr, reason, host, side, role, dns, ips}], "valid": [{name,
    expires}]}; `requests` is what `authority sign` takes. Keys stay, so that a run between request and
    installation asks for the same. check: nothing is written; csr is null where the key is not there yet.
    Raises InvalidField, Refusal `certificate_invalid` for a key file that is not a key, `file_unusable`.
    """
    directory = existing_directory(wanted.directory)
    if len({leaf.name for leaf in wanted.leaves}) != len(wanted.leaves):
        raise InvalidField("leaves", "two leaves have the same name")
    if not check:
        _remove_leftovers(directory)
    anchors = _anchors(directory)
    changed = False
    requests: list[dict[str, Any]] = []
    valid: list[dict[str, Any]] = []
    for leaf in wanted.leaves:
        names = leaf.names()
        made, key = _ensure_key(directory / f"{leaf.name}.key", leaf, check=check)
        changed |= made
        found = _read_leaf(directory / f"{leaf.name}.pem")
        reason = _why_to_sign(found, key, names, anchors, now)
        if reason is None and found is not None:
            valid.append({"name": leaf.name, "expires": utc(found.not_valid_after_utc)})
            continue
        csr = None if key is None else create_request(key, names.uri, names.dns, names.ips)
        requests.append({"name": leaf.name, "csr": csr, "reason": reason, **_request_fields(leaf)})
    return {"changed": changed, "requests": requests, "valid": valid}


def install_leaves(signed: InstallLeaves, now: int, *, check: bool = False) -> dict[str, Any]:
    """Put the CA and signed leaves in place, after all of them were judged.

    Returns {"changed", "installed": [names]}. Raises Refusal `certificate_invalid` or `certificate_expired`
    where a leaf does not belong to its key file or does not chain to the CA; then nothing is written.
    """
    directory = existing_directory(signed.directory)
    ca_path = directory / SIDE_CA
    ca_pem = signed.side_ca if signed.side_ca is not None else _read_text(ca_path)
    if ca_pem is None:
        raise InvalidField("side_ca", f"not given, and {ca_path} is not there")
    load_certificates(ca_pem)
    files = [(ca_path, ca_pem)] if signed.side_ca is not None else []
    for leaf in signed.certificates:
        files.append((directory / f"{leaf.name}.pem", _judged(leaf, directory, ca_pem, now)))
    written = [path for path, content in files if _read_text(path) != content]
    if not check:
        for path, content in files:
            if path in written:
                place_file(path, content.encode(), CERTIFICATE_MODE)
    return {"changed": bool(written), "installed": sorted(path.stem for path in written)}


def place_file(path: Path, content: bytes, mode: int, owner: int = -1, group: int = -1) -> None:
    """Replace a file by rename, durably; it never is readable by more than `mode` says.

    owner, group: ids; -1 keeps the caller's. Raises Refusal `file_unusable`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise Refusal(
            "file_unusable", f"cannot write {path}: {error.strerror}", "run it as root", status=500
        ) from None


def existing_directory(text: str) -> Path:
    """The directory that a request names. Raises InvalidField."""
    directory = Path(text)
    if not directory.is_absolute() or not directory.is_dir():
        raise InvalidField("directory", f"{text!r} is not an absolute path of a directory")
    return directory


def certificate_expiries(directory: Path) -> list[dict[str, str]]:
    """[{"name", "subject", "expires"}] of the certificates in a directory, for health answers.

    A file that is not a certificate has "error" in place of the subject and date.
    """
    found = []
    for path in sorted(directory.glob("*.pem")):
        try:
            leaf = load_certificates(_read_text(path) or "")[0]
            found.append(
                {
                    "name": path.stem,
                    "subject": leaf.subject.rfc4514_string(),
                    "expires": utc(leaf.not_valid_after_utc),
                }
            )
        except Refusal as refusal:
            found.append({"name": path.stem, "error": refusal.message})
    return found


def _remove_leftovers(directory: Path) -> None:
    """Temporary files of a run that was killed: they may hold a key that nobody uses."""
    for leftover in directory.glob(".*.key.*"):
        leftover.unlink(missing_ok=True)


def _ensure_key(
    path: Path, leaf: WantedLeaf, *, check: bool
) -> tuple[bool, ec.EllipticCurvePrivateKey | None]:
    """(whether something changed, the key); no key only in check mode."""
    owner, group = _ids(leaf)
    try:
        status = path.lstat()
    except FileNotFoundError:
        if check:
            return True, None
        key = generate_key()
        place_file(path, key, KEY_MODE, owner, group)
        return True, load_key(key)
    if not stat.S_ISREG(status.st_mode):
        raise Refusal("file_unusable", f"{path} is not a regular file", "remove it", status=500)
    key = path.read_bytes()
    right = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (KEY_MODE, owner, group)
    if not right and not check:
        place_file(path, key, KEY_MODE, owner, group)
    try:
        return not right, load_key(key)
    except Refusal as refusal:
        raise invalid(f"{path}: {refusal.message}", "remove the file: a new key is made then") from None


def _ids(leaf: WantedLeaf) -> tuple[int, int]:
    try:
        owner = pwd.getpwnam(leaf.owner).pw_uid
        return owner, grp.getgrnam(leaf.group).gr_gid
    except KeyError:
        raise InvalidField(
            f"leaves[{leaf.name}]", f"no user {leaf.owner!r} or group {leaf.group!r} on this machine"
        ) from None


def _why_to_sign(
    certificate: x509.Certificate | None,
    key: ec.EllipticCurvePrivateKey | None,
    names: LeafNames,
    anchors: Sequence[x509.Certificate],
    now: int,
) -> str | None:
    """Why the leaf must be signed (again), or None."""
    if certificate is None:
        return "missing"
    if key is None or not key_matches(certificate, key):
        return "other_key"
    try:
        found = leaf_names(certificate)
    except Refusal:
        return "other_names"
    if (found.uri, set(found.dns), set(found.ips)) != (names.uri, set(names.dns), set(names.ips)):
        return "other_names"
    if renewal_due(certificate, now):
        return "renewal"
    if anchors and not any(issued_by(certificate, anchor) for anchor in anchors):
        return "other_authority"
    return None


def _judged(signed: SignedLeaf, directory: Path, ca_pem: str, now: int) -> str:
    """The PEM to store for a signed leaf. Raises Refusal."""
    chain = load_certificates(signed.certificate)
    leaf = chain[0]
    identity = leaf_identity(leaf)
    verify_leaf(leaf, ca_pem, identity.side, identity.role, now, chain[1:])
    key_path = directory / f"{signed.name}.key"
    key_pem = _read_text(key_path)
    if key_pem is None:
        raise invalid(f"{key_path} is not there", "run 'identity ensure' first")
    if not key_matches(leaf, load_key(key_pem)):
        raise invalid(f"{described(leaf)} does not belong to {key_path}", "sign the request of this machine")
    return "".join(certificate_pem(certificate) for certificate in chain)


def _request_fields(leaf: WantedLeaf) -> dict[str, Any]:
    return {"host": leaf.host, "side": leaf.side, "role": leaf.role, "dns": leaf.dns, "ips": leaf.ips}


def _anchors(directory: Path) -> list[x509.Certificate]:
    text = _read_text(directory / SIDE_CA)
    return [] if text is None else load_certificates(text)


def _read_leaf(path: Path) -> x509.Certificate | None:
    """The leaf in a file; None when it is not there or is not a certificate: then it is made anew."""
    text = _read_text(path)
    try:
        return None if text is None else load_certificates(text)[0]
    except Refusal:
        return None


def _read_text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal(
            "file_unusable", f"cannot read {path}: {error.strerror}", "run it as root", status=500
        ) from None

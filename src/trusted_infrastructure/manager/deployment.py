# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible makes on a manager before it starts: the users file, and the principal of the workload side.

Each function takes what the command reads from standard input and returns what it answers, `changed`
included. Both are run by root; the files belong to the manager's account.
"""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trusted_infrastructure.manager.users import User, UsersFile, hash_password, verify
from trusted_infrastructure.refusal import InvalidField

PRINCIPAL_DAYS = 3650


class WantedUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user as the inventory has it. password or password_hash; the other fields are those of `User`."""

    name: str
    privileges: list[str]
    password: str | None = None
    password_hash: str | None = None
    cluster: str | None = None
    groups: list[str] | None = None


class EnsureUsers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """path: the users file; owner: account that reads it; users: all of them."""

    path: str
    owner: str
    users: list[WantedUser]


class EnsurePrincipal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """directory: of principal.pem and principal.key; owner: account that reads them; name: of the manager."""

    directory: str
    owner: str
    name: str


def ensure_users(wanted: EnsureUsers, *, check: bool) -> dict[str, Any]:
    """Write the users file where it differs. A hash that fits the wanted password is kept."""
    path = Path(wanted.path)
    current = _read_users(path)
    users = [_user(entry, current.get(entry.name)) for entry in wanted.users]
    if len({user.name for user in users}) != len(users):
        raise InvalidField("users", "two users have the same name")
    changed = list(current.values()) != users
    if changed and not check:
        _write(path, msgspec.json.encode(UsersFile(users)), wanted.owner, 0o600)
    return {"changed": changed, "users": [user.name for user in users]}


def _read_users(path: Path) -> dict[str, User]:
    try:
        return {user.name: user for user in msgspec.json.decode(path.read_bytes(), type=UsersFile).users}
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _user(wanted: WantedUser, current: User | None) -> User:
    if (wanted.password is None) == (wanted.password_hash is None):
        raise InvalidField(f"users[{wanted.name}]", "needs either password or password_hash")
    if wanted.password == "":
        raise InvalidField(f"users[{wanted.name}].password", "is empty")
    hashed = wanted.password_hash
    if hashed is None and wanted.password is not None:
        fits = current is not None and verify(current.password, wanted.password)
        hashed = current.password if current is not None and fits else hash_password(wanted.password)
    return User(
        name=wanted.name,
        password=hashed or "",
        privileges=wanted.privileges,
        cluster=wanted.cluster,
        groups=wanted.groups,
    )


def ensure_principal(wanted: EnsurePrincipal, now: int, *, check: bool) -> dict[str, Any]:
    """Make the principal's key and self-signed certificate where there are none; they are never replaced.

    Whoever accepted this manager pinned the certificate, so another one is an administrator's act.
    """
    certificate, key = Path(wanted.directory, "principal.pem"), Path(wanted.directory, "principal.key")
    if certificate.exists() and key.exists():
        return {"changed": False}
    if not check:
        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{wanted.name} principal")])
        start = datetime.datetime.fromtimestamp(now, datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - datetime.timedelta(minutes=5))
            .not_valid_after(start + datetime.timedelta(days=PRINCIPAL_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        signed = builder.sign(private, hashes.SHA256())
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write(key, pem, wanted.owner, 0o600)
        _write(certificate, signed.public_bytes(serialization.Encoding.PEM), wanted.owner, 0o644)
    return {"changed": True}


def _write(path: Path, content: bytes, owner: str, mode: int) -> None:
    """Replace a file so that nobody ever sees it with wider rights or half written."""
    try:
        uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(owner).gr_gid
    except KeyError:
        raise InvalidField("owner", f"there is no account {owner}") from None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        os.fchown(stream.fileno(), uid, gid)
        os.fchmod(stream.fileno(), mode)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)

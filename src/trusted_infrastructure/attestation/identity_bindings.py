# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a host is its endorsement key: which host attested with which.

Rules (docs/protocol.md 3.4, "Identity"), against what was bound at the first accepted attestation
1. A host keeps its endorsement key. Another one is `ek_changed`.
2. An endorsement key keeps its host. Another host, also one of the same name under another principal, is
   `ek_other_host`.
3. Both hold until an administrator releases the host; its next attestation binds it anew.

They only narrow what assertion and policy allow already: neither a manager that is taken over, nor an
administrator who enrolls the wrong key, can so move an identity that is in use to another machine.

A key is told by its digest, and not by that of its public area alone: the same key in a public area with
another policy would otherwise be another identity, and one TPM could stand for two hosts. (A TPM can have
several endorsement keys, RSA and ECC. That they lie in one chip shows nowhere; what keeps it from being two
hosts is enrolment.)

SQL here works inside of a transaction of `state`.
"""

from __future__ import annotations

import sqlite3

import msgspec

from trusted_infrastructure.refusal import Refusal

SCHEMA = """
CREATE TABLE IF NOT EXISTS host_identities (
    principal TEXT NOT NULL, host TEXT NOT NULL, ek_digest TEXT NOT NULL, key_digest TEXT NOT NULL UNIQUE,
    since INTEGER NOT NULL, PRIMARY KEY (principal, host)
) WITHOUT ROWID;
"""

_REMEDY = (
    "If the TPM or mainboard was replaced on purpose, let an administrator release the host "
    "(module tpm2_endorsement_key_replace)."
)


class HostIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A host and its endorsement key. principal: who vouches for the host. ek_digest: SHA-256 of the key's
    public area (TPMT_PUBLIC), key_digest: of its SubjectPublicKeyInfo (DER); lower-case hex. since: Unix
    seconds of the first attestation."""

    principal: str
    host: str
    ek_digest: str
    key_digest: str
    since: int


def check_identity(identity: HostIdentity, bound: HostIdentity | None, owner: HostIdentity | None) -> None:
    """Refuse a host that is bound to another key, and a key that is bound to another host. Pure.

    bound: what is known of this host. owner: what is known of this key. None: nothing.
    Raises Refusal `ek_other_host`, `ek_changed`.
    """
    if owner is not None and (owner.principal, owner.host) != (identity.principal, identity.host):
        # A principal does not learn the names of another's hosts.
        same = owner.principal == identity.principal
        whose = f"host {owner.host!r}" if same else "a host of another principal"
        raise Refusal(
            "ek_other_host",
            f"endorsement key {identity.ek_digest} is that of {whose}, not of {identity.host!r}",
            f"If this TPM was moved on purpose, release the host that it was in. {_REMEDY}",
        )
    if bound is None:
        return
    if bound.key_digest != identity.key_digest:
        raise Refusal(
            "ek_changed",
            f"host {identity.host!r} has attested with endorsement key {bound.ek_digest}, and now has "
            f"{identity.ek_digest}",
            _REMEDY,
        )
    if bound.ek_digest != identity.ek_digest:
        raise Refusal(
            "ek_changed",
            f"host {identity.host!r} has its endorsement key in another public area: "
            f"{bound.ek_digest} before, {identity.ek_digest} now",
            _REMEDY,
        )


def is_bound(database: sqlite3.Connection, identity: HostIdentity) -> bool:
    """Whether just this is known: then `bind` would change nothing (a key has one host)."""
    where = (identity.principal, identity.host, identity.ek_digest, identity.key_digest)
    found = database.execute(
        "SELECT 1 FROM host_identities WHERE principal = ? AND host = ? AND ek_digest = ? AND key_digest = ?",
        where,
    )
    return found.fetchone() is not None


def bind(database: sqlite3.Connection, identity: HostIdentity) -> None:
    """Check an identity, and keep it where it is new. Raises Refusal `ek_other_host`, `ek_changed`."""
    bound = identity_of(database, identity.principal, identity.host)
    check_identity(identity, bound, _owner_of(database, identity.key_digest))
    if bound is None:
        database.execute(
            "INSERT INTO host_identities VALUES (:principal, :host, :ek_digest, :key_digest, :since)",
            msgspec.structs.asdict(identity),
        )


def release(database: sqlite3.Connection, principal: str, host: str) -> bool:
    """Forget the identity of a host. Returns whether there was one."""
    cursor = database.execute(
        "DELETE FROM host_identities WHERE principal = ? AND host = ?", (principal, host)
    )
    return cursor.rowcount > 0


def identities(database: sqlite3.Connection, host: str | None = None) -> list[HostIdentity]:
    """All identities, or those of hosts of one name."""
    rows = database.execute(
        "SELECT * FROM host_identities WHERE ?1 IS NULL OR host = ?1 ORDER BY host, principal", (host,)
    )
    return [HostIdentity(**dict(row)) for row in rows]


def identity_of(database: sqlite3.Connection, principal: str, host: str) -> HostIdentity | None:
    """The identity of one host, None where it is not bound."""
    where = (principal, host)
    row = database.execute("SELECT * FROM host_identities WHERE principal = ? AND host = ?", where).fetchone()
    return None if row is None else HostIdentity(**dict(row))


def _owner_of(database: sqlite3.Connection, key_digest: str) -> HostIdentity | None:
    row = database.execute("SELECT * FROM host_identities WHERE key_digest = ?", (key_digest,)).fetchone()
    return None if row is None else HostIdentity(**dict(row))

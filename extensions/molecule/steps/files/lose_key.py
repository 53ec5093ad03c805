# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server, stopped, loses a key as if it never had it. Runs there, as root; argument: id."""

import sqlite3
import sys

STATEMENTS = (
    "DELETE FROM symmetric_keys WHERE uid = ?",
    "DELETE FROM keys WHERE uid = ?",
    "DELETE FROM crypto_objects WHERE uid = ?",
    "DELETE FROM managed_object_names WHERE mo_uid = ?",
    "DELETE FROM managed_objects WHERE uid = ?",
    "DELETE FROM vendor_attributes WHERE uid = ?",
    # What tells the other server of changes comes last: the others write to it.
    "DELETE FROM versions WHERE uid = ?",
)

with sqlite3.connect("/var/lib/key-server/keys.db") as database:
    for statement in STATEMENTS:
        database.execute(statement, sys.argv[1:])

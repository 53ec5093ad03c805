# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's key server has in its database of a key. Runs there, as root; argument: id of the key."""

import json
import sqlite3
import sys

with sqlite3.connect("file:/var/lib/key-server/keys.db?mode=ro", uri=True) as database:
    rows = database.execute("SELECT name, value FROM vendor_attributes WHERE uid = ?", sys.argv[1:])
    json.dump(dict(rows.fetchall()), sys.stdout)

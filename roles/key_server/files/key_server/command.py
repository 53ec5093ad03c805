# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: `python -m key_server.command serve|certificate|primary-keys`.

PyKMIP takes most of a second to import: what needs it is imported where it is needed.

The last two take one JSON object on stdin and answer one on stdout ({"changed": ...}); wrong input, or a key
server that will not, is one sentence on stderr and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .errors import KeyServerError


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="key_server")
    parser.add_argument("--check", action="store_true", help="say what would change; change nothing")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve until SIGTERM")
    serving.add_argument("--settings", type=Path, required=True)
    commands.add_parser("certificate", help="make the server's certificate where it is due")
    commands.add_parser("primary-keys", help="make or replicate the primary keys")
    options = parser.parse_args()
    if options.command == "serve":
        from . import server

        server.serve(server.Settings.read(options.settings))
        return 0
    run = ensure_certificate if options.command == "certificate" else ensure_primary_keys
    try:
        answer = run(json.load(sys.stdin), check=options.check)
    except (KeyServerError, OSError, ValueError, TypeError, KeyError) as error:
        print(f"key_server: {error}", file=sys.stderr)
        return 1
    json.dump(answer, sys.stdout)
    return 0


def ensure_certificate(wanted: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Input: certificate, key (paths), name, addresses. Answer: changed, certificate (PEM; "" if none)."""
    from . import certificate

    path = Path(wanted["certificate"])
    changed = certificate.ensure(
        path, Path(wanted["key"]), wanted["name"], list(wanted["addresses"]), check=check
    )
    return {"changed": changed, "certificate": path.read_text() if path.exists() else ""}


def ensure_primary_keys(wanted: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Input: keys (name, id, policy), here and first (Endpoint; first null on the first server).

    Answer: changed, keys (ids that were made or would be).
    """
    from . import primary_keys

    here = primary_keys.Endpoint(**wanted["here"])
    first = primary_keys.Endpoint(**wanted["first"]) if wanted["first"] else None
    keys = [primary_keys.WantedKey(**key) for key in wanted["keys"]]
    made = primary_keys.ensure(keys, here, first, check=check)
    return {"changed": bool(made), "keys": made}


if __name__ == "__main__":
    sys.exit(main())

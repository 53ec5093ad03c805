# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the key server.

`serve` runs the server. The others take one JSON object on stdin and answer one on stdout, with "changed";
wrong input, or a key server that will not, is one sentence on stderr and exit code 1.

PyKMIP takes most of a second to import: what needs it is imported where it is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import certificates
from .errors import KeyServerError

Answer = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parser().parse_args(arguments)
    if options.command == "serve":
        from . import server

        server.serve(server.Settings.read(options.settings))
        return 0
    try:
        answer = COMMANDS[options.command](json.load(sys.stdin), options.check)
    except (KeyServerError, OSError, ValueError, TypeError) as error:
        print(f"key server: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"key server: the input lacks {error}", file=sys.stderr)
        return 1
    json.dump(answer, sys.stdout)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="key-server")
    commands = made.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve until SIGTERM")
    serving.add_argument("--settings", type=Path, required=True)
    for name, command in COMMANDS.items():
        adding = commands.add_parser(name, help=(command.__doc__ or "").partition("\n")[0])
        adding.add_argument("--check", action="store_true", help="say what would change; change nothing")
    return made


def authority(wanted: Answer, check: bool) -> Answer:
    """Make the key servers' CA. Input: directory, name. Answer: certificate (PEM)."""
    folder = Path(wanted["directory"])
    changed = certificates.ensure_authority(folder, wanted["name"], check=check)
    path = folder / certificates.CERTIFICATE
    return {"changed": changed, "certificate": path.read_text() if path.exists() else ""}


def request(wanted: Answer, check: bool) -> Answer:
    """Make a server's key. Input: certificate, key (paths), name, addresses. Answer: csr, "" if not due."""
    csr = certificates.request(
        Path(wanted["certificate"]),
        Path(wanted["key"]),
        wanted["name"],
        list(wanted["addresses"]),
        check=check,
    )
    return {"changed": csr != "", "csr": csr}


def sign(wanted: Answer, check: bool) -> Answer:
    """Sign a request. Input: directory, csr, name, addresses, current, server. Answer: certificate."""
    current = wanted.get("current") or ""
    made = certificates.sign(
        Path(wanted["directory"]),
        wanted["csr"],
        wanted["name"],
        list(wanted.get("addresses") or []),
        current,
        server=bool(wanted.get("server")),
    )
    return {"changed": made.strip() != current.strip(), "certificate": made}


def install(wanted: Answer, check: bool) -> Answer:
    """Put a server's certificate in its place. Input: certificate, key (paths), content (PEM)."""
    if check:
        return {"changed": True}
    changed = certificates.install(Path(wanted["certificate"]), Path(wanted["key"]), wanted["content"])
    return {"changed": changed}


def primary_keys(wanted: Answer, check: bool) -> Answer:
    """Make or replicate primary keys. Input: keys (name, id, policy), here, first (null on the first)."""
    from . import primary_keys as keys

    here = keys.Endpoint(**wanted["here"])
    first = keys.Endpoint(**wanted["first"]) if wanted["first"] else None
    made = keys.ensure([keys.WantedKey(**key) for key in wanted["keys"]], here, first, check=check)
    return {"changed": bool(made), "keys": made}


def key_state(wanted: Answer, check: bool) -> Answer:
    """Bring a key to a state. Input: here, id, state (DEACTIVATED, COMPROMISED or DESTROYED)."""
    from . import primary_keys as keys

    here = keys.Endpoint(**wanted["here"])
    return {"changed": keys.bring_to(here, str(wanted["id"]), wanted["state"], check=check)}


COMMANDS: dict[str, Callable[[Answer, bool], Answer]] = {
    "authority": authority,
    "request": request,
    "sign": sign,
    "install": install,
    "primary-keys": primary_keys,
    "key-state": key_state,
}

if __name__ == "__main__":
    sys.exit(main())

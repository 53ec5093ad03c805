# SPDX-License-Identifier: GPL-3.0-or-later
"""`trusted-infrastructure keys`: keys of objects on this host, for root and for users whom the agent permits.

A key leaves by a file descriptor that the caller names and nothing else: `--output-fd 3 3>file`, or a pipe.
What is printed is the record and the wrapped data key, which are not secret.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from trusted_infrastructure.refusal import InvalidField

KEYS_SOCKET = Path("/run/trusted-infrastructure/agent/keys.sock")
BASE = "/agent/keys/v1"
TIMEOUT = 120.0
WRAPPED_LIMIT = 64 * 1024
# Keys of one answer: with names as long as can be it stays below what is read of an answer.
PAGE = 500


def add_commands(commands: Any) -> None:
    """Add `keys` to the command line. commands: what `add_subparsers` gave."""
    group = commands.add_parser("keys", help="keys of objects on this host").add_subparsers(
        required=True, metavar="COMMAND"
    )

    def command(name: str, text: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = group.add_parser(name, help=text)
        parser.add_argument("--socket", type=Path, default=KEYS_SOCKET)
        parser.set_defaults(command=run)
        return parser

    command("list", "the keys that you had made; root: all", list_command)

    generate = command("generate", "make a key for an object", generate_command)
    generate.add_argument("object_id", help="the object, by its UUID, say")
    generate.add_argument("--component", default="", help='what the object is, such as "Virtual Machine"')
    generate.add_argument("--name", default="", help="of the object, for people")
    generate.add_argument("--provider", help="name of the key provider; the default one otherwise")
    add_output(generate)

    get = command("get", "get a key again", get_command)
    which = get.add_mutually_exclusive_group(required=True)
    which.add_argument("key_id", nargs="?")
    which.add_argument("--wrapped-key", metavar="FILE", help='file with a wrapped data key; "-" reads stdin')
    add_output(get)

    rewrap = command("rewrap", "wrap keys again: newer primary key, other provider", rewrap_command)
    rewrap.add_argument("key_ids", nargs="*", metavar="KEY_ID", help="all keys that you may use otherwise")
    rewrap.add_argument("--provider", help="keys of this provider alone")
    rewrap.add_argument("--target", help="provider to wrap them under; their own otherwise")
    rewrap.add_argument("--replace", action="store_true", help="make new key encryption keys")
    rewrap.add_argument("--check", action="store_true", help="say what would change; change nothing")

    forget = command("forget", "forget a key: without it, the object cannot be read any more", forget_command)
    forget.add_argument("key_id")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the key goes."""
    parser.add_argument(
        "--output-fd",
        type=int,
        metavar="N",
        help="write the key's 32 bytes to this file descriptor, which is no terminal; with 1, the record goes"
        " to stderr",
    )


def list_command(options: argparse.Namespace) -> None:
    """`keys list`: by their ids, read page by page."""
    keys: list[dict[str, Any]] = []
    while True:
        after = quote(keys[-1]["key_id"], safe="") if keys else ""
        found = _ask(options, "GET", f"keys?limit={PAGE}&after={after}")["keys"]
        keys += found
        if len(found) < PAGE:
            break
    _print({"keys": keys})


def generate_command(options: argparse.Namespace) -> None:
    """`keys generate`."""
    check_output(options.output_fd)  # before a key is made that nobody gets
    names = ("object_id", "component", "name", "provider")
    _hand_out(options, _ask(options, "POST", "generate", {name: getattr(options, name) for name in names}))


def get_command(options: argparse.Namespace) -> None:
    """`keys get`."""
    check_output(options.output_fd)
    body = {"wrapped_key": _wrapped_key(options.wrapped_key)} if options.wrapped_key else None
    _hand_out(options, _ask(options, "POST", "get", body or {"key_id": options.key_id}))


def rewrap_command(options: argparse.Namespace) -> None:
    """`keys rewrap`."""
    body = {
        "key_ids": options.key_ids,
        "provider": options.provider,
        "target": options.target,
        "replace": options.replace,
        "dry_run": options.check,
    }
    _print(_ask(options, "POST", "rewrap", body))


def forget_command(options: argparse.Namespace) -> None:
    """`keys forget`."""
    _print(_ask(options, "DELETE", f"keys/{quote(options.key_id, safe='')}"))


def check_output(descriptor: int | None) -> None:
    """Refuse a descriptor that is not open for writing, or that is a terminal. Raises InvalidField."""
    if descriptor is None:
        return
    try:
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except (OSError, OverflowError, ValueError):
        writable = False
    if not writable:
        raise InvalidField("--output-fd", f"{descriptor} is not open for writing; try {descriptor}>FILE")
    if os.isatty(descriptor):
        raise InvalidField("--output-fd", f"{descriptor} is a terminal; a key is not shown")


def _hand_out(options: argparse.Namespace, answer: dict[str, Any]) -> None:
    """The key to the descriptor, the rest to whoever reads."""
    key = base64.b64decode(answer.pop("key"))
    if options.output_fd is not None:
        written = 0
        try:
            while written < len(key):
                written += os.write(options.output_fd, key[written:])
        except OSError as error:
            raise InvalidField(
                "--output-fd",
                f"cannot write key {answer['record']['key_id']} to {options.output_fd}: {error.strerror}",
            ) from None
    _print(answer, sys.stderr if options.output_fd == 1 else sys.stdout)


def _wrapped_key(name: str) -> str:
    """A wrapped data key as base64: the file has its bytes, or base64 of them."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(WRAPPED_LIMIT)
        else:
            with open(name, "rb") as file:
                data = file.read(WRAPPED_LIMIT)
    except OSError as error:
        raise InvalidField("--wrapped-key", f"cannot read {name}: {error.strerror}") from None
    return base64.b64encode(data).decode() if data.startswith(b"TIDK") else data.decode("latin-1").strip()


def _ask(options: argparse.Namespace, method: str, path: str, body: Any = None) -> dict[str, Any]:
    import httpx

    from trusted_infrastructure.transport import ANSWER_LIMIT, answer_of, ask_once, local_client, unreachable

    try:
        response = ask_once(
            local_client(options.socket, timeout=TIMEOUT), method, f"{BASE}/{path}", json=body
        )
    except httpx.HTTPError as error:
        remedy = "check that you are root or one of its key_users, and that ti-agent.service runs"
        raise unreachable(f"the agent at {options.socket}", error, remedy) from None
    answer: dict[str, Any] = answer_of(response, "the agent", ANSWER_LIMIT)
    return answer


def _print(answer: Any, stream: Any = None) -> None:
    text = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    print(text, file=stream or sys.stdout)

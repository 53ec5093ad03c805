# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `trusted-infrastructure`: runs a service, and small commands for administrators and Ansible.

Commands that Ansible uses take one JSON object on stdin and answer one on stdout; a refusal is
{"error": {"code", "message", "remedy"}} with exit code 1. Secrets come on stdin only.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from trusted_infrastructure.decoding import decode_json
from trusted_infrastructure.process_hardening import forbid_dumps, lock_memory
from trusted_infrastructure.refusal import InvalidField, Refusal

INPUT_LIMIT = 16 << 20
AGENT_SOCKET = Path("/run/trusted-infrastructure/agent/local.sock")
AGENT_TIMEOUT = 120.0

Input = TypeVar("Input", bound=msgspec.Struct)


class Service(NamedTuple):
    """module: has run(settings: Path) -> None. holds_keys: its memory is locked."""

    module: str
    holds_keys: bool


SERVICES = {
    "config": Service("trusted_infrastructure.config.service", False),
    "attestation": Service("trusted_infrastructure.attestation.service", True),
    "key-provider": Service("trusted_infrastructure.key_provider.service", True),
    "agent": Service("trusted_infrastructure.host.service", True),
    "manager": Service("trusted_infrastructure.manager.service", True),
}

# A command of the agent: HTTP method and path on its local socket.
AGENT_COMMANDS = {
    "status": ("GET", "/agent/manage/v1/status"),
    "attest": ("POST", "/agent/manage/v1/attest"),
    "key-check": ("POST", "/agent/manage/v1/key-check"),
    "endorsement-key": ("GET", "/agent/manage/v1/tpm/endorsement-keys"),
    "base-image": ("GET", "/agent/manage/v1/base-image"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 refused, 2 wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    try:
        check_text(given)
        code: int | None = options.command(options)
    except Refusal as refusal:
        print(f"trusted-infrastructure: {refusal}", file=sys.stderr)
        if refusal.remedy:
            print(f"  {refusal.remedy}", file=sys.stderr)
        # Where a key was to go there, nothing else does.
        if options.answers_json and getattr(options, "output_fd", None) != 1:
            write_json({"error": refusal.as_dict()})
        return 1
    return code or 0


def check_text(arguments: Sequence[str]) -> None:
    """Refuse what is not UTF-8: Python has such bytes as surrogates, which no answer can repeat."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidField("arguments", f"{ascii(argument)} is not UTF-8") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="trusted-infrastructure", description="Services of a trusted infrastructure"
    )
    root.set_defaults(answers_json=True)
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    serve_parser = commands.add_parser("serve", help="run a service until SIGTERM")
    serve_parser.add_argument("service", choices=sorted(SERVICES))
    serve_parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    serve_parser.set_defaults(command=serve_command, answers_json=False)

    for group, help_text, names in (
        ("identity", "keys and certificates of this machine (JSON on stdin)", ("ensure", "install")),
        ("authority", "the CA of a side, on its manager (JSON on stdin)", ("ensure", "sign")),
        ("users", "users of a manager (JSON on stdin)", ("ensure",)),
        ("principal", "what a workload manager vouches for hosts with (JSON on stdin)", ("ensure",)),
    ):
        group_commands = commands.add_parser(group, help=help_text).add_subparsers(
            required=True, metavar="COMMAND"
        )
        for name in names:
            command = group_commands.add_parser(name)
            command.add_argument("--check", action="store_true", help="say what would change; write nothing")
            command.set_defaults(command=certificate_command, subject=f"{group} {name}")

    user = commands.add_parser("user", help="users of a manager").add_subparsers(
        required=True, metavar="COMMAND"
    )
    hashing = user.add_parser("hash-password", help="read a password from stdin, print its argon2 hash")
    hashing.set_defaults(command=hash_password_command, answers_json=False)

    agent = commands.add_parser("agent", help="ask this host's agent").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name in AGENT_COMMANDS:
        command = agent.add_parser(name)
        command.add_argument("--socket", type=Path, default=AGENT_SOCKET)
        command.add_argument("--check", action="store_true", help="these commands never change anything")
        command.set_defaults(command=agent_command, action=name, provider=None)
        if name == "base-image":
            command.add_argument("--version", help="of the image; made of the reference values otherwise")
            command.add_argument("--display-name", help="of the image, for people")
        if name == "key-check":
            command.add_argument("--provider", help="name of the key provider; the default one otherwise")
    from trusted_infrastructure.host import key_commands
    from trusted_infrastructure.peers.commands import add_commands

    add_commands(commands)
    key_commands.add_commands(commands)
    return root


def serve_command(options: argparse.Namespace) -> None:
    """Harden the process, then run the service. The service's modules are imported here, and no others."""
    service = SERVICES[options.service]
    forbid_dumps()
    if service.holds_keys and wants_locked_memory(options.settings):
        lock_memory()
    importlib.import_module(service.module).run(options.settings)


def wants_locked_memory(settings: Path) -> bool:
    """Whether the settings leave memory locking on; anything but an explicit false does.

    The service reads the same file again and refuses what is wrong with it.
    """
    try:
        content = msgspec.json.decode(settings.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return not (isinstance(content, dict) and content.get("lock_memory") is False)


def certificate_command(options: argparse.Namespace) -> None:
    """`identity`, `authority`, `users` and `principal`: one JSON object in, one out."""
    from trusted_infrastructure.identity import authority, files

    now, check = int(time.time()), options.check
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "identity ensure": lambda: files.ensure_leaves(read_json(files.EnsureLeaves), now, check=check),
        "identity install": lambda: files.install_leaves(read_json(files.InstallLeaves), now, check=check),
        "authority ensure": lambda: authority.ensure_authority(
            read_json(authority.EnsureAuthority), now, check=check
        ),
        "authority sign": lambda: authority.sign_requests(read_json(authority.SignRequests), now),
        "users ensure": lambda: ensure_users(check),
        "principal ensure": lambda: ensure_principal(now, check),
    }
    write_json(work[options.subject]())


def ensure_users(check: bool) -> dict[str, Any]:
    """`users ensure`: only a manager's environment has what it needs."""
    from trusted_infrastructure.manager import deployment

    return deployment.ensure_users(read_json(deployment.EnsureUsers), check=check)


def ensure_principal(now: int, check: bool) -> dict[str, Any]:
    """`principal ensure`."""
    from trusted_infrastructure.manager import deployment

    return deployment.ensure_principal(read_json(deployment.EnsurePrincipal), now, check=check)


def hash_password_command(_options: argparse.Namespace) -> None:
    """Print the argon2id hash of the password on stdin; one line end at its end does not belong to it."""
    from argon2 import PasswordHasher

    password = sys.stdin.buffer.read(4097).removesuffix(b"\n").removesuffix(b"\r")
    if not 1 <= len(password) <= 4096:
        raise InvalidField("password", "expected 1 to 4096 bytes on stdin")
    print(PasswordHasher().hash(password))


def agent_command(options: argparse.Namespace) -> None:
    """Ask the agent on its local socket, and print its answer."""
    import httpx

    from trusted_infrastructure.transport import ANSWER_LIMIT, answer_of, ask_once, local_client, unreachable

    method, path = AGENT_COMMANDS[options.action]
    body = {"provider": options.provider} if options.action == "key-check" else None
    query = (
        {"image_version": options.version, "display_name": options.display_name}
        if options.action == "base-image"
        else {}
    )
    client = local_client(options.socket, timeout=AGENT_TIMEOUT)
    try:
        response = ask_once(client, method, path, json=body, params={k: v for k, v in query.items() if v})
    except httpx.HTTPError as error:
        remedy = "check that you are root, and that ti-agent.service runs"
        raise unreachable(f"the agent at {options.socket}", error, remedy) from None
    answer = answer_of(response, "the agent", ANSWER_LIMIT)
    write_json(identity_key(answer) if options.action == "endorsement-key" else answer)


def identity_key(answer: dict[str, Any]) -> dict[str, Any]:
    """The one endorsement key that is this host's identity, of all that its TPM has."""
    return next(key for key in answer["endorsement_keys"] if key["identity"])


def read_json(wanted: type[Input]) -> Input:
    """The JSON object on stdin. Raises InvalidField naming the field."""
    data = sys.stdin.buffer.read(INPUT_LIMIT + 1)
    if len(data) > INPUT_LIMIT:
        raise InvalidField("stdin", f"larger than {INPUT_LIMIT} bytes")
    return decode_json(data, wanted, whole="stdin")


def write_json(answer: Any) -> None:
    """One JSON object on stdout, indented for people."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")


if __name__ == "__main__":
    sys.exit(main())

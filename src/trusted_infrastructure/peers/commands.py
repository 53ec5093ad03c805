# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands for an administrator of a Trust Authority host: `audit verify`, `audit show`, `clock accept`.

They read the settings of the services on this host, and need root: the logs are of the services' users.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable
from trusted_infrastructure.times import readable

if TYPE_CHECKING:
    from trusted_infrastructure.audit import AuditRecord, Head, Verification
    from trusted_infrastructure.config.documents import Peer

SETTINGS_DIRECTORY = Path("/etc/trusted-infrastructure")
SERVICES = {"attestation": "/attestation/v1", "key-provider": "/kms/v1"}
INTACT, BROKEN, UNREADABLE = 0, 1, 2
PEER_TIMEOUT = 5.0


class ServiceFiles(msgspec.Struct, frozen=True):
    """What these commands need of a service's settings."""

    host: str
    service_id: str
    side_ca: str
    snapshot: str
    state_directory: str
    anchors_directory: str = "/etc/trusted-infrastructure/anchors"
    audit_segment_size: int = 64 << 20

    @property
    def log(self) -> Path:
        """The open file of the audit log."""
        return Path(self.state_directory) / "audit.jsonl"

    @property
    def clock(self) -> Path:
        """The clock guard's state."""
        return Path(self.state_directory) / "clock.json"


def add_commands(commands: Any) -> None:
    """Add `audit` and `clock` to the command line. commands: what `add_subparsers` gave."""
    audit = commands.add_parser("audit", help="audit logs of this Trust Authority host").add_subparsers(
        required=True, metavar="COMMAND"
    )
    verify = audit.add_parser(
        "verify",
        help="check the chain, and the heads of it that peers keep",
        description="Exit code 0: intact; 1: broken; 2: cannot be read.",
    )
    verify.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="CHAIN:NUMBER:HASH",
        help="a head that was kept elsewhere, for one service",
    )
    verify.add_argument("--no-peers", action="store_true", help="do not ask the peers for heads")
    verify.set_defaults(command=verify_command)
    show = audit.add_parser("show", help="print records")
    show.add_argument("--host", help="records about this host alone")
    show.add_argument("--code", help="records with this code alone, such as ok or quote_signature")
    show.add_argument("--since", metavar="TIME", help="Unix seconds, or 2026-01-31T12:00:00Z")
    show.add_argument("--last", type=int, metavar="N", help="the last N of them")
    show.set_defaults(command=show_command)
    clock = commands.add_parser("clock", help="the clock that this host's services judge by").add_subparsers(
        required=True, metavar="COMMAND"
    )
    accept = clock.add_parser("accept", help="the clock is right now, although it was ahead before")
    accept.set_defaults(command=accept_command)
    for command in (verify, show, accept):
        command.add_argument("--service", choices=[*SERVICES, "all"], default="all")
        command.add_argument("--format", choices=["text", "json"], default="text")
        command.add_argument("--settings-directory", type=Path, default=SETTINGS_DIRECTORY, metavar="FOLDER")
        command.set_defaults(answers_json=False)


def verify_command(options: argparse.Namespace) -> int:
    """`audit verify`: the worst of the services' results is the exit code."""
    heads = [_head(text) for text in options.head]
    if heads and options.service == "all":
        raise InvalidField("--head", "is of one service: name it with --service")
    reports = []
    for name, files in _services(options):
        try:
            reports.append(_verified(name, files, heads, ask=not options.no_peers))
        except Refusal as refusal:
            reports.append({"service": files.service_id, "intact": None, "reason": str(refusal)})
    codes = {True: INTACT, False: BROKEN, None: UNREADABLE}
    if options.format == "json":
        _print_json({"logs": reports})
    else:
        for report in reports:
            _print_report(report)
    return max((codes[report["intact"]] for report in reports), key=[INTACT, BROKEN, UNREADABLE].index)


def show_command(options: argparse.Namespace) -> int:
    """`audit show`."""
    from trusted_infrastructure.audit import records

    since = _since(options.since)
    found: list[AuditRecord] = []
    for _name, files in _services(options):
        for record in records(files.log):
            if (
                (options.host is None or record.host == options.host)
                and (options.code is None or record.code == options.code)
                and record.time >= since
            ):
                found.append(record)
    found.sort(key=lambda record: record.time)
    if options.last is not None:
        found = found[-options.last :] if options.last > 0 else []
    for record in found:
        if options.format == "json":
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        else:
            detail = " ".join(f"{name}={value}" for name, value in record.detail.items())
            # What a caller sent may hold control characters: a terminal must not obey them.
            line = f"{readable(record.time)} {record.service} {record.seq} {record.code} {record.host or '-'}"
            print(_printable(f"{line} {record.address or '-'} {detail}"))
    return 0


def accept_command(options: argparse.Namespace) -> int:
    """`clock accept`: an audit record, then the new mark; running services take it over by themselves."""
    from trusted_infrastructure.audit import AuditLog, Decision, Rotation
    from trusted_infrastructure.clock_guard import accept_time, read_clock_state

    answers: list[dict[str, Any]] = []
    for _name, files in _services(options):
        now = int(time.time())
        with _as_owner(Path(files.state_directory)):
            try:
                before = read_clock_state(files.clock).mark
            except Unavailable:
                before = 0
            # Only the service deletes closed files: it alone can sign for that.
            log = AuditLog(files.log, files.service_id, now, Rotation(files.audit_segment_size))
            try:
                log.append(
                    Decision(
                        time=now,
                        service=files.service_id,
                        host="",
                        address="",
                        code="service_clock_accepted",
                        detail={"before": before, "by": _who()},
                    )
                )
            finally:
                log.close()
            accept_time(files.clock)
        answers.append({"service": files.service_id, "before": before, "accepted": now})
    if options.format == "json":
        _print_json({"clocks": answers})
    else:
        for answer in answers:
            print(f"{answer['service']}: {readable(answer['accepted'])} is accepted")
    return 0


def _verified(name: str, files: ServiceFiles, heads: Sequence[Head], ask: bool) -> dict[str, Any]:
    """The report on one log. Raises Refusal when it cannot be read."""
    from trusted_infrastructure.audit import verify
    from trusted_infrastructure.peers.routes import checkpoint_judge

    kept: dict[str, list[Head]] = {"command line": list(heads)} if heads else {}
    problems: dict[str, str] = {}
    if ask:
        try:
            peers = _peers(files)
        except Refusal as refusal:
            peers, problems = [], {"configuration": str(refusal)}
        for peer in peers:
            try:
                kept[peer.host] = kept_by(peer, files, SERVICES[name])
            except Refusal as refusal:
                problems[peer.host] = str(refusal)
    # The heads first: one that is younger than what is read of the log would seem to be missing.
    judge = checkpoint_judge(Path(files.side_ca), files.service_id)
    result = verify(files.log, [head for given in kept.values() for head in given], judge)
    return _report(files, result, kept, problems)


def _report(
    files: ServiceFiles, result: Verification, kept: dict[str, list[Head]], problems: dict[str, str]
) -> dict[str, Any]:
    reason = result.reason
    if result.missing is not None:
        keepers = sorted(who for who, heads in kept.items() if result.missing in heads)
        reason += f" (head {result.missing.seq} is kept by: {', '.join(keepers)})"
    return {
        "service": files.service_id,
        "intact": result.intact,
        "records": result.records,
        "first": result.first,
        "last": result.head.seq,
        "hash": result.head.hash,
        "chain": result.head.chain,
        "reason": reason,
        "file": result.file,
        "line": result.broken_line,
        "record": result.record,
        "heads": {who: len(heads) for who, heads in kept.items()},
        "not_asked": problems,
    }


def kept_by(peer: Peer, files: ServiceFiles, base: str) -> list[Head]:
    """The heads of this host's log that a peer keeps, each signed by this host's own service.

    Raises Refusal when the peer cannot be asked, or what it gives is not ours.
    """
    import httpx

    from trusted_infrastructure import tokens
    from trusted_infrastructure.audit import Head
    from trusted_infrastructure.peers.anchored import url_of
    from trusted_infrastructure.peers.routes import role_of
    from trusted_infrastructure.peers.watch import SIDE
    from trusted_infrastructure.transport import answer_of, ask_once, public_client, unreachable

    client = public_client(Path(files.side_ca), timeout=PEER_TIMEOUT)
    try:
        response = ask_once(client, "GET", url_of(peer, f"{base}/peer-heads"), params={"host": files.host})
    except httpx.HTTPError as error:
        raise unreachable(peer.host, error) from None
    answer = answer_of(response, peer.host)
    try:
        signed = msgspec.convert(answer, dict[str, dict[str, list[str]]])["heads"].get(files.host, [])
    except (msgspec.ValidationError, KeyError):
        raise Unavailable("peer_answer_invalid", f"{peer.host} answered without heads") from None
    ca = Path(files.side_ca).read_text()
    heads = []
    for jws in signed:
        claims = tokens.verify_kept_audit_head(jws, ca, SIDE, role_of(files.service_id))
        if claims.service_id != files.service_id:
            raise Refusal("audit_head_invalid", f"{peer.host} gave a head of {claims.service_id}")
        heads.append(Head(claims.chain, claims.seq, claims.hash))
    return heads


def _peers(files: ServiceFiles) -> list[Peer]:
    from trusted_infrastructure.config.snapshot import SnapshotReader
    from trusted_infrastructure.peers.anchored import other_members

    snapshot = SnapshotReader(Path(files.snapshot)).current()
    return other_members(snapshot, Path(files.anchors_directory) / "peers.json", files.host)


def _services(options: argparse.Namespace) -> list[tuple[str, ServiceFiles]]:
    """The services that this host has. Raises Refusal `settings_invalid` when there is none."""
    wanted = list(SERVICES) if options.service == "all" else [options.service]
    found = []
    for name in wanted:
        path = options.settings_directory / f"{name}.json"
        try:
            found.append((name, msgspec.json.decode(path.read_bytes(), type=ServiceFiles)))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unusable(path, error.strerror or "cannot be read") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unusable(path, str(error)[:200]) from None
    if not found:
        raise _unusable(options.settings_directory, f"no settings of {' or '.join(wanted)}")
    return found


def _unusable(path: Path, reason: str) -> Refusal:
    return Refusal("settings_invalid", f"{path}: {reason}", "Run it as root on a Trust Authority host.")


@contextmanager
def _as_owner(directory: Path) -> Iterator[None]:
    """As root, act as the owner of a state directory: the service must be able to use what is made in it."""
    try:
        status = directory.stat()
    except OSError as error:
        raise _unusable(directory, error.strerror or "cannot be read") from None
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def _who() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _head(text: str) -> Head:
    from trusted_infrastructure.audit import Head

    parts = text.split(":")
    if len(parts) != 3 or not parts[1].isdigit():
        raise InvalidField("--head", f"{text[:200]!r} is not CHAIN:NUMBER:HASH")
    return Head(parts[0], int(parts[1]), parts[2])


def _since(text: str | None) -> int:
    if text is None:
        return 0
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidField("--since", f"{text[:64]!r} is no time") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


def _print_report(report: dict[str, Any]) -> None:
    if report["intact"] is None:
        print(f"{report['service']}: cannot be read: {report['reason']}")
        return
    kept = sum(report["heads"].values())
    count = f"{report['records']} records, from {report['first']} to {report['last']}"
    print(f"{report['service']}: {'intact' if report['intact'] else 'BROKEN'}, {count}")
    if not report["intact"]:
        line = f", line {report['line']}" if report["line"] is not None else ""
        print(f"  {report['file']}{line}, record {report['record']}: {_printable(report['reason'])}")
    if not kept:
        print("  no head of this log is kept elsewhere: a tail that was cut off would not show")
    elif report["intact"]:
        print(f"  and it holds the {kept} heads that are kept by {', '.join(sorted(report['heads']))}")
    for who, problem in report["not_asked"].items():
        print(f"  {who}: {_printable(problem)}")


def _print_json(answer: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() + "\n")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)

# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files, folders, accounts and systemd units of one machine, brought to a wanted state in one call.

A machine is described as a list of parts; each part knows how to tell what it is now (`difference`) and how
to make it as wanted (`apply`). Check mode asks only the first question. Parts are applied in the order
packages, groups, users, folders, files, text blocks, absent paths, units.
"""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import shutil
import stat
import tempfile
import typing as t
from dataclasses import dataclass

Run = t.Callable[[list[str]], tuple[int, str, str]]
UNIT_FILES = "/etc/systemd/system/"


class StateError(Exception):
    """The wanted state could not be read or made; the message says which part and why."""


@dataclass(frozen=True)
class Difference:
    """What would change: one line for people, and the two texts of a diff (already free of secrets)."""

    part: str
    before: str
    after: str


def _attributes(path: str) -> tuple[str, str, str] | None:
    """Owner, group and mode (four octal digits) of a path itself, or None when there is none."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    try:
        owner = pwd.getpwuid(info.st_uid).pw_name
    except KeyError:
        owner = str(info.st_uid)
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:
        group = str(info.st_gid)
    return owner, group, f"{stat.S_IMODE(info.st_mode):04o}"


def _mode(mode: str, part: str) -> int:
    """A mode as a number. Raises StateError for anything but four octal digits."""
    if len(mode) != 4 or not set(mode) <= set("01234567"):
        raise StateError(f"{part}: the mode must be four octal digits such as 0640, not {mode!r}")
    return int(mode, 8)


def _ids(owner: str, group: str, part: str) -> tuple[int, int]:
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise StateError(f"{part}: no such account: {error}") from error


def _write(path: str, content: bytes, uid: int, gid: int, mode: int) -> None:
    """Replace a file so that a reader sees the old or the new one, and nobody ever sees it with wider rights."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".ansible-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


@dataclass(frozen=True)
class Packages:
    """Debian packages that must be installed; what is there is left at its version."""

    names: tuple[str, ...]
    run: Run

    def missing(self) -> list[str]:
        query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *self.names]
        # dpkg-query exits with 1 when it knows nothing of one of the names, and still lists the others.
        lines = self.run(query)[1].splitlines()
        installed = {line.split()[0] for line in lines if line.endswith(" installed")}
        return [name for name in self.names if name not in installed]

    def difference(self) -> Difference | None:
        missing = self.missing()
        if not missing:
            return None
        return Difference("packages", "", "".join(f"{name}\n" for name in missing))

    def apply(self, run: Run) -> None:
        missing = self.missing()
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes"]
        if run(["apt-cache", "show", "--no-all-versions", *missing])[0] != 0:
            _must(run([*quiet, "update"]), "package lists")
        install = [*quiet, "install", "--no-install-recommends", *missing]
        _must(run(install), f"packages {' '.join(missing)}")


@dataclass(frozen=True)
class Group:
    """A system group."""

    name: str

    def difference(self) -> Difference | None:
        try:
            grp.getgrnam(self.name)
        except KeyError:
            return Difference(f"group {self.name}", "absent\n", "present\n")
        return None

    def apply(self, run: Run) -> None:
        _must(run(["groupadd", "--system", self.name]), f"group {self.name}")


@dataclass(frozen=True)
class User:
    """A system user without a password and without a shell. groups: all supplementary groups."""

    name: str
    group: str
    groups: tuple[str, ...] = ()

    def difference(self) -> Difference | None:
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            return Difference(f"user {self.name}", "absent\n", self._wanted())
        now = {entry.gr_name for entry in grp.getgrall() if self.name in entry.gr_mem}
        if set(self.groups) <= now:
            return None
        return Difference(f"user {self.name}", f"groups {','.join(sorted(now))}\n", self._wanted())

    def _wanted(self) -> str:
        return f"groups {','.join(sorted(self.groups))}\n"

    def apply(self, run: Run) -> None:
        part = f"user {self.name}"
        groups = ["--groups", ",".join(self.groups)] if self.groups else []
        try:
            pwd.getpwnam(self.name)
        except KeyError:
            command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
            command += ["--shell", "/usr/sbin/nologin", "--gid", self.group, *groups, self.name]
            _must(run(command), part)
            return
        _must(run(["usermod", "--append", *groups, self.name]), part)


@dataclass(frozen=True)
class Folder:
    """A folder with owner, group and mode."""

    path: str
    owner: str
    group: str
    mode: str

    def difference(self) -> Difference | None:
        part = f"folder {self.path}"
        _mode(self.mode, part)
        now = _attributes(self.path)
        if now is not None and (os.path.islink(self.path) or not os.path.isdir(self.path)):
            raise StateError(f"{part}: something else is there; remove it")
        wanted = (self.owner, self.group, self.mode)
        return None if now == wanted else Difference(part, _line(now), _line(wanted))

    def apply(self, run: Run) -> None:
        part = f"folder {self.path}"
        uid, gid = _ids(self.owner, self.group, part)
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        os.chown(self.path, uid, gid)
        os.chmod(self.path, _mode(self.mode, part))


@dataclass(frozen=True)
class File:
    """A file with content, owner, group and mode. secret: its content never shows in a diff."""

    path: str
    content: str
    owner: str
    group: str
    mode: str
    secret: bool = False

    def difference(self) -> Difference | None:
        part = f"file {self.path}"
        _mode(self.mode, part)
        now = _attributes(self.path)
        text = None if now is None else _read(self.path)
        wanted = (self.owner, self.group, self.mode)
        if now == wanted and text == self.content:
            return None
        if self.secret:
            return Difference(part, _line(now), _line(wanted) + "<changed>\n")
        if text == self.content:
            return Difference(part, _line(now), _line(wanted))
        return Difference(part, _shown(text or ""), self.content)

    def apply(self, run: Run) -> None:
        part = f"file {self.path}"
        uid, gid = _ids(self.owner, self.group, part)
        _write(self.path, self.content.encode(), uid, gid, _mode(self.mode, part))


@dataclass(frozen=True)
class Block:
    """Lines between two marker lines in a file that others write too, such as /etc/hosts."""

    path: str
    name: str
    content: str

    def _wanted(self, text: str) -> str:
        begin, end = f"# BEGIN {self.name}", f"# END {self.name}"
        kept: list[str] = []
        inside = False
        for line in text.splitlines():
            if line == begin:
                inside = True
            elif line == end:
                inside = False
            elif not inside:
                kept.append(line)
        if inside:
            raise StateError(
                f"block in {self.path}: {begin!r} has no {end!r}; which lines are others' is not known"
            )
        lines = [*kept, begin, *self.content.splitlines(), end]
        return "\n".join(lines) + "\n"

    def difference(self) -> Difference | None:
        text = _read(self.path) or ""
        wanted = self._wanted(text)
        return None if wanted == text else Difference(f"block in {self.path}", _shown(text), _shown(wanted))

    def apply(self, run: Run) -> None:
        text = _read(self.path) or ""
        content = self._wanted(text).encode("utf-8", "surrogateescape")
        # Written in place: in a container /etc/hosts is a mount of its own, which rename cannot replace. It is cut
        # to length last, so that others' lines are there at every moment.
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as stream:
            stream.write(content)
            stream.truncate()


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str

    def difference(self) -> Difference | None:
        now = os.readlink(self.path) if os.path.islink(self.path) else ""
        if now == self.target:
            return None
        return Difference(f"link {self.path}", now + "\n", self.target + "\n")

    def apply(self, run: Run) -> None:
        temporary = self.path + ".ansible-new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(self.target, temporary)
        try:
            os.rename(temporary, self.path)
        except OSError:
            os.unlink(temporary)
            raise


@dataclass(frozen=True)
class Absent:
    """A path that must not be there."""

    path: str

    def difference(self) -> Difference | None:
        if not os.path.lexists(self.path):
            return None
        return Difference(f"path {self.path}", "present\n", "absent\n")

    def apply(self, run: Run) -> None:
        if os.path.isdir(self.path) and not os.path.islink(self.path):
            shutil.rmtree(self.path)
        else:
            os.unlink(self.path)


@dataclass(frozen=True)
class UnitNow:
    """What systemd says of a unit. enabled: starts at boot; None for a unit that can be neither enabled nor disabled.
    started, settled: Unix seconds of the last start and the last change of state (a reload is one). outdated: its
    file is newer than what systemd has read."""

    active: bool
    enabled: bool | None
    started: float
    settled: float
    outdated: bool = False


@dataclass(frozen=True)
class Unit:
    """A systemd unit: enabled and active, or neither.

    restart_on, reload_on: paths. A running unit is restarted (reloaded) when one of them is newer than its last
    start (change of state), so that a run that was cut off between the two is made good by the next one.
    """

    name: str
    active: bool = True
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()

    def actions(self, now: UnitNow, changed: t.Collection[str]) -> list[list[str]]:
        """The systemctl calls that bring the unit to the wanted state.

        changed: paths that changed, or in check mode would change, in this call.
        """
        calls: list[list[str]] = []
        if now.enabled is not None and self.active != now.enabled:
            calls.append(["systemctl", "enable" if self.active else "disable", self.name])
        if self.active and not now.active:
            # A unit that failed too often is not started again by itself.
            calls.append(["systemctl", "reset-failed", self.name])
            calls.append(["systemctl", "start", self.name])
        elif not self.active and now.active:
            calls.append(["systemctl", "stop", self.name])
        elif self.active and _newer(self.restart_on, now.started, changed):
            calls.append(["systemctl", "restart", self.name])
        elif self.active and _newer(self.reload_on, now.settled, changed):
            calls.append(["systemctl", "reload", self.name])
        return calls


def _newer(paths: t.Iterable[str], moment: float, changed: t.Collection[str]) -> bool:
    for path in paths:
        try:
            if path in changed or os.lstat(path).st_mtime > moment:
                return True
        except FileNotFoundError:
            continue
    return False


_PROPERTIES = "ActiveState,UnitFileState,ActiveEnterTimestamp,StateChangeTimestamp,NeedDaemonReload"
_FIXED = ("static", "alias", "indirect", "generated", "transient")


def units_now(names: t.Sequence[str], run: Run) -> list[UnitNow]:
    """Ask systemd once for all units."""
    if not names:
        return []
    command = ["systemctl", "show", "--timestamp=us+utc", f"--property={_PROPERTIES}", *names]
    code, out, err = run(command)
    if code != 0:
        raise StateError(f"systemctl show: {err.strip()}")
    blocks = out.strip("\n").split("\n\n")
    if len(blocks) != len(names):
        raise StateError(f"systemctl show told of {len(blocks)} units, not of {', '.join(names)}")
    return [_unit_now(block) for block in blocks]


def _unit_now(block: str) -> UnitNow:
    fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    file_state = fields.get("UnitFileState", "")
    return UnitNow(
        active=fields.get("ActiveState") in ("active", "activating", "reloading"),
        enabled=None if file_state in _FIXED else file_state == "enabled",
        started=_moment(fields.get("ActiveEnterTimestamp", "")),
        settled=_moment(fields.get("StateChangeTimestamp", "")),
        outdated=fields.get("NeedDaemonReload") == "yes",
    )


def _moment(text: str) -> float:
    """Unix seconds of systemd's "Sat 2026-11-21 19:45:01.123456 UTC"; 0.0 for a unit that never ran."""
    if not text or text == "n/a":
        return 0.0
    moment = datetime.datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f UTC")
    return moment.replace(tzinfo=datetime.UTC).timestamp()


Part: t.TypeAlias = "Packages | Group | User | Folder | File | Block | Link | Absent"


def _line(attributes: tuple[str, str, str] | None) -> str:
    return "absent\n" if attributes is None else "{}:{} {}\n".format(*attributes)


def _read(path: str) -> str | None:
    """A file to the byte, line ends included; None when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except (FileNotFoundError, IsADirectoryError):
        return None


def _shown(text: str) -> str:
    """Text of a file as a result can carry it: bytes that are no UTF-8 are replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _label(part: Part) -> str:
    names = (
        part.names
        if isinstance(part, Packages)
        else [part.name if isinstance(part, (Group, User)) else part.path]
    )
    return " ".join([type(part).__name__.lower(), *names])


def _must(result: tuple[int, str, str], part: str) -> None:
    code, out, err = result
    if code != 0:
        raise StateError(f"{part}: {err.strip() or out.strip() or f'exit code {code}'}")


def converge(
    parts: t.Sequence[Part], units: t.Sequence[Unit], run: Run, check: bool
) -> tuple[list[Difference], list[str]]:
    """Bring the parts, then the units, to the wanted state; with `check`, only say what would change.

    Returns the differences found, and the systemctl calls made (or that would be made). Raises StateError.
    """
    found: list[Difference] = []
    changed_paths: list[str] = []
    for part in parts:
        try:
            difference = part.difference()
            if difference is not None and not check:
                part.apply(run)
        except OSError as error:
            raise StateError(f"{_label(part)}: {error.strerror}") from error
        if difference is None:
            continue
        found.append(difference)
        if isinstance(part, (Folder, File, Block, Link, Absent)):
            changed_paths.append(part.path)
    return found, _converge_units(units, changed_paths, run, check)


def _converge_units(units: t.Sequence[Unit], changed: list[str], run: Run, check: bool) -> list[str]:
    present = units_now([unit.name for unit in units], run)
    calls: list[list[str]] = []
    # The second is a run that was cut off after it had written the file.
    if any(path.startswith(UNIT_FILES) for path in changed) or any(now.outdated for now in present):
        calls.append(["systemctl", "daemon-reload"])
        if not check:
            _must(run(calls[0]), "systemd")
            present = units_now([unit.name for unit in units], run)
    for unit, now in zip(units, present, strict=True):
        wanted = unit.actions(now, changed)
        calls += wanted
        for call in [] if check else wanted:
            result = run(call)
            if call[1] != "reset-failed":
                _must(result, f"unit {unit.name}")
    return [" ".join(call) for call in calls]

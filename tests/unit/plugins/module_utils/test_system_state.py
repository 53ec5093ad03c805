# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of a machine in a temporary folder, with programs that are made up."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.trusted.infrastructure.plugins.module_utils import system_state
from ansible_collections.trusted.infrastructure.plugins.module_utils.system_state import (
    Absent,
    Block,
    File,
    Folder,
    Group,
    Link,
    Packages,
    StateError,
    User,
    converge,
)

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


class Programs:
    """In place of run_command: notes what is run. failing: first words of what fails."""

    def __init__(self, *installed: str) -> None:
        self.installed = set(installed)
        self.ran: list[list[str]] = []
        self.failing: tuple[str, ...] = ()

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        self.ran.append(command)
        if self.failing and " ".join(command).startswith(self.failing):
            return 1, "", "it went wrong\n"
        if command[0] == "dpkg-query":
            lines = [f"{name} installed\n" for name in command if name in self.installed]
            return int(len(lines) < len(command) - 3), "".join(lines), ""
        if "install" in command:
            self.installed |= set(command[command.index("--no-install-recommends") + 1 :])
        return 0, "", ""


def no_programs(command: list[str]) -> tuple[int, str, str]:
    raise AssertionError(f"{command} was run")


def file(path: Path, content: str = "text\n", mode: str = "0640", **changes: Any) -> File:
    return File(str(path), content, OWNER, GROUP, mode, **changes)


def folder(path: Path, mode: str = "0750") -> Folder:
    return Folder(str(path), OWNER, GROUP, mode)


def content(root: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything below a folder: mode, and content or target."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        kept = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(root))] = (path.lstat().st_mode & 0o7777, kept)
    return found


def mode_of(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:04o}"


Make = Callable[[Path], Any]

# A part, what is there before, and what must be there after.
PARTS: dict[str, tuple[Make, Make, Make]] = {
    "new folder": (
        lambda root: folder(root / "a/b"),
        lambda root: None,
        lambda root: mode_of(root / "a/b") == "0750",
    ),
    "folder with another mode": (
        lambda root: folder(root / "a"),
        lambda root: (root / "a").mkdir(mode=0o700),
        lambda root: mode_of(root / "a") == "0750",
    ),
    "new file": (
        lambda root: file(root / "f"),
        lambda root: None,
        lambda root: (root / "f").read_text() == "text\n" and mode_of(root / "f") == "0640",
    ),
    "file with another content": (
        lambda root: file(root / "f"),
        lambda root: (root / "f").write_text("other"),
        lambda root: (root / "f").read_text() == "text\n",
    ),
    "file with other bytes": (
        lambda root: file(root / "f"),
        lambda root: (root / "f").write_bytes(b"\xff\xfe\x00"),
        lambda root: (root / "f").read_text() == "text\n",
    ),
    "file with other line ends": (
        lambda root: file(root / "f", "a\r\nb\n"),
        lambda root: (root / "f").write_bytes(b"a\nb\n"),
        lambda root: (root / "f").read_bytes() == b"a\r\nb\n",
    ),
    "file in place of a link": (
        lambda root: file(root / "f"),
        lambda root: ((root / "real").write_text("text\n"), (root / "f").symlink_to("real")),
        lambda root: not (root / "f").is_symlink() and (root / "real").read_text() == "text\n",
    ),
    "setgid folder": (
        lambda root: folder(root / "a", "2750"),
        lambda root: None,
        lambda root: mode_of(root / "a") == "2750",
    ),
    "new block": (
        lambda root: Block(str(root / "hosts"), "us", "1 one\n2 two"),
        lambda root: (root / "hosts").write_text("0 zero\n"),
        lambda root: (root / "hosts").read_text() == "0 zero\n# BEGIN us\n1 one\n2 two\n# END us\n",
    ),
    "block in a file that is not there": (
        lambda root: Block(str(root / "hosts"), "us", "1 one"),
        lambda root: None,
        lambda root: (root / "hosts").read_text() == "# BEGIN us\n1 one\n# END us\n",
    ),
    "shorter block": (
        lambda root: Block(str(root / "hosts"), "us", "1 one"),
        lambda root: (root / "hosts").write_text("a\n# BEGIN us\n1 one\n2 two\n# END us\nb\n"),
        lambda root: (root / "hosts").read_text() == "a\nb\n# BEGIN us\n1 one\n# END us\n",
    ),
    "block beside that of others": (
        lambda root: Block(str(root / "hosts"), "us", "1 one"),
        lambda root: (root / "hosts").write_text("# BEGIN them\nx\n# END them\n"),
        lambda root: (
            (root / "hosts").read_text() == "# BEGIN them\nx\n# END them\n# BEGIN us\n1 one\n# END us\n"
        ),
    ),
    "block in a file with other bytes": (
        lambda root: Block(str(root / "hosts"), "us", "1 one"),
        lambda root: (root / "hosts").write_bytes(b"\xff\n"),
        lambda root: (root / "hosts").read_bytes() == b"\xff\n# BEGIN us\n1 one\n# END us\n",
    ),
    "new link": (
        lambda root: Link(str(root / "l"), "target"),
        lambda root: None,
        lambda root: os.readlink(root / "l") == "target",
    ),
    "link to something else": (
        lambda root: Link(str(root / "l"), "target"),
        lambda root: ((root / "l").symlink_to("x"), (root / "l.ansible-new").symlink_to("cut off")),
        lambda root: os.readlink(root / "l") == "target" and not (root / "l.ansible-new").is_symlink(),
    ),
    "link in place of a file": (
        lambda root: Link(str(root / "l"), "target"),
        lambda root: (root / "l").write_text("x"),
        lambda root: os.readlink(root / "l") == "target",
    ),
    "file that must go": (
        lambda root: Absent(str(root / "f")),
        lambda root: (root / "f").write_text("x"),
        lambda root: not (root / "f").exists(),
    ),
    "folder that must go": (
        lambda root: Absent(str(root / "a")),
        lambda root: (root / "a/b").mkdir(parents=True),
        lambda root: not (root / "a").exists(),
    ),
    "dangling link that must go": (
        lambda root: Absent(str(root / "l")),
        lambda root: (root / "l").symlink_to("nowhere"),
        lambda root: not (root / "l").is_symlink(),
    ),
    "link that must go, not what it points to": (
        lambda root: Absent(str(root / "l")),
        lambda root: ((root / "a").mkdir(), (root / "a/f").write_text("x"), (root / "l").symlink_to("a")),
        lambda root: not (root / "l").is_symlink() and (root / "a/f").exists(),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_part(name: str, tmp_path: Path) -> None:
    """Check says what would change and changes nothing; apply changes it; then nothing is left to change."""
    make, before, after = PARTS[name]
    before(tmp_path)
    part, untouched = make(tmp_path), content(tmp_path)
    differences, calls = converge([part], [], no_programs, check=True)
    assert content(tmp_path) == untouched
    assert (len(differences), calls) == (1, [])
    assert differences[0].before != differences[0].after
    assert converge([part], [], no_programs, check=False) == (differences, [])
    assert after(tmp_path)
    done = content(tmp_path)
    for check in (True, False):
        assert converge([part], [], no_programs, check=check) == ([], [])
    assert content(tmp_path) == done


def test_diff_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old \xff\n")
    path.chmod(0o640)
    ((difference,), _calls) = converge([file(path)], [], no_programs, check=True)
    assert (difference.before, difference.after) == ("old \ufffd\n", "text\n")
    path.write_text("text\n")
    path.chmod(0o600)
    ((difference,), _calls) = converge([file(path)], [], no_programs, check=True)
    assert (difference.before, difference.after) == (f"{OWNER}:{GROUP} 0600\n", f"{OWNER}:{GROUP} 0640\n")


@pytest.mark.parametrize("old", [None, "old secret"])
def test_diff_of_a_secret_shows_nothing_of_it(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "f"
    if old is not None:
        path.write_text(old)
    part = file(path, "new secret", secret=True)
    ((difference,), _calls) = converge([part], [], no_programs, check=False)
    assert "secret" not in difference.before + difference.after
    assert "<changed>" in difference.after
    assert path.read_text() == "new secret"
    assert converge([part], [], no_programs, check=False) == ([], [])


def test_nobody_sees_a_file_with_wider_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rename = os.rename

    def renaming(source: str, target: str) -> None:
        seen.append(mode_of(Path(source)))
        rename(source, target)

    monkeypatch.setattr(system_state.os, "rename", renaming)
    old = os.umask(0)
    try:
        converge([file(tmp_path / "f", mode="0600")], [], no_programs, check=False)
    finally:
        os.umask(old)
    assert seen == ["0600"]


def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def failing(_source: str, _target: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(system_state.os, "rename", failing)
    with pytest.raises(StateError, match=f"^file {path}: No space left on device$"):
        converge([file(path)], [], no_programs, check=False)
    assert content(tmp_path) == {"f": (0o644, b"old")}


def test_others_lines_are_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a block is not cut to length before the new text is there."""
    path = tmp_path / "hosts"
    path.write_text("0 zero\n" * 100 + "# BEGIN us\n" + "x\n" * 100 + "# END us\n")
    opened: list[bytes] = []
    real_open = os.open

    def opening(name: str, flags: int, mode: int = 0o777) -> int:
        handle = real_open(name, flags, mode)
        opened.append(path.read_bytes())
        return handle

    monkeypatch.setattr(system_state.os, "open", opening)
    converge([Block(str(path), "us", "y")], [], no_programs, check=False)
    assert all(text.startswith(b"0 zero\n" * 100) for text in opened)
    assert opened
    assert path.read_text() == "0 zero\n" * 100 + "# BEGIN us\ny\n# END us\n"


def test_a_block_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a\n# BEGIN us\n1 one\nlines of others\n")
    with pytest.raises(StateError, match="'# BEGIN us' has no '# END us'"):
        converge([Block(str(path), "us", "1 one")], [], no_programs, check=False)
    assert path.read_text().endswith("lines of others\n")


@pytest.mark.parametrize("mode", ["", "644", "00644", "0999", "0x64", "rw--", "u+rw", "-644", " 644"])
def test_a_mode_that_is_none_is_named(tmp_path: Path, mode: str) -> None:
    for part in (file(tmp_path / "f", mode=mode), folder(tmp_path / "a", mode=mode)):
        with pytest.raises(StateError, match=r"(file|folder) .*: the mode must be four octal digits"):
            converge([part], [], no_programs, check=True)
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "part",
    [
        lambda root: folder(root / "f"),
        lambda root: folder(root / "f/below"),
        lambda root: folder(root / "l"),
        lambda root: file(root / "a"),
        lambda root: file(root / "f/below"),
        lambda root: file(root / "nowhere/f"),
        lambda root: Link(str(root / "a"), "target"),
        lambda root: Link(str(root / "nowhere/l"), "target"),
        lambda root: Block(str(root / "nowhere/hosts"), "us", "x"),
    ],
)
def test_what_is_in_the_way_is_named(tmp_path: Path, part: Make) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "l").symlink_to("a")
    before = content(tmp_path)
    with pytest.raises(StateError, match=f"^(folder|file|link|block)( in)? {tmp_path}/.*: "):
        converge([part(tmp_path)], [], no_programs, check=False)
    assert content(tmp_path) == before


def test_an_account_that_is_not_there(tmp_path: Path) -> None:
    part = File(str(tmp_path / "f"), "x", "no-such-user-of-ours", GROUP, "0600")
    assert len(converge([part], [], no_programs, check=True)[0]) == 1
    with pytest.raises(StateError, match="no such account.*no-such-user-of-ours"):
        converge([part], [], no_programs, check=False)
    assert content(tmp_path) == {}


def test_packages() -> None:
    run = Programs("nginx-light")
    part = Packages(("nginx-light", "python3-venv"), run)
    differences, _calls = converge([part], [], run, check=True)
    assert differences[0].after == "python3-venv\n"
    assert [command[0] for command in run.ran] == ["dpkg-query"]
    converge([part], [], run, check=False)
    install = run.ran[-1]
    assert install[-1] == "python3-venv"
    assert "nginx-light" not in install
    assert not any("update" in command for command in run.ran)
    assert converge([part], [], run, check=False) == ([], [])


def test_package_lists_are_fetched_when_a_package_is_unknown() -> None:
    run = Programs()
    run.failing = ("apt-cache",)
    converge([Packages(("a",), run)], [], run, check=False)
    assert [command[-1] for command in run.ran[-2:]] == ["update", "a"]


def test_a_package_that_cannot_be_installed() -> None:
    run = Programs()
    run.failing = ("env",)
    with pytest.raises(StateError, match="^packages a: it went wrong$"):
        converge([Packages(("a",), run)], [], run, check=False)


def test_groups_and_users_that_are_there() -> None:
    assert converge([Group(GROUP), User(OWNER, GROUP)], [], no_programs, check=False) == ([], [])


def test_groups_and_users_that_are_missing() -> None:
    run = Programs()
    parts = [Group("no-such-group-of-ours"), User("no-such-user-of-ours", "g", ("h", "i"))]
    differences, _calls = converge(parts, [], run, check=True)
    assert [difference.before for difference in differences] == ["absent\n", "absent\n"]
    assert run.ran == []
    converge(parts, [], run, check=False)
    assert run.ran[0] == ["groupadd", "--system", "no-such-group-of-ours"]
    assert run.ran[1][0] == "useradd"
    assert run.ran[1][-3:] == ["--groups", "h,i", "no-such-user-of-ours"]
    assert "/usr/sbin/nologin" in run.ran[1]


def test_a_user_is_put_into_more_groups_and_out_of_none() -> None:
    run = Programs()
    differences, _calls = converge([User(OWNER, GROUP, ("no-such-group-of-ours",))], [], run, check=False)
    assert len(differences) == 1
    assert run.ran == [["usermod", "--append", "--groups", "no-such-group-of-ours", OWNER]]


def test_a_user_that_is_in_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    members = grp.struct_group(("ti-proxy", "x", 9, [OWNER]))
    others = grp.struct_group(("others", "x", 8, ["somebody"]))
    monkeypatch.setattr(grp, "getgrall", lambda: [members, others])
    assert converge([User(OWNER, GROUP, ("ti-proxy",))], [], no_programs, check=True) == ([], [])
    ((difference,), _calls) = converge(
        [User(OWNER, GROUP, ("ti-proxy", "others"))], [], no_programs, check=True
    )
    assert (difference.before, difference.after) == ("groups ti-proxy\n", "groups others,ti-proxy\n")


def test_files_and_folders_get_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _handle, uid, gid: owned.append((uid, gid)))
    monkeypatch.setattr(os, "chown", lambda _path, uid, gid: owned.append((uid, gid)))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.struct_passwd(("u", "x", 71, 0, "", "/", "/")))
    monkeypatch.setattr(grp, "getgrnam", lambda _name: grp.struct_group(("g", "x", 72, [])))
    converge([folder(tmp_path / "a"), file(tmp_path / "f")], [], no_programs, check=False)
    assert owned == [(71, 72), (71, 72)]

# SPDX-License-Identifier: GPL-3.0-or-later
"""The hash over user space: every change that could change what runs shows, nothing else does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from trusted_lab.firmware.user_space import user_space_hash

PATHS = ("/usr", "/opt/agent")


def make_root(root: Path) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/agent").write_bytes(b"#!/bin/sh\n")
    (root / "usr/bin/agent").chmod(0o755)
    (root / "usr/bin/link").symlink_to("agent")
    (root / "usr/empty").mkdir()
    (root / "opt/agent").mkdir(parents=True)
    (root / "opt/agent/code.py").write_text("print(1)\n")
    (root / "etc").mkdir()
    return root


def value(root: Path) -> str:
    return user_space_hash(root, PATHS)


def replace_link(root: Path) -> None:
    (root / "usr/bin/link").unlink()
    (root / "usr/bin/link").symlink_to("other")


def rename(root: Path) -> None:
    (root / "usr/bin/agent").rename(root / "usr/bin/agent2")


def file_for_folder(root: Path) -> None:
    (root / "usr/empty").rmdir()
    (root / "usr/empty").touch()


def add_pipe(root: Path) -> None:
    os.mkfifo(root / "usr/pipe")


CHANGES: list[Callable[[Path], object]] = [
    lambda root: (root / "usr/bin/agent").write_bytes(b"#!/bin/zsh\n"),
    lambda root: (root / "usr/bin/agent").chmod(0o4755),
    lambda root: (root / "usr/bin/new").touch(),
    lambda root: (root / "usr/empty").rmdir(),
    lambda root: (root / "opt/agent/code.py").unlink(),
    replace_link,
    rename,
    file_for_folder,
    add_pipe,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows(tmp_path: Path, change: Callable[[Path], object]) -> None:
    root = make_root(tmp_path)
    before = value(root)
    change(root)
    assert value(root) != before


def test_equal_trees_are_equal_whatever_their_times_and_places(tmp_path: Path) -> None:
    one, other = make_root(tmp_path / "one"), make_root(tmp_path / "other")
    os.utime(other / "usr/bin/agent", (1, 1))
    (other / "etc/machine-id").write_text("unique\n")
    assert value(one) == value(other)


def test_a_missing_tree_is_not_an_empty_one(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "opt/agent/code.py").unlink()
    empty = value(root)
    (root / "opt/agent").rmdir()
    assert value(root) != empty


def test_the_owner_counts(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change an owner")
    root = make_root(tmp_path)
    before = value(root)
    os.chown(root / "usr/bin/agent", 1, 0)
    assert value(root) != before


def test_a_link_above_a_tree_is_not_followed(tmp_path: Path) -> None:
    root, outside = make_root(tmp_path / "root"), make_root(tmp_path / "outside")
    (root / "opt").rename(root / "gone")
    (root / "opt").symlink_to(outside / "opt")
    before = value(root)
    (outside / "opt/agent/code.py").write_text("print(2)\n")
    assert value(root) == before


def test_boundaries_cannot_be_shifted(tmp_path: Path) -> None:
    """The end of one record must not pass for the beginning of the next."""
    one, other = tmp_path / "one", tmp_path / "other"
    for root, names in ((one, ("ab", "c")), (other, ("a", "bc"))):
        (root / "usr").mkdir(parents=True)
        for name in names:
            (root / "usr" / name).touch()
    assert value(one) != value(other)

# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy for Ansible's tools: exact, and without a hand on the repository around it."""

import subprocess
from pathlib import Path

import collection_tree
import pytest


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree with a tracked, an untracked and an ignored file."""
    root = tmp_path / "clone"
    (root / "plugins").mkdir(parents=True)
    (root / ".gitignore").write_text("/build/\n*.pyc\n")
    (root / "plugins" / "tracked.py").write_text("tracked\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    (root / "untracked.yml").write_text("untracked\n")
    (root / "plugins" / "ignored.pyc").write_text("ignored\n")
    monkeypatch.setattr(collection_tree, "ROOT", root)
    monkeypatch.setattr(collection_tree.source_files, "__defaults__", (root,))
    return root


def files(tree: Path) -> set[str]:
    return {
        str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and ".git" not in path.parts
    }


def test_copy_has_what_git_tracks_or_would_track(clone: Path) -> None:
    tree = collection_tree.make_tree(clone / "build" / "tree")
    assert files(tree) == {".gitignore", "plugins/tracked.py", "untracked.yml"}


def test_copy_is_a_repository_of_its_own(clone: Path) -> None:
    for _round in range(2):
        tree = collection_tree.make_tree(clone / "build" / "tree")
        assert git(tree, "rev-parse", "--show-toplevel").strip() == str(tree)
        assert "plugins/tracked.py" in git(tree, "ls-files").split()


def test_repository_around_it_is_left_alone(clone: Path) -> None:
    before = git(clone, "status", "--porcelain")
    tree = collection_tree.make_tree(clone / "build" / "tree")
    subprocess.run(["rm", "-rf", str(tree / ".git" / "refs")], check=True)
    collection_tree.make_tree(clone / "build" / "tree")
    assert (
        git(clone, "status", "--porcelain")
        == before
        == "A  .gitignore\nA  plugins/tracked.py\n?? untracked.yml\n"
    )


def test_what_is_gone_is_gone_from_the_copy(clone: Path) -> None:
    tree = collection_tree.make_tree(clone / "build" / "tree")
    (tree / "tests" / "output").mkdir(parents=True)
    (tree / "tests" / "output" / "kept").write_text("")
    (clone / "plugins" / "tracked.py").unlink()
    collection_tree.make_tree(clone / "build" / "tree")
    assert files(tree) == {".gitignore", "untracked.yml", "tests/output/kept"}
    assert not (tree / "plugins").exists()


def test_change_arrives(clone: Path) -> None:
    tree = collection_tree.make_tree(clone / "build" / "tree")
    (clone / "untracked.yml").write_text("changed\n")
    collection_tree.make_tree(clone / "build" / "tree")
    assert (tree / "untracked.yml").read_text() == "changed\n"


def test_without_a_repository_all_sources_are_copied(clone: Path) -> None:
    subprocess.run(["rm", "-rf", str(clone / ".git")], check=True)
    tree = collection_tree.make_tree(clone / "build" / "tree")
    assert files(tree) == {".gitignore", "plugins/tracked.py", "untracked.yml"}

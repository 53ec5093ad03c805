# SPDX-License-Identifier: GPL-3.0-or-later
"""A physical copy of the working tree where Ansible's tools want a collection to lie.

ansible-test refuses a checkout that is not at ``.../ansible_collections/trusted/infrastructure``, also
through a symbolic link, and inside a folder that git ignores it skips every target and exits with 0. So the
copy is a git repository of its own. It has what git tracks or would track: a file that is ignored by mistake
is missing in the copy too, and is found by the gates rather than by users.

    python tools/collection_tree.py [TARGET]    prints the path of the collection below TARGET (build/tree)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = Path("ansible_collections/trusted/infrastructure")
NOT_SOURCE = {".git", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".venv"}
# Written by ansible-test and ansible-lint into the copy; no source, but worth keeping between runs.
KEPT_IN_COPY = {".git", ".ansible", "tests/output"}


def git(folder: Path, *arguments: str) -> str:
    """Run git on the repository whose top is `folder`, and return what it prints.

    The repository is named outright: without one in `folder`, git would climb to the one around it and work
    there. The folder may belong to another user.
    """
    place = [f"--git-dir={folder / '.git'}", f"--work-tree={folder}"]
    command = ["git", "-c", f"safe.directory={folder}", *place, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def source_files(root: Path = ROOT) -> list[str]:
    """Paths, relative to `root`, of what git tracks or would track; of all files without a repository."""
    if (root / ".git").exists():
        listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        return sorted({name for name in listed if name and (root / name).is_file()})
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_SOURCE]
        found += [str((Path(folder) / name).relative_to(root)) for name in files if not name.endswith(".pyc")]
    return sorted(found)


def remove_stale(wanted: set[str], folder: Path, target: Path) -> None:
    """Remove from `folder`, inside `target`, files that are not wanted, and folders that are empty then."""
    for path in list(folder.iterdir()):
        relative = str(path.relative_to(target))
        if relative in KEPT_IN_COPY:
            continue
        if path.is_dir() and not path.is_symlink():
            remove_stale(wanted, path, target)
            if not any(path.iterdir()):
                path.rmdir()
        elif relative not in wanted:
            path.unlink()


def copy_changed(names: list[str], target: Path) -> None:
    """Bring `target` to hold exactly the files `names`; what is unchanged keeps its time."""
    remove_stale(set(names), target, target)
    for name in names:
        source, copy = ROOT / name, target / name
        old, new = copy.stat() if copy.is_file() else None, source.stat()
        if old and (old.st_size, old.st_mtime_ns, old.st_mode) == (new.st_size, new.st_mtime_ns, new.st_mode):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)


def make_tree(base: Path) -> Path:
    """Copy the working tree below `base`, as a git repository. Returns the collection's folder."""
    target = base / COLLECTION
    target.mkdir(parents=True, exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy_changed(source_files(), target)
        git(target, "init", "--quiet")
        git(target, "add", "--all")
    return target


if __name__ == "__main__":
    print(make_tree(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build" / "tree"))

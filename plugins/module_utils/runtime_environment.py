# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual environment made from a wheelhouse, the same on every machine to the byte."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import typing as t

Run = t.Callable[[list[str]], tuple[int, str, str]]

COMPLETE = ".complete"
# Debian and Ubuntu keep pip's wheel there for ensurepip; it is run from the archive and not installed.
PIP_WHEELS = "/usr/share/python-wheels/pip-*.whl"


class EnvironmentFailure(Exception):
    """The environment could not be made; the message says which step failed and what it said."""


def _unpack(archive: str, folder: str) -> None:
    """Unpack regular files only, each below the folder: an archive cannot place anything elsewhere.

    tarfile's own filters are younger than the Python of Debian 12.
    """
    with tarfile.open(archive) as packed:
        for member in packed:
            target = os.path.normpath(os.path.join(folder, member.name))
            if not target.startswith(folder + os.sep):
                raise EnvironmentFailure(f"the archive has a path outside of it: {member.name}")
            content = packed.extractfile(member) if member.isfile() else None
            if content is not None:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as stream:
                    shutil.copyfileobj(content, stream)


class Environment:
    """One environment below `directory`, named by the digest of its lock; the link `venv` says which is used."""

    def __init__(self, directory: str, digest: str, run: Run) -> None:
        """Raises EnvironmentFailure for a digest that is none: a part of it is the name of a folder."""
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise EnvironmentFailure(
                f"the digest must be a SHA-256 in 64 lower-case hexadecimal digits, not {digest!r}"
            )
        self.directory = directory
        self.digest = digest
        self.run = run
        self.name = digest[:16]
        self.link = os.path.join(directory, "venv")
        self.path = os.path.join(directory, self.name)

    def current(self) -> str:
        """Name of the environment in use, or "absent"."""
        return os.readlink(self.link) if os.path.islink(self.link) else "absent"

    def installed(self) -> bool:
        """Whether this environment is complete and in use."""
        return self.current() == self.name and os.path.exists(os.path.join(self.path, COMPLETE))

    def install(self, archive: str, lock: str) -> None:
        """Make the environment from the archive and take it into use. Raises EnvironmentFailure."""
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        if not os.path.exists(os.path.join(self.path, COMPLETE)):
            with tempfile.TemporaryDirectory(prefix="wheelhouse-") as folder:
                try:
                    _unpack(archive, folder)
                except (OSError, tarfile.TarError) as error:
                    raise EnvironmentFailure(f"{archive} cannot be unpacked: {error}") from error
                self._check(os.path.join(folder, lock), lock)
                shutil.rmtree(self.path, ignore_errors=True)
                self._make(folder, os.path.join(folder, lock))
        self._use()

    def _check(self, path: str, name: str) -> None:
        """The lock names the SHA-256 of every wheel, and the digest names the lock. Raises EnvironmentFailure."""
        try:
            with open(path, "rb") as stream:
                found = hashlib.sha256(stream.read()).hexdigest()
        except OSError as error:
            raise EnvironmentFailure(f"the archive has no {name}: {error.strerror}") from error
        if found != self.digest:
            raise EnvironmentFailure(
                f"the archive's {name} has the SHA-256 {found}, and {self.digest} is wanted"
            )

    def _make(self, wheelhouse: str, lock: str) -> None:
        python = os.path.join(self.path, "bin", "python")
        pip = sorted(glob.glob(PIP_WHEELS))
        if not pip:
            raise EnvironmentFailure(f"no {PIP_WHEELS}: install the package python3-venv")
        self._step(["/usr/bin/python3", "-m", "venv", "--without-pip", self.path])
        options = [
            "--no-index",
            "--find-links",
            os.path.join(wheelhouse, "wheels"),
            "--require-hashes",
            "--no-deps",
            "--no-compile",
        ]
        quiet = ["--quiet", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"]
        self._step(
            [python, os.path.join(pip[-1], "pip"), "--isolated", "install", *options, *quiet, "-r", lock]
        )
        packages = glob.glob(os.path.join(self.path, "lib", "python3*", "site-packages"))
        # Byte code is looked up by hash, never by time, so that equal files are equal byte code.
        self._step([python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *packages])
        with open(os.path.join(self.path, COMPLETE), "w", encoding="utf-8") as stream:
            stream.write(self.digest + "\n")

    def _use(self) -> None:
        temporary = self.link + ".new"
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(self.name, temporary)
        os.rename(temporary, self.link)
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            if re.fullmatch("[0-9a-f]{16}", name) and path != self.path:
                shutil.rmtree(path)

    def _step(self, command: list[str]) -> None:
        code, out, err = self.run(command)
        if code != 0:
            raise EnvironmentFailure(f"{' '.join(command[:3])} failed: {(err or out).strip()[-2000:]}")

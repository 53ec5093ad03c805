# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect wheels for another release than this machine's, in a container of that release.

    build_wheelhouse.py --for "debian 13" --output FOLDER

comes here where the machine is no Debian 13. A root file system with Python and a compiler is made from the
distribution's archive (mmdebstrap) and kept beside FOLDER; in it, build_wheelhouse.py runs as it would on
such a machine (podman). pip gets this machine's configuration there: its files, PIP_* variables, the folders
that they name, and the machine's CA certificates. Needs root.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# "os release" as /etc/os-release has it -> the release's name in the archive, and its components.
RELEASES = {
    "debian 12": ("bookworm", "main"),
    "debian 13": ("trixie", "main"),
    "ubuntu 24.04": ("noble", "main,universe"),
}
PACKAGES = (
    "ca-certificates",
    "gcc",
    "libc6-dev",
    "libtss2-dev",
    "pkg-config",
    "python3",
    "python3-dev",
    "python3-venv",
)
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class ContainerError(Exception):
    """The container could not be made or the build in it failed; the text says what, and what to do."""


def archive_name(system: str) -> tuple[str, str]:
    """Name and components of a system in its archive. Raises ContainerError for one that is not supported."""
    try:
        return RELEASES[system]
    except KeyError:
        raise ContainerError(f"no wheels for '{system}'; supported are {', '.join(RELEASES)}") from None


def pip_files(home: Path, environment: Mapping[str, str]) -> list[Path]:
    """The files in which pip looks for its configuration and credentials, those that are there."""
    named = [Path(environment["PIP_CONFIG_FILE"])] if environment.get("PIP_CONFIG_FILE") else []
    usual = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf"]
    own = [home / ".config/pip/pip.conf", home / ".pip/pip.conf", home / ".netrc"]
    return [path for path in [*named, *map(Path, usual), *own] if path.is_file()]


def named_paths(texts: Iterable[str]) -> list[Path]:
    """Absolute paths and file:// addresses that pip's settings name, those that are there.

    What lies below a folder of the list is left out.
    """
    words = {word for text in texts for word in re.split(r"[\s=]+", text)}
    named = {Path(word.removeprefix("file://")) for word in words if re.match(r"(file://)?/", word)}
    # A simple index links to files beside it.
    there = {path.parent if path.name == "simple" else path for path in named if path.exists()}
    return sorted(path for path in there if not there.intersection(path.parents))


def mounts(home: Path, environment: Mapping[str, str]) -> list[str]:
    """Podman's options that give the container this machine's pip configuration and CA certificates."""
    files = pip_files(home, environment)
    variables = [value for name, value in environment.items() if name.startswith("PIP_")]
    further = named_paths([*variables, *(path.read_text(encoding="utf-8") for path in files)])
    wanted = sorted({*files, *further, *([CA_BUNDLE] if CA_BUNDLE.is_file() else [])})
    options = [f"--volume={path}:{path}:ro" for path in wanted if path not in (Path("/"), Path("/dev/null"))]
    # By name alone: values may hold a password, and arguments can be read by everyone on the machine.
    return options + [f"--env={name}" for name in environment if name.startswith("PIP_")]


def ensure_root(system: str, folder: Path, mirrors: list[str]) -> Path:
    """The root file system of a build container, made when its inputs change."""
    release, components = archive_name(system)
    inputs = hashlib.sha256(json.dumps([release, components, PACKAGES, mirrors]).encode()).hexdigest()
    root = folder / f".{release}-container"
    mark = folder / f".{release}-container.inputs"
    if root.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == inputs:
        return root
    print(f"wheelhouse: making a container of {release} (about a minute)", file=sys.stderr, flush=True)
    mark.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    include = ",".join(PACKAGES)
    command = ["mmdebstrap", "--variant=minbase", f"--components={components}", f"--include={include}"]
    command += ['--aptopt=APT::Install-Recommends "false"', release, str(root), *mirrors]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise ContainerError("mmdebstrap is not installed; " + otherwise(system)) from None
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise ContainerError(f"mmdebstrap made no {release}:\n{said}")
    mark.write_text(inputs, encoding="utf-8")
    return root


def otherwise(system: str) -> str:
    """What an operator can do without a container."""
    return (
        f"or collect the wheels on a machine with {system} (service_runtime_build_host), "
        "or give a ready wheelhouse (service_runtime_wheelhouse)"
    )


def build_in_container(system: str, folder: Path, mirrors: list[str]) -> dict[str, object]:
    """Collect the wheels for `system` ("debian 13") into `folder`; the answer is build_wheelhouse.py's own.

    Raises ContainerError.
    """
    archive_name(system)
    if os.geteuid() != 0:
        raise ContainerError(
            f"this machine is no {system}, and a container of it needs root: use sudo, {otherwise(system)}"
        )
    root = ensure_root(system, folder.parent, mirrors)
    home = Path.home()
    command = ["run", "--rm", "--network=host", f"--env=HOME={home}", *mounts(home, os.environ)]
    command += [f"--volume={ROOT}:{ROOT}:ro", f"--volume={folder}:{folder}", f"--workdir={ROOT}"]
    program = ["/usr/bin/python3", "-B", str(ROOT / "tools" / "build_wheelhouse.py"), "--output", str(folder)]
    said = podman(*command, "--rootfs", str(root), *program)
    answer: dict[str, object] = json.loads(said.splitlines()[-1])
    return answer


def podman(*arguments: str) -> str:
    """What podman prints; it is run as the lab runs it, with the runtime that the machine needs."""
    sys.path.append(str(ROOT / "roles" / "lab" / "files"))
    from trusted_lab.errors import LabError
    from trusted_lab.podman import Podman

    try:
        return Podman().run(*arguments, timeout=1800)
    except LabError as problem:
        raise ContainerError(f"the container of the build: {problem}") from problem

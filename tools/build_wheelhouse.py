# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect the wheels that hosts install: our own, and every dependency, pinned by hash.

    python3 tools/build_wheelhouse.py [--python /usr/bin/python3] [--output FOLDER] [--given FOLDER]
                                      [--for "debian 13" [--mirror LINE ...]]

Made for the operating system and the Python that it runs on; run it on a machine like the hosts (the control
node, a named build host). It needs only Python's standard library to start, so that it can be copied there
with src/, requirements/, pyproject.toml and LICENSE. `--for` says which system the hosts have; where this
machine has another one, wheelhouse_container.py runs it in a container of that one, made from the package
archives that `--mirror` gives, as mmdebstrap takes them. Python packages come from the index that pip is
configured with, checked against requirements/<extra>.txt; those without a wheel are built here (gcc,
pkg-config, python3-dev, libtss2-dev). Build tools are pinned too (requirements/build.txt).

Result, in FOLDER (default build/wheelhouse/<os>-<release>-py<version>):

    wheels/                 every wheel
    <extra>.lock            authority, host, manager: name==version --hash=sha256:... of each wheel, ours too
    <extra>.tar             wheels/ and requirements.lock of one kind of host, for one transfer
    platform.json           what it was made for: {"os", "release", "machine", "python"}

On the host, with the tar unpacked in a folder:

    python3 -m venv VENV
    VENV/bin/pip install --no-index --find-links wheels --require-hashes -r requirements.lock

The lock decides whether a host has to install anew. Equal sources give an equal lock, byte for byte.

`--given FOLDER` takes a ready wheelhouse (air gap), a copy of what this tool made elsewhere: nothing is built
or fetched. Locks, tars and platform.json must be there, and every wheel must have the hash that its lock
names. Whether it is made for the hosts' system is the caller's to compare ("platform").

The last line printed is a JSON object: {"folder", "changed", "locks": {extra: SHA-256 of the lock},
"platform"}. Messages go to standard error; where something is wrong the exit code is 1 and it is not printed.
An unchanged run costs a fraction of a second: inputs and result are compared by digest.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("authority", "host", "manager")
DISTRIBUTION = "trusted_infrastructure"
# These come as source, and are built here; everything else must come as a wheel.
BUILT_HERE = ("tpm2-pytss",)
# 1980 is the oldest time that a zip archive can hold; any fixed time will do.
FIXED_TIME = "315532800"


class WheelhouseError(Exception):
    """Something is wrong with the inputs or with what was built; the text says what, and what to do."""


def digest_of_files(paths: list[Path], *further: str) -> str:
    """SHA-256, in hex, over the names and contents of files and over further texts."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode())
        digest.update(content)
    for text in further:
        digest.update(f"\0{text}".encode())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def platform_of(python: str) -> dict[str, str]:
    """What wheels built with `python` on this machine are for."""
    code = (
        "import json,platform,sys;o=platform.freedesktop_os_release();"
        "print(json.dumps(dict(os=o['ID'],release=o.get('VERSION_ID','rolling'),machine=platform.machine(),"
        "python='%d.%d'%sys.version_info[:2])))"
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelhouseError(f"{python} does not run: {done.stderr.strip()[-300:]}")
    platform: dict[str, str] = json.loads(done.stdout)
    return platform


def tss_version() -> str:
    """Version of the TPM library here: a wheel built against a newer one than the host's does not load."""
    try:
        done = subprocess.run(
            ["pkg-config", "--modversion", "tss2-sys"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "none"
    return done.stdout.strip() or "none"


def build_environment() -> dict[str, str]:
    """The environment of a build: what makes its result depend on the sources alone."""
    fixed = {
        "SOURCE_DATE_EPOCH": FIXED_TIME,
        "PYTHONHASHSEED": "0",
        "CFLAGS": "-O2 -g0",
        "LC_ALL": "C.UTF-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **fixed}


def pip(python: Path | str, *arguments: str) -> None:
    """Run pip; its messages go to standard error. Raises WheelhouseError with their end."""
    command = [str(python), "-m", "pip", *arguments]
    done = subprocess.run(
        command,
        env=build_environment(),
        cwd=ROOT,
        umask=0o022,  # modes are part of a wheel
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WheelhouseError(f"pip {arguments[0]} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")


def builder(python: str, work: Path) -> Path:
    """The environment with the pinned build tools, made when they change. Returns its Python."""
    mark = work / "builder" / ".inputs"
    inputs = digest_of_files([ROOT / "requirements" / "build.txt"], python)
    target = work / "builder" / "bin" / "python"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != inputs:
        command = [python, "-m", "venv", "--clear", str(work / "builder")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WheelhouseError(
                f"{python} makes no environment (python3-venv is needed): {done.stdout.strip()}"
            )
        pip(target, "install", "-qq", "--require-hashes", "-r", str(ROOT / "requirements" / "build.txt"))
        mark.write_text(inputs, encoding="utf-8")
    return target


def collect_dependencies(python: Path, wheels: Path) -> dict[str, list[str]]:
    """Fetch or build the wheels of every extra into `wheels`. Returns extra -> file names."""
    collected = {}
    for extra in EXTRAS:
        with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
            say(f"collecting the wheels of {extra}")
            source = [argument for name in BUILT_HERE for argument in ("--no-binary", name)]
            options = [
                "--no-deps",
                "--require-hashes",
                "--no-build-isolation",
                "--only-binary",
                ":all:",
                *source,
            ]
            requirements = str(ROOT / "requirements" / f"{extra}.txt")
            pip(python, "wheel", "-qq", *options, "--wheel-dir", folder, "-r", requirements)
            collected[extra] = [path.name for path in Path(folder).glob("*.whl")]
            for name in collected[extra]:
                os.replace(Path(folder) / name, wheels / name)
    return collected


def dependencies(python: Path, wheels: Path, record: Path, inputs: str) -> dict[str, list[str]]:
    """The wheels of every extra, as `record` has them where its inputs and every wheel are still the same."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["inputs"] == inputs and all(
            sha256(wheels / name) == h for name, h in known["wheels"].items()
        ):
            extras: dict[str, list[str]] = known["extras"]
            return extras
    except (OSError, ValueError, KeyError, TypeError):
        say("no dependencies were collected yet")
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir()
    extras = collect_dependencies(python, wheels)
    hashes = {path.name: sha256(path) for path in wheels.glob("*.whl")}
    record.write_text(json.dumps({"inputs": inputs, "wheels": hashes, "extras": extras}), encoding="utf-8")
    return extras


def build_own(python: Path, wheels: Path) -> str:
    """Build our wheel into `wheels`. Returns its file name."""
    say("building our wheel")
    with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
        # From a copy: the folder of an installed collection need not be writable.
        copy = Path(folder) / "source"
        shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copyfile(ROOT / name, copy / name)
        pip(
            python, "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, str(copy)
        )
        built = next(Path(folder).glob("*.whl"))
        check_own(built)
        os.replace(built, wheels / built.name)
        return built.name


def check_own(wheel: Path) -> None:
    """Refuse a wheel of ours that lacks the program: an empty wheel builds with exit code 0."""
    with zipfile.ZipFile(wheel) as archive:
        if f"{DISTRIBUTION}/cli.py" not in archive.namelist():
            raise WheelhouseError(f"{wheel.name} has no {DISTRIBUTION}/cli.py: is src/ complete?")


def lock_lines(wheels: Path, names: list[str], extra: str) -> str:
    """The lock of one extra: a pinned requirement with its hash for each wheel."""
    lines = []
    for name in sorted(names, key=str.lower):
        distribution, version = name.split("-")[:2]
        wanted = distribution.lower().replace("_", "-")
        if distribution == DISTRIBUTION:
            wanted += f"[{extra}]"
        lines.append(f"{wanted}=={version} --hash=sha256:{sha256(wheels / name)}\n")
    return "".join(lines)


def write_tar(target: Path, wheels: Path, names: list[str], lock: str) -> None:
    """Write one kind of host's wheels and lock; equal content gives equal bytes."""
    unfinished = target.with_suffix(".unfinished")
    with tarfile.open(unfinished, mode="w", format=tarfile.GNU_FORMAT) as archive:
        contents = [(f"wheels/{name}", (wheels / name).read_bytes()) for name in sorted(names)]
        for name, content in [("requirements.lock", lock.encode()), *contents]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, int(FIXED_TIME)
            archive.addfile(entry, io.BytesIO(content))
    os.replace(unfinished, target)


def check_tar(folder: Path, extra: str) -> None:
    """Refuse a tar that is not exactly the lock beside it and a wheel for each of the lock's hashes."""
    lock, tar = folder / f"{extra}.lock", folder / f"{extra}.tar"
    wanted = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        matched = re.fullmatch(r"(\S+==\S+) --hash=sha256:([0-9a-f]{64})", line)
        if not matched:
            raise WheelhouseError(f"{lock}: not a pinned requirement with its hash: {line[:120]}")
        wanted[matched[2]] = matched[1]
    if not any(name.startswith(f"trusted-infrastructure[{extra}]==") for name in wanted.values()):
        raise WheelhouseError(f"{lock} does not name trusted-infrastructure[{extra}]")
    with tarfile.open(tar) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            if file is None or not re.fullmatch(r"requirements\.lock|wheels/[^/]+\.whl", entry.name):
                raise WheelhouseError(f"{tar}: {entry.name} is neither the lock nor a wheel")
            content = file.read()
            if entry.name == "requirements.lock" and content != lock.read_bytes():
                raise WheelhouseError(f"{tar}: its requirements.lock is not {lock.name}")
            if entry.name != "requirements.lock" and not wanted.pop(
                hashlib.sha256(content).hexdigest(), None
            ):
                raise WheelhouseError(f"{tar}: {entry.name} does not have a hash that {lock.name} names")
    if wanted:
        raise WheelhouseError(f"{tar}: no wheel for {', '.join(sorted(wanted.values()))}")


def say(text: str) -> None:
    """Tell what goes on; standard output is for the result."""
    print(f"wheelhouse: {text}", file=sys.stderr, flush=True)


def read_state(path: Path) -> dict[str, str]:
    """The digests of the last complete run; none where there was none."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in state.items()} if isinstance(state, dict) else {}


def result_digest(folder: Path) -> str:
    """What there is of the result, by name, size and time of change: cheap, and sees a change by hand."""
    entries = sorted(path for path in folder.rglob("*") if path.suffix in {".whl", ".lock", ".tar"})
    listed = [
        f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in entries
    ]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def make_wheelhouse(python: str, platform: dict[str, str], folder: Path) -> bool:
    """Bring `folder` up to date. Returns whether anything had to be made."""
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    requirements = [ROOT / "requirements" / f"{name}.txt" for name in (*EXTRAS, "build")]
    own = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    here = [json.dumps(platform, sort_keys=True), tss_version(), sha256(Path(__file__).resolve())]
    inputs = {
        "dependencies": digest_of_files(requirements, *here),
        "own": digest_of_files([*own, ROOT / "pyproject.toml", ROOT / "LICENSE", requirements[-1]], *here),
    }
    if read_state(work / "state.json") == {**inputs, "result": result_digest(folder)}:
        return False
    # Until the end is reached, the next run must not take this one's leavings for a result.
    (work / "state.json").unlink(missing_ok=True)
    build_python = builder(python, work)
    wheels = folder / "wheels"
    collected = dependencies(build_python, wheels, work / "collected.json", inputs["dependencies"])
    for stale in wheels.glob(f"{DISTRIBUTION}-*.whl"):
        stale.unlink()
    own_wheel = build_own(build_python, wheels)
    for extra in EXTRAS:
        names = [*collected[extra], own_wheel]
        lock = lock_lines(wheels, names, extra)
        (folder / f"{extra}.lock").write_text(lock, encoding="utf-8")
        write_tar(folder / f"{extra}.tar", wheels, names, lock)
    (folder / "platform.json").write_text(json.dumps(platform) + "\n", encoding="utf-8")
    state = {**inputs, "result": result_digest(folder)}
    (work / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return True


def given_wheelhouse(folder: Path) -> dict[str, str]:
    """Check a ready wheelhouse. Returns its platform."""
    for name in ("platform.json", *(f"{extra}.{kind}" for extra in EXTRAS for kind in ("lock", "tar"))):
        if not (folder / name).is_file():
            raise WheelhouseError(f"the given wheelhouse {folder} has no {name}")
    for extra in EXTRAS:
        check_tar(folder, extra)
    platform = read_state(folder / "platform.json")
    if set(platform) != {"os", "release", "machine", "python"}:
        raise WheelhouseError(f"{folder / 'platform.json'} must name os, release, machine and python")
    return platform


def ready(folder: Path, changed: bool, platform: dict[str, str]) -> dict[str, object]:
    """What is printed about a complete wheelhouse."""
    locks = {extra: sha256(folder / f"{extra}.lock") for extra in EXTRAS}
    return {"folder": str(folder), "changed": changed, "locks": locks, "platform": platform}


def wheelhouse_for(options: argparse.Namespace) -> dict[str, object]:
    """Make or check the wheelhouse that the command line asks for."""
    if options.given:
        folder = options.given.resolve()
        return ready(folder, False, given_wheelhouse(folder))
    platform = platform_of(options.python)
    elsewhere = options.system not in (None, "{os} {release}".format(**platform))
    name = options.system.replace(" ", "-") if elsewhere else "{os}-{release}-py{python}".format(**platform)
    folder = (options.output or ROOT / "build" / "wheelhouse" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if elsewhere:
        return in_container(options.system, folder, options.mirror)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return ready(folder, make_wheelhouse(options.python, platform, folder), platform)


def in_container(system: str, folder: Path, mirrors: list[str]) -> dict[str, object]:
    """The wheelhouse of another system, made in a container of it."""
    # What is copied to a build host is this file alone.
    from wheelhouse_container import ContainerError, build_in_container

    try:
        with (folder.parent / f".{system.replace(' ', '-')}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return build_in_container(system, folder, mirrors)
    except ContainerError as error:
        raise WheelhouseError(str(error)) from error


def main() -> int:
    """Make or check the wheelhouse that the command line asks for, and print where it is."""
    parser = argparse.ArgumentParser(description="Collect the wheels that hosts install.")
    parser.add_argument("--python", default="/usr/bin/python3", help="the Python that the hosts have")
    parser.add_argument("--output", type=Path, help="default: build/wheelhouse/<os>-<release>-py<version>")
    parser.add_argument("--given", type=Path, help="a ready wheelhouse: check it, build nothing")
    parser.add_argument(
        "--for", dest="system", metavar="SYSTEM", help='what the hosts have, such as "debian 13"'
    )
    parser.add_argument("--mirror", action="append", default=[], help="package archive of a container")
    options = parser.parse_args()
    try:
        print(json.dumps(wheelhouse_for(options)))
    except (WheelhouseError, OSError, tarfile.TarError) as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

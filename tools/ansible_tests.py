# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-test on a physical copy of the working tree, with a home of its own below build/.

    tools/run python tools/ansible_tests.py sanity|units|integration [OPTION ...] [TARGET ...]

Exits with ansible-test's code, and with 1 where ansible-test found nothing to test: it calls that a success.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from collection_tree import ROOT, make_tree

HOME = ROOT / "build" / "home"
NOTHING_TESTED = re.compile(
    r"All targets skipped|No tests? (?:targets )?(?:found|applicable)|no tests ran", re.IGNORECASE
)


def place_get_pip(home: Path) -> None:
    """Put the stand-in for get-pip where the installed ansible-test looks for its download."""
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or spec.origin is None:
        raise SystemExit("ansible-test is not installed: run `make bootstrap`")
    text = (Path(spec.origin).parent / "_internal" / "python_requirements.py").read_text(encoding="utf-8")
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in set(re.findall(r"pip='([0-9.]+)'", text)):
        shutil.copyfile(ROOT / "tools" / "get_pip.py", cache / f"get_pip_{version.replace('.', '_')}.py")


def place_pip_configuration(home: Path) -> None:
    """Carry over how this user's pip is configured: ansible-test hands on HOME alone, and it is a new one."""
    parser = configparser.RawConfigParser()
    parser.read_dict({"global": {"progress-bar": "off"}})
    old_home = Path.home()
    files = [old_home / ".pip" / "pip.conf", old_home / ".config" / "pip" / "pip.conf"]
    files += [Path(os.environ["PIP_CONFIG_FILE"])] if os.environ.get("PIP_CONFIG_FILE") else []
    parser.read(files, encoding="utf-8")
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            parser.set("global", name.removeprefix("PIP_").lower().replace("_", "-"), value)
    target = home / ".config" / "pip" / "pip.conf"
    target.parent.mkdir(parents=True, exist_ok=True)
    # An index address may hold a password.
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        parser.write(file)


def run(arguments: list[str]) -> int:
    """Run ansible-test with `arguments` in the copy; passes its output on. Returns the exit code."""
    tree = make_tree(ROOT / "build" / "tree")
    place_get_pip(HOME)
    place_pip_configuration(HOME)
    environment = {
        "HOME": str(HOME),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
    }
    command = [
        "ansible-test",
        arguments[0],
        "--local",
        "--python",
        "default",
        "--color",
        "no",
        *arguments[1:],
    ]
    nothing_tested = False
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            nothing_tested = nothing_tested or bool(NOTHING_TESTED.search(line))
            sys.stdout.write(line)
            sys.stdout.flush()
    if process.returncode == 0 and nothing_tested:
        print(f"ansible-test {arguments[0]}: nothing was tested, which is a failure", flush=True)
        return 1
    return process.returncode


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in {"sanity", "units", "integration"}:
        raise SystemExit(
            "usage: python tools/ansible_tests.py sanity|units|integration [OPTION ...] [TARGET ...]"
        )
    raise SystemExit(run(sys.argv[1:]))

# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's one program: lab.py survey|packages|image|up|cycle|stop|start|destroy [--check]

Reads the settings as JSON from standard input and prints one JSON object: changed, actions,
seconds. What goes wrong is one line on standard error and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from trusted_lab import lab
from trusted_lab.errors import LabError
from trusted_lab.report import Report
from trusted_lab.settings import Settings, parse_settings

_COMMANDS = {"packages": lab.packages, "image": lab.image, "up": lab.up, "destroy": lab.destroy}
_POWER = ("cycle", "stop", "start")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["survey", *_COMMANDS, *_POWER])
    parser.add_argument("--check", action="store_true", help="change nothing, say what would be done")
    arguments = parser.parse_args()
    try:
        if os.geteuid() != 0:
            raise LabError("containers with systemd and a network of their own need root: use sudo")
        settings = parse_settings(json.load(sys.stdin))
        print(json.dumps(carry_out(arguments.command, settings, Report(arguments.check))))
    except (LabError, OSError) as problem:
        raise SystemExit(f"lab: {problem}") from problem


def carry_out(command: str, settings: Settings, report: Report) -> dict[str, object]:
    """The command's result."""
    if command == "survey":
        return lab.survey(settings)
    if command in _POWER:
        lab.power_hosts(settings, report, command)
    else:
        _COMMANDS[command](settings, report)
    return report.result()


if __name__ == "__main__":
    os.umask(0o022)
    main()

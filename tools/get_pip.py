# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-test runs to put pip into its own environments, in place of a download.

Python brings a pip along (ensurepip); with it the asked versions come from the index that the machine is
configured with. Arguments: requirements, and `--no-setuptools` and `--no-wheel`, which mean nothing here.
"""

import os
import subprocess
import sys


def main() -> None:
    """Install pip from Python itself, then what the arguments ask for."""
    options = ("--no-setuptools", "--no-wheel")
    # ansible-test's own wrapper stands in GET_PIP's place when this runs: pip must not be taken for it again.
    environment = {name: value for name, value in os.environ.items() if name != "GET_PIP"}
    subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True, env=environment)
    arguments = [argument for argument in sys.argv[1:] if argument not in options]
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=True, env=environment)


main()

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Print the path of the machine's own Python, 3.11 or newer.
# A version manager's shim on PATH is passed over: what it starts depends on the folder.
set -euo pipefail

for candidate in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11; do
  if [ -x "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    printf '%s\n' "$candidate"
    exit 0
  fi
done
echo 'No Python 3.11 or newer in /usr/bin: this needs Debian 12, Debian 13 or Ubuntu 24.04.' >&2
exit 1

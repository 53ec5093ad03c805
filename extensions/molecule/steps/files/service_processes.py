# SPDX-License-Identifier: GPL-3.0-or-later
"""What of each service's process could get out of it: its limits of a core dump, and who may read its memory.

Prints {service: {"core": [soft, hard], "user": uid, "memory": uid of the owner of /proc/PID/mem}}. The owner
is root where the process is not dumpable, prctl(2).
"""

import glob
import json
import os
import re
import sys

found = {}
for folder in glob.glob("/proc/[0-9]*"):
    try:
        words = open(f"{folder}/cmdline").read().split("\0")
        limits, status = open(f"{folder}/limits").read(), open(f"{folder}/status").read()
        memory = os.stat(f"{folder}/mem").st_uid
    except OSError:
        continue
    if "serve" in words and any(word.endswith("/trusted-infrastructure") for word in words):
        core = re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.MULTILINE)
        user = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
        service = words[words.index("serve") + 1]
        found[service] = {"core": list(core.groups()), "user": int(user[1]), "memory": memory}
json.dump(found, sys.stdout)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Are secrets where others may read them? Runs as root on a machine, with nothing but Python's library.

collect: prints the secrets of this machine: {what it is: its bytes in base64}
search:  reads such an object on standard input, and looks for all of them in the journal, in arguments and
         environments of processes, and in files that everybody may read. Prints what was searched, and what
         was found where; never a secret.
"""

import base64
import glob
import http.client
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys

KEY_FILES = (
    "/etc/trusted-infrastructure/tls/*.key",
    "/var/lib/trusted-infrastructure/authority/*.key",
    "/etc/key-server/tls/*.key",
    "/var/lib/key-server-authority/*.key",
)
STATE_FIELDS = {
    "/var/lib/trusted-infrastructure/key-provider/sealing-key.json": "private_key",
    "/var/lib/trusted-infrastructure/agent/attestation_key.json": "authorization",
}
KEY_DATABASE = "/var/lib/key-server/keys.db"
AGENT_SOCKET = "/run/trusted-infrastructure/agent/local.sock"
TREES = tuple(f"/{name}" for name in ("etc", "var", "run", "tmp", "root", "home", "opt", "srv"))
# Wheels that were installed hold no secret of this machine, and much text.
LEFT_OUT = ("/opt/trusted-infrastructure",)
LARGEST = 64 << 20
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}")


class AgentConnection(http.client.HTTPConnection):
    """HTTP on the agent's local socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(AGENT_SOCKET)


def collect():
    """The secrets of this machine: what they are -> bytes."""
    secrets = {}
    for path in (path for pattern in KEY_FILES for path in glob.glob(pattern)):
        lines = open(path).read().split("\n")
        # Of the second line, what is secret in an EC key: text that is the same however the lines are broken.
        secrets[path] = lines[2][:26].encode()
    for path, field in STATE_FIELDS.items():
        if os.path.exists(path):
            secrets[path] = json.load(open(path))[field].encode()
    if os.path.exists(KEY_DATABASE):
        with sqlite3.connect(f"file:{KEY_DATABASE}?mode=ro", uri=True) as database:
            for uid, value in database.execute("SELECT uid, value FROM managed_objects"):
                secrets[f"primary key {uid}"] = value
    if os.path.exists(AGENT_SOCKET):
        connection = AgentConnection("agent")
        connection.request("GET", "/agent/local/v1/token")
        # Its signature: who has that has the token.
        secrets["token"] = json.load(connection.getresponse())["token"].rsplit(".")[-1].encode()
    return secrets


def forms(secret):
    """The ways in which bytes get into text."""
    encoded = base64.b64encode(secret).rstrip(b"=")
    urlsafe = base64.urlsafe_b64encode(secret).rstrip(b"=")
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), encoded, urlsafe}


def journal():
    """Everything that was logged."""
    return subprocess.run(
        ["journalctl", "--no-pager", "--all", "--output=export"], stdout=subprocess.PIPE, check=True
    ).stdout


def processes():
    """Arguments and environment of each process: where -> bytes."""
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as stream:
                yield path, stream.read()
        except OSError:
            continue


def readable_files():
    """Files that everybody may read, through folders that everybody may enter: path -> bytes."""
    for tree in TREES:
        for folder, folders, names in os.walk(tree):
            if folder in LEFT_OUT or not os.stat(folder).st_mode & stat.S_IXOTH:
                folders.clear()
                continue
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                    wanted = stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH
                    if wanted and status.st_size <= LARGEST:
                        with open(path, "rb") as stream:
                            yield path, stream.read()
                except FileNotFoundError:
                    continue


def search(secrets):
    """What was searched, and what was found."""
    wanted = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    found = []
    searched = {"secrets": len(secrets), "journal": 0, "processes": 0, "files": 0}

    def look(where, data):
        found.extend({"secret": name, "where": where} for name, form in wanted if form in data)
        if PRIVATE_KEY.search(data):
            found.append({"secret": "a private key", "where": where})

    logged = journal()
    searched["journal"] = len(logged)
    look("journal", logged)
    for where, data in processes():
        searched["processes"] += 1
        look(where, data)
    for where, data in readable_files():
        searched["files"] += 1
        look(where, data)
    return {"searched": searched, "found": found}


if sys.argv[1:] == ["collect"]:
    answer = {name: base64.b64encode(secret).decode() for name, secret in collect().items()}
else:
    answer = search({name: base64.b64decode(secret) for name, secret in json.load(sys.stdin).items()})
json.dump(answer, sys.stdout)

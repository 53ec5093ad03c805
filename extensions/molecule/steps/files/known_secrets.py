# SPDX-License-Identifier: GPL-3.0-or-later
"""Are known secrets anywhere on this machine? Runs as root, with nothing but Python's library.

Reads {"secrets": {what it is: its bytes in base64}, "trees": [folder], "left_out": [path], "machine": bool}
on standard input. Looks for the secrets in every file of these folders, whoever may read it; with "machine"
also in the journal and in arguments and environments of processes. Prints what was searched, and what was
found where; never a secret. left_out: files that have one by right. With "machine", a random secret is put
into each kind of place first, and the answer says in which ones it was found: all, or the search is none.
"""

import base64
import contextlib
import glob
import json
import os
import stat
import subprocess
import sys
import time

CANARY = "canary"
CANARY_FILE = "/root/.canary"
PIECE = 1 << 24


def forms(secret):
    """The ways in which bytes get into files and text: as they are, in hex, as Python or C writes them, and
    in base64, also as a part of something longer."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), secret.hex(":").encode()}
    found.add(repr(secret)[2:-1].encode())
    found.add(", ".join(str(byte) for byte in secret).encode())
    for before in range(3):
        # What does not depend on the bytes around it.
        encoded = base64.b64encode(bytes(before) + secret)
        inner = encoded[-(-before * 4 // 3) : (before + len(secret)) // 3 * 4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def journal(*options):
    """Everything that was logged."""
    return subprocess.run(
        ["journalctl", "--no-pager", "--all", "--output=export", *options],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def processes():
    """Arguments and environment of each process: where -> bytes."""
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            yield path, stream.read()


def files(trees, left_out):
    """Every regular file, in pieces that overlap: path -> bytes."""
    for tree in trees:
        for folder, folders, names in os.walk(tree):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in left_out]
            for name in names:
                path = os.path.join(folder, name)
                if path in left_out:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        yield path, pieces(path)


def pieces(path):
    """The bytes of a file; a piece begins with the end of the one before."""
    end = b""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        while piece := stream.read(PIECE):
            yield end + piece
            end = piece[-4096:]


def search(secrets, trees, left_out, machine):
    """What was searched, and what was found."""
    wanted = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    found = []
    searched = {"journal": 0, "processes": 0, "files": 0}

    def look(kind, where, data):
        names = {name for name, form in wanted if form in data}
        found.extend({"secret": name, "kind": kind, "where": where} for name in sorted(names))

    if machine:
        logged = journal()
        searched["journal"] = len(logged)
        look("journal", "journal", logged)
        for where, data in processes():
            searched["processes"] += 1
            look("processes", where, data)
    for where, parts in files(trees, left_out):
        searched["files"] += 1
        for data in parts:
            look("files", where, data)
    return searched, found


@contextlib.contextmanager
def planted(canary):
    """The canary in a file of root alone, in the journal, and in the environment of a process."""
    with open(os.open(CANARY_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(os.urandom(100) + canary)
    logged = base64.b64encode(b"a" + canary)
    subprocess.run(["logger", logged.decode()], check=True)
    end = time.monotonic() + 20
    while logged not in journal("--lines=1000") and time.monotonic() < end:
        time.sleep(0.1)
    with subprocess.Popen(["sleep", "120"], env={"KEY": canary.hex()}) as process:
        try:
            yield
        finally:
            process.kill()
            os.unlink(CANARY_FILE)


given = json.load(sys.stdin)
wanted = {name: base64.b64decode(secret) for name, secret in given["secrets"].items()}
left_out = set(given.get("left_out", ()))
canary = os.urandom(32)
machine = given.get("machine", False)
with planted(canary) if machine else contextlib.nullcontext():
    searched, hits = search(wanted | {CANARY: canary}, given["trees"], left_out, machine)
answer = {
    "searched": searched,
    "canary": sorted({hit["kind"] for hit in hits if hit["secret"] == CANARY}),
    "found": [hit for hit in hits if hit["secret"] != CANARY],
}
json.dump(answer, sys.stdout)

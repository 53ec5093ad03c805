# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the boot files of a Debian host with systemd-boot on its disk: boot_files.py ROOT KERNEL.deb

The kernel and the boot loader are the distribution's own, byte for byte; the initrd is a small one of ours
and the same at each build. Standard library and dpkg-deb only.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

_ENTRY = """\
title Linux
linux /vmlinuz
initrd /initrd.img
options root=LABEL=root ro quiet
"""

_INIT = b"""#!/bin/sh
# Mount the root file system and go on there.
mount -o ro LABEL=root /sysroot && exec switch_root /sysroot /sbin/init
"""


def initrd() -> bytes:
    """A newc cpio archive (cpio(5)), compressed, without any time stamp."""
    members = [("init", 0o100755, _INIT), ("sysroot", 0o040755, b""), ("TRAILER!!!", 0, b"")]
    archive = b""
    for inode, (name, mode, content) in enumerate(members, start=1):
        encoded = name.encode("ascii") + b"\0"
        numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        archive += _padded(header) + _padded(content)
    return gzip.compress(archive, mtime=0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def kernel(package: Path, target: Path) -> None:
    """Write the kernel out of a Debian package to a file; its modules stay where they are."""
    listing = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True)
    names = [line.split()[5] for line in listing.stdout.splitlines() if "/boot/vmlinuz-" in line]
    if len(names) != 1:
        raise SystemExit(f"{package} holds {len(names)} kernels, expected one")
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with target.open("wb") as stream:
        extract = ["tar", "--extract", "--to-stdout", names[0]]
        subprocess.run(extract, stdin=archive.stdout, stdout=stream, check=True)
    if archive.wait() != 0:
        raise SystemExit(f"{package} cannot be read")


def main() -> None:
    root, package = Path(sys.argv[1]), Path(sys.argv[2])
    boot = root / "boot"
    for folder in ("efi/EFI/BOOT", "efi/loader", "loader/entries"):
        (boot / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", boot / "efi/EFI/BOOT/BOOTX64.EFI")
    (boot / "efi/loader/loader.conf").write_text("default linux.conf\ntimeout 0\n", encoding="ascii")
    (boot / "loader/entries/linux.conf").write_text(_ENTRY, encoding="ascii")
    (boot / "initrd.img").write_bytes(initrd())
    kernel(package, boot / "vmlinuz")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-3.0-or-later
"""One measured boot: which PCR shows which change, and where a host would not boot at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pe_sample import image
from trusted_lab.errors import LabError
from trusted_lab.firmware import boot
from trusted_lab.firmware.event_log import encode, replay

ENTRY = "title Linux\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=LABEL=root ro\n"


def make_disk(root: Path) -> Path:
    for folder in ("boot/efi/EFI/BOOT", "boot/loader/entries", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "boot/efi/EFI/BOOT/BOOTX64.EFI").write_bytes(image(body=b"\x01"))
    (root / "boot/vmlinuz").write_bytes(image(body=b"\x02"))
    (root / "boot/initrd.img").write_bytes(b"initrd")
    (root / "boot/loader/entries/linux.conf").write_text(ENTRY)
    (root / "usr/bin/agent").write_text("agent")
    return root


def pcrs(root: Path) -> dict[int, bytes]:
    return replay(boot.measure_boot(root, ["/usr"], b"certificate"), "sha256")


CHANGES: list[tuple[str, Callable[[Path], object], set[int]]] = [
    ("boot loader", lambda root: (root / "boot/efi/EFI/BOOT/BOOTX64.EFI").write_bytes(image()), {4}),
    ("kernel", lambda root: (root / "boot/vmlinuz").write_bytes(image()), {4}),
    ("initrd", lambda root: (root / "boot/initrd.img").write_bytes(b"other"), {9}),
    ("user space", lambda root: (root / "usr/bin/agent").write_text("other"), {9, 12}),
    (
        "options",
        lambda root: (root / "boot/loader/entries/linux.conf").write_text(ENTRY.replace(" ro", " rw")),
        {9, 12},
    ),
    ("outside", lambda root: (root / "boot/notes").write_text("nothing that boots"), set()),
]


@pytest.mark.parametrize(("what", "change", "expected"), CHANGES, ids=[row[0] for row in CHANGES])
def test_a_change_shows_in_its_pcrs(
    tmp_path: Path, what: str, change: Callable[[Path], object], expected: set[int]
) -> None:
    root = make_disk(tmp_path)
    before = pcrs(root)
    change(root)
    after = pcrs(root)
    assert {pcr for pcr in before if before[pcr] != after[pcr]} == expected, what


def test_equal_disks_have_equal_logs(tmp_path: Path) -> None:
    logs = {
        encode(boot.measure_boot(make_disk(tmp_path / name), ["/usr", "/opt/agent"], b"certificate"))
        for name in ("one", "other")
    }
    assert len(logs) == 1


def test_the_command_line_names_the_hash(tmp_path: Path) -> None:
    events = boot.measure_boot(make_disk(tmp_path), ["/usr"], b"certificate")
    [command_line] = [event.data.decode("utf-16-le") for event in events if event.pcr == 12]
    assert command_line.startswith("root=LABEL=root ro trusted.usrhash=")


def test_every_pcr_of_the_firmware_ends_with_a_separator(tmp_path: Path) -> None:
    events = boot.measure_boot(make_disk(tmp_path), ["/usr"], b"certificate")
    assert sorted(event.pcr for event in events if event.event_type == 4) == list(range(8))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("boot/efi/EFI/BOOT/BOOTX64.EFI", "BOOTX64.EFI cannot be read"),
        ("boot/loader/entries/linux.conf", "linux.conf cannot be read"),
        ("boot/vmlinuz", "/boot/vmlinuz cannot be read"),
        ("boot/initrd.img", "/boot/initrd.img cannot be read"),
    ],
)
def test_a_missing_boot_file_does_not_boot(tmp_path: Path, path: str, message: str) -> None:
    root = make_disk(tmp_path)
    (root / path).unlink()
    with pytest.raises(LabError, match=message):
        pcrs(root)


def test_a_link_out_of_the_host_is_not_followed(tmp_path: Path) -> None:
    root = make_disk(tmp_path / "root")
    (tmp_path / "secret").write_text("the machine's own")
    (root / "boot/initrd.img").unlink()
    (root / "boot/initrd.img").symlink_to(tmp_path / "secret")
    with pytest.raises(LabError, match="initrd.img cannot be read"):
        pcrs(root)


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    root, other = make_disk(tmp_path / "root"), make_disk(tmp_path / "other")
    (root / "boot").rename(root / "gone")
    (root / "boot").symlink_to(other / "boot")
    with pytest.raises(LabError, match="cannot be read"):
        pcrs(root)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (b"", "no 'linux'"),
        (b"linux /vmlinuz\ninitrd /initrd.img\n", "no 'options'"),
        (b"linux /vmlinuz\noptions ro\n#initrd /x\n", "no 'initrd'"),
        (b"\xff\xfe", "not UTF-8"),
        (b"linux /../../etc/shadow\ninitrd /initrd.img\noptions ro\n", "not an absolute path inside"),
        (b"linux /initrd.img\ninitrd /initrd.img\noptions ro\n", "not a PE image"),
    ],
)
def test_a_bad_boot_entry_is_refused_by_name(tmp_path: Path, entry: bytes, message: str) -> None:
    root = make_disk(tmp_path)
    (root / "boot/loader/entries/linux.conf").write_bytes(entry)
    with pytest.raises(LabError, match=message):
        pcrs(root)

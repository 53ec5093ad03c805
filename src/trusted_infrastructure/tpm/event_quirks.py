# SPDX-License-Identifier: GPL-3.0-or-later
"""What real firmware and boot loaders do beside the specification, and how far it is tolerated.

Each entry says who does it and why tolerating it gives an attacker nothing. Everything else is judged by the
rule. The replay knows no quirks: what a TPM extended is what it extended.
"""

from __future__ import annotations

# Firmware that hands over its whole log area, filled with zeros or 0xff after the last event. Such bytes hold
# no event: no PCR is extended by them, and the quote binds the digest of the log as it was sent.
PADDING = (b"\0", b"\xff")

# Old shim and GRUB count the placeholder members of a C structure: up to 16 bytes follow the structure in
# image load and authority events. For images no digest covers the data, for authorities it covers these
# bytes, too.
SPARE_BYTES = 16

# Old shim logs one byte more than it measures. The byte is left out and the rest must hash to the digest.
UNMEASURED_BYTES = 1

# GRUB logs a prefix and a text, and measures the text alone, with or without its NUL; the second form of each
# is that of GRUB 2.02 with the measurement patches of distributions. Only the text is believed.
GRUB_PREFIXES = {
    "grub_cmd: ": "GRUB command",
    "grub_cmd ": "GRUB command",
    "kernel_cmdline: ": "kernel command line",
    "grub_kernel_cmdline ": "kernel command line",
    "module_cmdline: ": "GRUB module command line",
}
GRUB_FILES = {"grub_linuxefi Kernel": "kernel", "grub_linuxefi Initrd": "initrd"}

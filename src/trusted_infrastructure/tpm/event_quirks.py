# SPDX-License-Identifier: GPL-3.0-or-later
"""What real firmware and boot loaders do beside the specification, and how far it is tolerated.

Each entry says who does it and why tolerating it gives an attacker nothing. Everything else is judged by the
rule. The replay knows no quirks: what a TPM extended is what it extended.
"""

from __future__ import annotations

# Firmware that hands over its whole log area, filled with zeros or 0xff after the last event. Such bytes hold
# no event: no PCR is extended by them, and the quote binds the digest of the log as it was sent.
PADDING = (b"\0", b"\xff")

# The header of a crypto-agile log (`event_header`). No digest covers it; it says how to cut the log into
# events, and a log that is cut wrongly does not replay. Tolerated therefore, each with one meaning only:
# - vendorInfo that the event's size does not count: then it follows the event, as the structure says (so
#   tpm2-tools reads it; Linux goes by the event's size and would cut the log inside of it);
# - a header that ends before vendorInfoSize: there is none;
# - zeros after the structure: firmware that writes an area of fixed size;
# - the same header again between events, byte for byte, in the form of the first: firmware that appends a
#   second copy of its log's start. It is kept as one more EV_NO_ACTION. A header that differs is an event
#   like any other, and not of its form.

# An H-CRTM event that is the first of PCR 0 in a log without StartupLocality: PCR 0 starts from 4, as the TPM
# does (`EventLog.start_locality`). If it did not, PCR 0 does not replay.

# A separator without data or with other data, whose digest is that of a separator: some firmware logs none,
# and a separator that reports an error may hold a description. The digest says which of the three it is.

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

# What systemd-stub packs into initrds of its own (credentials, extensions), by the names in its log.
STUB_ARCHIVES = ("Credentials", "Global credentials", "System extension", "Configuration extension")

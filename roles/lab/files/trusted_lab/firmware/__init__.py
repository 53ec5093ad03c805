# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware step: what a host's UEFI firmware, boot loader and kernel stub measure at power on."""

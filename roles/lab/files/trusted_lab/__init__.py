# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab on this machine: image, network, hosts, software TPMs, measured boot. Standard library only."""

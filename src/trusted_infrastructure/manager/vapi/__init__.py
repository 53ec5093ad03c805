# SPDX-License-Identifier: GPL-3.0-or-later
"""The management API as a table of operations, and what is derived from it."""

# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations of the management API: one module for each resource, one table of all."""

from __future__ import annotations

from trusted_infrastructure.manager.operations import session, tasks, vcenter
from trusted_infrastructure.manager.vapi.operation import Table

MODULES = (session, tasks, vcenter)

TABLE: Table = tuple(operation for module in MODULES for operation in module.OPERATIONS)

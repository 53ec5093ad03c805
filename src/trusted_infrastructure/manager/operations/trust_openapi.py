# SPDX-License-Identifier: GPL-3.0-or-later
"""trust/openapi: this API, for machines."""

from __future__ import annotations

from typing import Any

from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.operations.structures import TRUST, TRUST_PATH
from trusted_infrastructure.manager.vapi.openapi import document
from trusted_infrastructure.manager.vapi.operation import Operation, Table, privileges
from trusted_infrastructure.manager.vapi.structure import Nothing

API_VERSION = "1"


async def get(context: Context, _given: Nothing) -> dict[str, Any]:
    return document(context.manager.table, "Trusted infrastructure management", API_VERSION)


OPERATIONS: Table = (
    Operation(
        service=f"{TRUST}.openapi",
        operation="get",
        method="GET",
        path=f"{TRUST_PATH}/openapi",
        summary="OpenAPI 3.1 document of this API",
        input=Nothing,
        output=dict[str, Any],
        handler=get,
        privileges=privileges("System.View"),
    ),
)

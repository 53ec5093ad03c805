# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON log lines for journald, without secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

REDACTED = "<redacted>"

# Whole words of a key: "private_key" and "key_password" are hidden, "key_id" and "token_expires" are not.
SECRET_KEYS = frozenset(
    {
        "assertion",
        "authorization",
        "cookie",
        "dpop",
        "kek",
        "passphrase",
        "password",
        "primary_key",
        "private_key",
        "proof",
        "secret",
        "session",
        "token",
    }
)


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: hides values whose key names a secret, and every bytes value."""
    for key, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"<{len(value)} bytes>"
        elif key.lower() in SECRET_KEYS or key.lower().endswith(("_password", "_secret", "_private_key")):
            event[key] = REDACTED
    return event


def configure_logging(service: str, level: str = "info") -> None:
    """Send structlog's and the standard library's records to stderr as JSON lines, one schema for both.

    service: name that each line carries. level: "debug", "info", "warning" or "error".
    Libraries below warning are left out: PyKMIP's and httpx's debug and info lines hold requests.
    """
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
        redact,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("trusted_infrastructure").setLevel(level.upper())


def _named(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add

# SPDX-License-Identifier: GPL-3.0-or-later
"""How our parts talk: applications with limits and error answers, unix sockets, HTTPS clients, log lines."""

from trusted_infrastructure.transport.application import Application, Caller
from trusted_infrastructure.transport.bounded_answers import ANSWER_LIMIT, UNTYPED_LIMIT, AnswerRefused
from trusted_infrastructure.transport.clients import (
    answer_of,
    ask_once,
    check_success,
    config_url,
    local_client,
    management_client,
    public_client,
    tls_context,
    unreachable,
)
from trusted_infrastructure.transport.errors import JSONAnswer, error_answer
from trusted_infrastructure.transport.logs import configure_logging
from trusted_infrastructure.transport.notify import notify
from trusted_infrastructure.transport.unix_server import Doors, Program, serve, user_ids
from trusted_infrastructure.transport.workers import serve_workers

__all__ = [
    "ANSWER_LIMIT",
    "AnswerRefused",
    "Application",
    "Caller",
    "Doors",
    "JSONAnswer",
    "UNTYPED_LIMIT",
    "Program",
    "answer_of",
    "ask_once",
    "check_success",
    "config_url",
    "configure_logging",
    "error_answer",
    "local_client",
    "management_client",
    "notify",
    "public_client",
    "serve",
    "serve_workers",
    "tls_context",
    "unreachable",
    "user_ids",
]

# SPDX-License-Identifier: GPL-3.0-or-later
"""Why something was refused, in a form that a machine, an operator and the audit log can all use.

Every decision that goes against a caller is a `Refusal`: a stable reason code, a sentence that says what was
expected and what was found (never a secret), and what the operator can do. Services turn it into an HTTP
answer and one audit record; nothing else in the project is used to say no.
"""

from __future__ import annotations

STOPPING = "service_stopping"


class Refusal(Exception):
    """A decision against the caller.

    code: stable reason code, lower snake case (docs/protocol.md lists them).
    message: what was expected and what was found; plain words; never a secret.
    remedy: what the operator can do about it; may be empty where only the caller can act.
    status: HTTP status that a service answers with.
    """

    def __init__(self, code: str, message: str, remedy: str = "", status: int = 403) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.status = status

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_dict(self) -> dict[str, str]:
        """The wire form: {"code", "message", "remedy"}."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


class InvalidField(Refusal):
    """Bad input: names the field. HTTP 400.

    field: dotted path of the offending field, such as "documents[2].content.cert_chain".
    """

    def __init__(self, field: str, message: str, code: str = "malformed_request", remedy: str = "") -> None:
        super().__init__(code, f"{field}: {message}", remedy, status=400)
        self.field = field


class Unavailable(Refusal):
    """Something that the service needs is not there at the moment. HTTP 503; trying again is sensible."""

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(code, message, remedy, status=503)


def stopping() -> Unavailable:
    """A request that a service has no time for any more."""
    return Unavailable(STOPPING, "the service is being stopped or started anew", "try again in a moment")

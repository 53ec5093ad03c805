# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: one record for each decision, chained by hash, durable before its effect leaves.

Rules (docs/protocol.md 10)
- A record is one line of JSON. `prev` is the SHA-256 (hex) of the exact bytes of the line before, without its
  newline; 64 zeros for the first. Changing, removing or moving a line breaks the chain at the next one.
- `append` returns only when the record is on disk (fdatasync). Concurrent callers share one sync (group
  commit).
- The caller of a record that could not be written or synced gets `audit_unavailable`: no record, no token and
  no key. A half-written line is taken back. After a failed sync the log takes nothing more until it is opened
  again, because what the kernel then still holds is unknown.
- Several processes may append to one log: each takes the lock and reads the tail that others wrote.
- A line that a killed process did not finish was never acknowledged; whoever appends next removes it, and a
  record says so.
- A file that reaches its size is closed by renaming it for its first record, and the chain goes on in a new
  one. Nothing is deleted, unless it is configured; then a record of the chain, a checkpoint signed by the
  service, says first from where on the log is whole.

What the chain alone does not show is a tail that was cut off, or a whole new chain. Heads that are kept
elsewhere do: `verify` takes them.
"""

from __future__ import annotations

from trusted_infrastructure.audit.log import CHECKPOINT, SEGMENT_SIZE, AuditLog, Rotation, SignHead
from trusted_infrastructure.audit.queue import AuditQueue
from trusted_infrastructure.audit.records import (
    FIRST_PREVIOUS,
    MAX_LINE,
    MAX_TEXT,
    AuditRecord,
    Decision,
    Detail,
    Head,
    why_not_successor,
)
from trusted_infrastructure.audit.segments import segment_path, segments
from trusted_infrastructure.audit.verification import CheckSigned, Verification, records, verify

__all__ = [
    "CHECKPOINT",
    "FIRST_PREVIOUS",
    "MAX_LINE",
    "MAX_TEXT",
    "SEGMENT_SIZE",
    "AuditLog",
    "AuditQueue",
    "AuditRecord",
    "CheckSigned",
    "Decision",
    "Detail",
    "Head",
    "Rotation",
    "SignHead",
    "Verification",
    "records",
    "segment_path",
    "segments",
    "verify",
    "why_not_successor",
]

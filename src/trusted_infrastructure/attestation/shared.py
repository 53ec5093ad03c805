# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workers of one Attestation Service have in common without a file: made before they are forked.

Everything else that they share is on disk or tmpfs and made for several processes: the table of used
challenges and the state (SQLite), the audit log (file lock).
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from trusted_infrastructure.attestation import challenges, token_keys
from trusted_infrastructure.rate_limit import Limit, SharedRateLimit
from trusted_infrastructure.refusal import Unavailable

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # of prometheus_client


@dataclass(frozen=True)
class Shared:
    """Secrets of this start of the service, and its rate limit. Never written, logged or sent.

    envelope_key: closes challenges. token_secret: all token keys follow from it.
    """

    envelope_key: bytes
    token_secret: bytes
    limit: Limit

    @classmethod
    def make(cls, requests_per_minute: int, burst: int) -> Shared:
        """New secrets, and a limit in shared memory."""
        return cls(
            os.urandom(challenges.KEY_SIZE),
            os.urandom(token_keys.SECRET_SIZE),
            SharedRateLimit(requests_per_minute / 60, burst, time.monotonic),
        )


def share_metrics(folder: Path) -> None:
    """Let each worker count in a file of its own in `folder`, which is made anew. Call before the metrics are
    loaded. Raises Unavailable `state_unavailable`."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise Unavailable(
            "state_unavailable",
            f"{folder} cannot be made: {error.strerror}",
            "Check the run directory of the attestation service: its owner, and the space on it.",
        ) from None
    os.environ[METRICS_VARIABLE] = str(folder)

# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the services say at the end of a run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from services.tpm import corpus

# How long an example takes says something of the machine, and nothing of the code. A run has the examples of
# every other one, so that it fails for its change alone; `make fuzz` looks further.
settings.register_profile(
    "any machine", settings(), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Whether logs and certificates of real machines were there: without them, a run shows less."""
    found = [path for path in corpus.files("*/*") if path is not corpus.ABSENT]
    terminalreporter.write_line(f"corpus: {len(found)} files" if found else "corpus: absent")

# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the services say at the end of a run."""

from __future__ import annotations

import pytest
from services.tpm import corpus


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Whether logs and certificates of real machines were there: without them, a run shows less."""
    found = [path for path in corpus.files("*/*") if path is not corpus.ABSENT]
    terminalreporter.write_line(f"corpus: {len(found)} files" if found else "corpus: absent")

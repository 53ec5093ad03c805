# SPDX-License-Identifier: GPL-3.0-or-later
"""What covers user space, as far as the boot measurements show it. docs/base_images.md.

`verity`: the command line that was measured holds a root hash, so the kernel verifies each block of the file
system against what the PCR holds. `ima` is never assumed and never judged here: IMA's list is in PCR 10 and
in a log of its own, which is no part of the evidence; an administrator who writes `ima` into an image vouches
for it. `none`: neither.
"""

from __future__ import annotations

import re
from typing import Literal

from trusted_infrastructure.tpm.event_log import EventLog

Userspace = Literal["verity", "ima", "none"]

# PCRs that a boot loader, a boot stub or a kernel measures its command line into.
_COMMAND_LINE_PCRS = frozenset({8, 9, 11, 12})
_ROOT_HASH = re.compile(r"(?:^|\s)(?:\S+\.)?(?:usr|root)hash=[0-9a-f]{64,128}(?:\s|$)")


def userspace_of(log: EventLog, bank: str) -> Userspace:
    """`verity` when a command line in the log, whose content hashes to its digest, holds a root hash."""
    for pcr in sorted(_COMMAND_LINE_PCRS):
        for event in log.events_of(pcr):
            measured = event.measured_content(bank)
            if measured is not None and _holds_root_hash(measured):
                return "verity"
    return "none"


def _holds_root_hash(data: bytes) -> bool:
    texts = (data.decode("utf-16-le", "replace"), data.decode("utf-8", "replace"))
    return any(_ROOT_HASH.search(text.replace("\0", " ")) for text in texts)

# SPDX-License-Identifier: GPL-3.0-or-later
"""All rules for a quote, where the values to judge are known from the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trusted_infrastructure.tpm.quote import Quote, check_pcr_digest, verify_signed


def verify_quote(*, pcr_values: Mapping[int, bytes], **signed: Any) -> Quote:
    """`verify_signed` and `check_pcr_digest`. Raises as they do."""
    quote = verify_signed(**signed)
    check_pcr_digest(quote, signed["ak"], signed["pcrs"], pcr_values)
    return quote

# SPDX-License-Identifier: GPL-3.0-or-later
"""How often something can be done in a second of a core, by the processor time of this process: other load on
the machine makes it less exact, but not a fraction of what it is.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

ROUNDS = 3


def rate(work: Callable[[], object], seconds: float) -> float:
    """How often `work` is done in a second of processor time: the median of ROUNDS, `seconds` in all."""
    work()
    gc.collect()
    return statistics.median(_round(work, seconds / ROUNDS) for _number in range(ROUNDS))


def _round(work: Callable[[], object], seconds: float) -> float:
    done, began = 0, time.process_time()
    until = began + seconds
    while (now := time.process_time()) < until:
        work()
        done += 1
    return done / (now - began)


def raw_p256(seconds: float) -> float:
    """Verifications of a P-256 signature, in a second of a core."""
    key = ec.generate_private_key(ec.SECP256R1())
    message = bytes(145)  # a quote
    signature, public, algorithm = (
        key.sign(message, ec.ECDSA(hashes.SHA256())),
        key.public_key(),
        hashes.SHA256(),
    )
    return rate(lambda: public.verify(signature, message, ec.ECDSA(algorithm)), seconds)


def raw_rsa2048(seconds: float) -> float:
    """Verifications of an RSA-2048 signature, in a second of a core."""
    key = rsa.generate_private_key(65537, 2048)
    message = bytes(145)
    signature, public = key.sign(message, padding.PKCS1v15(), hashes.SHA256()), key.public_key()
    return rate(lambda: public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256()), seconds)

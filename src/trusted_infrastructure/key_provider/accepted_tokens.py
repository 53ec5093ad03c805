# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens whose signature was verified before: a host shows the same one for an hour, with every request.

What is remembered is that a key signed exactly this text, which is true for ever. Nothing else is: that the
key is still one of an attestation service of this cluster, the issuer, audience and times are judged each
time, and what `authorization` judges is not known here at all. A refusal is never remembered. A token is
remembered by its SHA-256.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping

from trusted_infrastructure import tokens
from trusted_infrastructure.tokens import PublicKey, TokenClaims

# Tokens that are remembered at once; the one that was not shown for longest is forgotten first.
REMEMBERED = 10_000


class AcceptedTokens:
    """See the module. For use by one event loop."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._known: OrderedDict[bytes, tuple[str, PublicKey, TokenClaims]] = OrderedDict()

    def kid(self, token: str) -> str:
        """`tokens.unverified_kid`."""
        known = self._known.get(_digest(token))
        return known[0] if known is not None else tokens.unverified_kid(token)

    def verify(
        self,
        token: str,
        keys: Mapping[str, PublicKey],
        audience: str,
        now: int,
        issuers: Mapping[str, Collection[str]],
    ) -> TokenClaims:
        """`tokens.verify_token`, with the same answer and the same refusals."""
        digest = _digest(token)
        known = self._known.get(digest)
        if known is not None:
            kid, key, claims = known
            # The object itself: a key set that was read again is a new one, and so is what it verified.
            if keys.get(kid) is key:
                self._known.move_to_end(digest)
                tokens.check_token(claims, kid, audience, now, issuers)
                return claims
            del self._known[digest]
        claims = tokens.verify_token(token, keys, audience, now, issuers)
        kid = tokens.unverified_kid(token)
        self._known[digest] = kid, keys[kid], claims
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return claims


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

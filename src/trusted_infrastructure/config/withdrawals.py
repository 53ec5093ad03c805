# SPDX-License-Identifier: GPL-3.0-or-later
"""Which changes of documents withdraw trust: they, and no others, raise the security generation.

Pure; docs/protocol.md 2. A change is (content before, content after), either of which may be None: not there,
or deleted.
Where a rule is in doubt it says "withdraws": the price is that hosts attest again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from trusted_infrastructure.config import documents as kinds
from trusted_infrastructure.config.documents import Content

Rule = Callable[[Content | None, Content | None], bool]


def withdraws_trust(kind: str, before: Content | None, after: Content | None) -> bool:
    """Whether somebody who was trusted before the change may not be any more."""
    if before == after:
        return False
    rule = RULES.get(kind)
    return rule is not None and rule(before, after)


def _removed(before: Content | None, after: Content | None) -> bool:
    return before is not None and after is None


def _removed_or_replaced(before: Content | None, after: Content | None) -> bool:
    return before is not None


def _added_or_replaced(before: Content | None, after: Content | None) -> bool:
    return after is not None


def _cluster(before: Content | None, after: Content | None) -> bool:
    """Disabled, another group (its tokens are void), or a peer left, whose tokens count no more."""
    if not isinstance(before, kinds.TrustAuthorityCluster):
        return False
    if not isinstance(after, kinds.TrustAuthorityCluster):
        return True
    peers = {peer.host for peer in before.peers} - {peer.host for peer in after.peers}
    disabled = before.state == "ENABLE" and after.state == "DISABLE"
    return (
        disabled or bool(peers) or before.group != after.group or after.token_lifetime < before.token_lifetime
    )


def _principal(before: Content | None, after: Content | None) -> bool:
    """Gone, somebody else, or one of its certificate chains gone; a further chain adds trust."""
    if not isinstance(before, kinds.ConsumerPrincipal):
        return False
    if not isinstance(after, kinds.ConsumerPrincipal):
        return True
    same = before.issuer == after.issuer and before.principal == after.principal
    return not same or any(chain not in after.certificates for chain in before.certificates)


def _scope(before: Content | None, after: Content | None) -> bool:
    """Gone, another cluster's, or fewer base images or providers than before."""
    if not isinstance(before, kinds.Scope):
        return False
    if not isinstance(after, kinds.Scope):
        return True
    same = (before.principal, before.trusted_cluster) == (after.principal, after.trusted_cluster)
    return not (
        same and _covers(after.base_images, before.base_images) and _covers(after.providers, before.providers)
    )


def _covers(wider: Collection[str], narrower: Collection[str]) -> bool:
    return "*" in wider or ("*" not in narrower and set(narrower) <= set(wider))


def _ca(before: Content | None, after: Content | None) -> bool:
    """Gone, another chain, certificates without an EKU no longer taken, or other revocations."""
    if not isinstance(before, kinds.CaCertificate):
        return False
    if not isinstance(after, kinds.CaCertificate):
        return True
    stricter = before.eku_exception and not after.eku_exception
    return before.cert_chain != after.cert_chain or before.crls != after.crls or stricter


def _base_image(before: Content | None, after: Content | None) -> bool:
    """Gone, retired or changed; the name for people does not count, nor do staging and activating."""
    if not isinstance(before, kinds.BaseImage):
        return False
    if not isinstance(after, kinds.BaseImage):
        return True
    if before.state != "RETIRED" and after.state == "RETIRED":
        return True
    return msgspec.structs.replace(after, display_name=before.display_name, state=before.state) != before


def _settings(before: Content | None, after: Content | None) -> bool:
    """A requirement switched on. No document means the defaults, which are the strictest."""
    old = before if isinstance(before, kinds.Tpm2Settings) else kinds.Tpm2Settings()
    new = after if isinstance(after, kinds.Tpm2Settings) else kinds.Tpm2Settings()
    return (new.require_endorsement_keys and not old.require_endorsement_keys) or (
        new.require_certificate_validation and not old.require_certificate_validation
    )


RULES: dict[str, Rule] = {
    "trust_authority_cluster": _cluster,
    "consumer_principal": _principal,
    "scope": _scope,
    "denied_host": _added_or_replaced,
    "ca_certificate": _ca,
    "endorsement_key": _removed_or_replaced,
    "tpm2_settings": _settings,
    "base_image": _base_image,
    "key_provider": _removed,
}

# SPDX-License-Identifier: GPL-3.0-or-later
"""The key providers that this host may name, of all kinds, and which one is meant where none is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trusted_infrastructure.config.documents import (
    HostAssertion,
    KeyProviders,
    KeyProviderType,
    TrustedKeyProvider,
)
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.refusal import Refusal

# What a wrapped key of a host without an assertion says of its scope.
NO_SCOPE = "workload"


@dataclass(frozen=True)
class KnownProviders:
    """types: name -> kind. default: the one that is used where none is named. complete: whether a name that
    is not in `types` is certainly no provider; a manager of before says nothing of other kinds. scope: what
    keys of native providers are marked with."""

    types: Mapping[str, KeyProviderType]
    default: str | None
    complete: bool
    scope: str = NO_SCOPE

    def default_provider(self) -> str:
        """The default provider. Raises Refusal `provider_unknown`."""
        if self.default is None or (self.complete and self.default not in self.types):
            raise Refusal(
                "provider_unknown",
                f"no default key provider is set on this host; it knows {len(self.types)}",
                "set a default key provider on the workload side, or name one",
                status=404,
            )
        return self.default

    def type_of(self, provider: str) -> KeyProviderType:
        """The kind of a provider. Raises Refusal `provider_unknown`."""
        known = self.types.get(provider)
        if known is None and self.complete:
            raise Refusal(
                "provider_unknown",
                f"this host knows no key provider {provider!r}",
                "add the provider on the workload side, or name another",
                status=404,
            )
        # Its service says whether there is such a provider.
        return known or "TRUSTED"

    def trusted(self) -> list[str]:
        """Names of the trusted ones."""
        return sorted(name for name, kind in self.types.items() if kind == "TRUSTED")


def known_providers(snapshot: Snapshot) -> KnownProviders:
    """The providers in the published configuration."""
    assertion = snapshot.get("host_assertion", "assertion", HostAssertion)
    scope = NO_SCOPE if assertion is None else assertion.scope
    listed = snapshot.get("key_providers", "key_providers", KeyProviders)
    if listed is not None:
        return KnownProviders(listed.providers, listed.default, True, scope)
    trusted = snapshot.documents("trusted_key_provider", TrustedKeyProvider)
    named = [name for name, provider in trusted.items() if provider.default]
    candidates = named or list(trusted)
    default = candidates[0] if len(candidates) == 1 else None
    return KnownProviders(dict.fromkeys(trusted, "TRUSTED"), default, False, scope)

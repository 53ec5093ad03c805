# SPDX-License-Identifier: GPL-3.0-or-later
"""What this side shows key servers: client keys, certificates, requests; their sealing to hosts.

Pure but for randomness. A client key is made on one Trust Authority host and leaves it only sealed to the
configuration keys of the hosts that the manager names; the certificate or request travels in the clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from trusted_infrastructure import sealing
from trusted_infrastructure.config.documents import KeyProvider, Sealed
from trusted_infrastructure.kmip import client_certificates
from trusted_infrastructure.refusal import InvalidField
from trusted_infrastructure.sealing import SealedSecret, SealingKey


class SealTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host's configuration key, as `GET /kms/manage/v1/sealing-key` of that host gives it."""

    suite: str
    public_key: bytes


class HostsToSealTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of the requests that answer with a sealed secret. hosts: host id -> configuration key."""

    hosts: Annotated[dict[str, SealTo], msgspec.Meta(min_length=1)]


def private_key_purpose(provider: str) -> str:
    """What a sealed client key is, before its certificate is there (csr_private_key) and after."""
    return f"key_provider/{provider}/client_private_key"


def password_purpose(provider: str) -> str:
    """What a sealed password is."""
    return f"key_provider/{provider}/password"


def client_name(provider: str) -> str:
    """Common name of a trusted provider's client certificates."""
    return client_certificates.client_name("trusted-key-provider", provider)


def seal_for(secret: bytes, hosts: Mapping[str, SealTo], purpose: str) -> Sealed:
    """The secret, sealed for each host. Raises InvalidField naming the host's field."""
    suites = {target.suite for target in hosts.values()}
    if len(suites) != 1:
        raise InvalidField(
            "hosts", f"have configuration keys of different suites: {', '.join(sorted(suites))}"
        )
    suite = suites.pop()
    for host, target in hosts.items():
        sealing.check_public_key(suite, target.public_key, f"hosts.{host}.public_key")
    sealed = sealing.seal_secret(
        secret, suite, {host: target.public_key for host, target in hosts.items()}, purpose
    )
    return Sealed(sealed.suite, sealed.digest, sealed.sealed)


def open_for(sealed: Sealed, host: str, key: SealingKey, purpose: str) -> bytes:
    """This host's part of a sealed field. Raises Refusal `sealed_value_invalid`."""
    return sealing.open_secret(SealedSecret(sealed.suite, sealed.digest, sealed.sealed), host, key, purpose)


def reseal(
    provider: str, document: KeyProvider, host: str, key: SealingKey, hosts: Mapping[str, SealTo]
) -> dict[str, Sealed | None]:
    """The provider's secrets (by field of its document), opened here and sealed for `hosts`.

    Each keeps the digest that the document has, so that the manager can add the new parts to the old ones.
    Raises Refusal `sealed_value_invalid`, InvalidField.
    """
    fields: dict[str, tuple[Sealed | None, str]] = {
        "client_private_key": (document.client_private_key, private_key_purpose(provider)),
        "csr_private_key": (document.csr_private_key, private_key_purpose(provider)),
        "password": (document.password, password_purpose(provider)),
    }
    answer: dict[str, Sealed | None] = {}
    for field, (sealed, purpose) in fields.items():
        if sealed is None:
            answer[field] = None
            continue
        again = seal_for(open_for(sealed, host, key, purpose), hosts, purpose)
        if again.suite != sealed.suite:
            raise InvalidField(
                "hosts",
                f"have configuration keys of suite {again.suite}; {field} is sealed with {sealed.suite}",
            )
        answer[field] = msgspec.structs.replace(again, digest=sealed.digest)
    return answer

# SPDX-License-Identifier: GPL-3.0-or-later
"""A scope names only what there is: principal, base images, providers. Pure.

What a scope named before is let through: an image may be deleted while a scope still names it, and the scope
must stay changeable.
"""

from __future__ import annotations

from collections.abc import Collection

from trusted_infrastructure.config.documents import Scope
from trusted_infrastructure.manager.vapi.errors import InvalidArgument

ALL = "*"


def check_references(
    scope: Scope,
    before: Scope | None,
    *,
    principals: Collection[str],
    base_images: Collection[str],
    providers: Collection[str],
) -> None:
    """principals: issuers; base_images, providers: ids of what there is. before: the scope until now.

    Raises InvalidArgument naming the field, with what there is."""
    if scope.principal not in principals and (before is None or before.principal != scope.principal):
        raise InvalidArgument(
            "spec.principal",
            f"no consumer principal has the issuer {scope.principal!r}; {_known(principals)}",
        )
    images_before = [] if before is None else before.base_images
    _check_list("spec.base_images", "base image", scope.base_images, images_before, base_images)
    providers_before = [] if before is None else before.providers
    _check_list("spec.providers", "key provider", scope.providers, providers_before, providers)


def _check_list(
    field: str, what: str, named: Collection[str], before: Collection[str], known: Collection[str]
) -> None:
    for position, name in enumerate(named):
        if name != ALL and name not in known and name not in before:
            raise InvalidArgument(f"{field}[{position}]", f"there is no {what} {name!r}; {_known(known)}")


def _known(names: Collection[str]) -> str:
    if not names:
        return "there is none yet"
    return f"there are {', '.join(repr(name) for name in sorted(names))}"

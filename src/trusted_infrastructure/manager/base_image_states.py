# SPDX-License-Identifier: GPL-3.0-or-later
"""The life cycle of base images: which steps there are, and what a step takes from scopes. Pure.

    (import) -> STAGED -> ACTIVE -> RETIRED        (import) -> ACTIVE        STAGED -> RETIRED
    RETIRED -> STAGED or ACTIVE: only by an explicit act (`reactivate`): it trusts again what was withdrawn

ACTIVE does not become STAGED again: both are accepted, so it would look like a withdrawal and be none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from trusted_infrastructure.config.documents import BaseImage, Scope
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState

State = Literal["STAGED", "ACTIVE", "RETIRED"]
ALL = "*"

# "explicit": needs `reactivate`. What is not here is refused. Staying as it is is no step.
STEPS: Mapping[tuple[State, State], Literal["free", "explicit"]] = {
    ("STAGED", "ACTIVE"): "free",
    ("STAGED", "RETIRED"): "free",
    ("ACTIVE", "RETIRED"): "free",
    ("RETIRED", "STAGED"): "explicit",
    ("RETIRED", "ACTIVE"): "explicit",
}


def check_step(version: str, before: State, after: State, reactivate: bool) -> None:
    """Whether an image may go from one state to another.

    Raises NotAllowedInCurrentState, reason `reactivation_required` or `life_cycle_step`."""
    if before == after:
        return
    step = STEPS.get((before, after))
    if step is None:
        raise NotAllowedInCurrentState(
            f"The base image {version!r} is {before} and does not become {after}. Hosts that booted it are "
            "attested in both states; retire it to withdraw it.",
            version,
            before,
            after,
            reason="life_cycle_step",
        )
    if step == "explicit" and not reactivate:
        raise NotAllowedInCurrentState(
            f"The base image {version!r} is RETIRED; making it {after} would trust again what was withdrawn. "
            "If that is meant, say so (reactivate: true); it is audited.",
            version,
            before,
            after,
            reason="reactivation_required",
        )


def scopes_of(version: str, scopes: Mapping[str, Scope]) -> list[str]:
    """Names of the scopes that allow an image."""
    return sorted(
        name for name, scope in scopes.items() if ALL in scope.base_images or version in scope.base_images
    )


def last_of(version: str, images: Mapping[str, BaseImage], scopes: Mapping[str, Scope]) -> list[str]:
    """Names of the scopes for which this is the only image that is accepted: without it, nobody of them is
    attested. Empty for an image that is not accepted anyway."""
    accepted = {name for name, image in images.items() if image.state != "RETIRED"}
    if version not in accepted:
        return []
    others = accepted - {version}
    return [
        name
        for name in scopes_of(version, scopes)
        if not others or not (ALL in scopes[name].base_images or others & set(scopes[name].base_images))
    ]

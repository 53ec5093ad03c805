# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody gives away more than he holds, and nobody removes the last administrator. Pure.

It is the outcome that is judged: what each user holds on each object before and after a change. So it does
not matter which way somebody gets a privilege: by a permission, a role that is changed, a group, or a
permission that no longer overrides another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trusted_infrastructure.manager.authorization import OTHER_CLUSTERS, ROOT, TRUSTED_ADMINS, Place, Rights
from trusted_infrastructure.manager.privileges import ALL_PRIVILEGES, missing
from trusted_infrastructure.manager.vapi.errors import NotAllowedInCurrentState, Unauthorized


def check_delegation(before: Mapping[str, Rights], after: Mapping[str, Rights], caller: Rights) -> None:
    """before, after: of all users by name. caller: his rights before. Raises Unauthorized,
    NotAllowedInCurrentState."""
    for name, now in after.items():
        check_gain(before.get(name, Rights(name=name)), now, caller)
    if any(is_administrator(rights) for rights in before.values()):
        refuse_none(any(is_administrator(rights) for rights in after.values()), "administrator")
    if any(rights.trusted_admin for rights in before.values()):
        refuse_none(any(rights.trusted_admin for rights in after.values()), f"member of {TRUSTED_ADMINS}")


def check_gain(then: Rights, now: Rights, caller: Rights) -> None:
    """A user gains nothing that the caller does not hold himself on the same object. Raises Unauthorized."""
    for place in dict.fromkeys([*then.places(), *now.places(), *caller.places()]):
        gained = now.on(place) - then.on(place)
        check_given(gained if ALL_PRIVILEGES not in then.on(place) else (), caller, place)
    if now.trusted_admin and not then.trusted_admin and not caller.trusted_admin:
        raise beyond(caller, f"is no member of {TRUSTED_ADMINS}", TRUSTED_ADMINS)


def check_given(privileges: Collection[str], caller: Rights, place: Place = ROOT) -> None:
    """The caller holds what he gives away on this object. Raises Unauthorized naming what he lacks."""
    lacks = caller.lacks(privileges, place)
    if lacks:
        raise beyond(caller, f"lacks {lacks[0]} there", lacks[0])


def check_grant(privileges: Collection[str], caller: Rights, cluster: int | None, propagate: bool) -> None:
    """The caller holds what a permission has on its object (cluster: number, None for the root) and below.

    This is asked beside the outcome, which is none where a group has no member yet, or where the member's own
    permission hides that of the group for now. Raises Unauthorized."""
    below = [] if cluster is not None else [Place(OTHER_CLUSTERS)]
    below.append(Place(OTHER_CLUSTERS if cluster is None else cluster, True))
    for place in [Place(cluster), *(below if propagate else [])]:
        check_given(privileges, caller, place)


def check_power_over(other: Rights, caller: Rights) -> None:
    """The caller holds all that another user holds: else, with a password that he set, he would gain it.

    Raises Unauthorized."""
    check_gain(Rights(name=other.name), other, caller)


def is_administrator(rights: Rights) -> bool:
    """Whether a user holds all privileges on the root and below."""
    return not missing(rights.on(ROOT) & rights.on(Place(0, True)), [ALL_PRIVILEGES])


def refuse_none(left: bool, what: str) -> None:
    """Raises NotAllowedInCurrentState when nobody is left."""
    if not left:
        raise NotAllowedInCurrentState(
            f"This would remove the last {what}; make another one first.", reason="last_administrator"
        )


def beyond(caller: Rights, why: str, what: str) -> Unauthorized:
    """The error of who gives away more than he holds."""
    return Unauthorized(
        f"User {caller.name!r} would give away more than he holds: he {why}.",
        what,
        reason="beyond_own_rights",
    )

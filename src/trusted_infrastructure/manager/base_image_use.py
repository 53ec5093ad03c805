# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts booted which base image, as the Attestation Services of a cluster saw them last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trusted_infrastructure.manager.attestation_verdicts import HostResult, HostResults, verdicts
from trusted_infrastructure.manager.context import Context
from trusted_infrastructure.manager.service_reports import host_names
from trusted_infrastructure.manager.vapi.structure import Structure, Timestamp, timestamp


class HostUse(Structure, frozen=True):
    """A host whose last attestation was with an image. principal: who vouches for it; services: the Trust
    Authority hosts where that is so; attested_until: the end of the latest token."""

    host: str
    principal: str
    last_attested_time: Timestamp
    attested_until: Timestamp | None
    services: list[str]


async def by_image(context: Context) -> Mapping[str, list[HostUse]]:
    """Version -> its hosts by name, as far as Trust Authority hosts answer."""
    return use(await results(context))


async def last_attested(context: Context, version: str) -> int | None:
    """When a host was last attested with an image (Unix seconds), as far as Trust Authority hosts answer."""
    found = [result for _service, result in await results(context) if result.state != "FAILED"]
    return max((result.last for result in found if result.base_image == version), default=None)


async def results(context: Context) -> list[tuple[str, HostResult]]:
    """(Trust Authority host, result) for the last result of each host at each that answers."""
    answers = await verdicts(context.manager, host_names(context))
    return [
        (service, result)
        for service, answer in answers.items()
        if isinstance(answer, HostResults)
        for result in answer.hosts
    ]


def use(results: Iterable[tuple[str, HostResult]]) -> dict[str, list[HostUse]]:
    """Version -> its hosts, from (Trust Authority host, result). Each host counts for the image of its latest
    attestation only: a service that was away longer may know it with an older one. Pure."""
    attested: dict[tuple[str, str], list[tuple[str, HostResult]]] = {}
    for service, result in results:
        if result.state != "FAILED" and result.base_image is not None:
            attested.setdefault((result.host, result.principal), []).append((service, result))
    found: dict[str, list[HostUse]] = {}
    for (host, principal), known in sorted(attested.items()):
        latest = max((result for _service, result in known), key=lambda result: result.last)
        with_it = [(service, result) for service, result in known if result.base_image == latest.base_image]
        until = max((result.until for _service, result in with_it if result.until is not None), default=None)
        one = HostUse(
            host=host,
            principal=principal,
            last_attested_time=timestamp(latest.last),
            attested_until=None if until is None else timestamp(until),
            services=sorted(service for service, _result in with_it),
        )
        found.setdefault(latest.base_image or "", []).append(one)
    return found

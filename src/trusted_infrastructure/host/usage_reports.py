# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling the Key Provider Services how many keys this host keeps under which primary key.

A rotation is complete when nobody reports keys under the old primary key. A report follows each change of the
registry by a moment, is repeated until every service has it, and keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from trusted_infrastructure.refusal import Refusal

# Seconds. The first reports of many hosts that start at once are spread; changes that come together are
# reported together; and now and then all is reported, for a service that has lost its state.
FIRST = (5.0, 60.0)
DEBOUNCE = 2.0
RETRY = (5.0, 300.0)
ALL_AGAIN = 3600.0
# What is said of a provider that this host has nothing to do with any more.
GONE = frozenset({"provider_unknown", "provider_denied"})

log = structlog.get_logger("trusted_infrastructure.host")


class UsageReports:
    """See the module. report: tells the services of a provider; answers why some were not told. providers:
    names of the trusted ones. counts: of a provider. dice: 0 to 1."""

    def __init__(
        self,
        report: Callable[[str], Awaitable[list[Refusal]]],
        providers: Callable[[], Iterable[str]],
        counts: Callable[[str], Mapping[str, int]],
        dice: Callable[[], float],
    ) -> None:
        self._report = report
        self._providers = providers
        self._counts = counts
        self._dice = dice
        # By provider; None where it is to be told again.
        self._told: dict[str, Mapping[str, int] | None] = {}
        self._news: asyncio.Event | None = None
        self._complete = True

    def changed(self) -> None:
        """Something in the registry is different."""
        if self._news is not None:
            self._news.set()

    def again(self) -> None:
        """Report all again: services may have lost, or counted twice, what they were told."""
        self._told = dict.fromkeys(self._told)
        self.changed()

    def attested(self) -> None:
        """This host has a new token: what was not told for want of one can be told."""
        if not self._complete:
            self.changed()

    async def run(self) -> None:
        """Report until cancelled."""
        now = asyncio.get_running_loop().time
        news = self._news = asyncio.Event()
        least, most = FIRST
        wait = least + (most - least) * self._dice()
        pause, all_again = RETRY[0], now() + ALL_AGAIN
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait, DEBOUNCE)):
                    await news.wait()
                    pause = RETRY[0]  # what failed for long is no reason to be late with this
            await asyncio.sleep(DEBOUNCE)
            if now() >= all_again:
                self.again()
                all_again = now() + ALL_AGAIN
            news.clear()
            self._complete = await self.tell()
            if self._complete:
                wait, pause = all_again - now(), RETRY[0]
            else:
                wait, pause = pause, min(2 * pause, RETRY[1])

    async def tell(self) -> bool:
        """Report what is not reported yet; whether every service has been told."""
        complete, names = True, self._names()
        for provider in sorted({*self._told, *(names or ())}):
            counts: Mapping[str, int] = {}
            try:
                counts = dict(self._counts(provider))
                if self._told.get(provider) == counts:
                    continue
                faults = await self._report(provider)
            except Refusal as refusal:
                faults = [refusal]
            gone = names is not None and provider not in names
            if faults and gone and all(one.code in GONE for one in faults):
                del self._told[provider]  # removed, and nothing is kept of it
            elif faults:
                complete = False
                log.info("usage_not_reported", provider=provider, code=faults[0].code)
            else:
                self._told[provider] = counts
        return complete

    def _names(self) -> set[str] | None:
        try:
            return set(self._providers())
        except Refusal:  # no configuration yet
            return None

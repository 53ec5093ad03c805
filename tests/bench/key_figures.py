# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of the Key Provider Service: key releases, and how long a power cut of all hosts lasts."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path

from bench import key_site, standard_delivery
from bench.attester import SessionKeys
from bench.effort import Effort, made
from bench.front import Service, cpu_seconds, running
from bench.key_site import KeyHolder, TokenMaker, Vault
from bench.power_cut import PowerCut, StartingHost
from bench.releases import InProcess, ReleaseLoad
from bench.report import Report
from bench.site import Site
from bench.timing import rate


def key_releases(report: Report, effort: Effort, folder: Path, held: Vault) -> None:
    """Wrapped keys opened for hosts that have attested: in process, and over HTTPS."""
    site = Site(folder)
    key_site.provide(site, held)
    report.rate("in process: key release", rate(InProcess(site, held).release, effort.seconds))
    maker = TokenMaker(site)
    holders = [
        KeyHolder.make(f"host{number}", held, SessionKeys.generate()) for number in range(effort.hosts)
    ]
    service = key_site.key_service(site, maker.key_set)
    with running(site, len(os.sched_getaffinity(0)), [service]) as front:
        ReleaseLoad(front, maker, holders, seconds=effort.load / 4).run()
        before = cpu_seconds(front.workers("key-provider")), cpu_seconds(front.proxy_workers())
        started = time.monotonic()
        result = ReleaseLoad(front, maker, holders, seconds=effort.load, warm_up=0.0).run()
        wall = time.monotonic() - started
        after = cpu_seconds(front.workers("key-provider")), cpu_seconds(front.proxy_workers())
        released = max(result.done, 1)
        report.rate("over HTTPS: key releases, 32 connections", result.rate, "at least 1,000 on two cores")
        report.time("over HTTPS: key release, latency p50", result.percentile(50))
        report.time("over HTTPS: key release, latency p99", result.percentile(99))
        report.plain("over HTTPS: key releases refused", sum(result.refused.values()), "requests")
        if result.refused:
            print(f"refused: {result.refused}")
        report.time("processor time of a key release: service", (after[0] - before[0]) / released)
        report.time("processor time of a key release: nginx", (after[1] - before[1]) / released)
        report.time("processor time of a key release: load generator", result.cpu / released)
        report.plain("load generator of key releases, of one core", 100 * result.cpu / wall, "%")
        alone = ReleaseLoad(front, maker, holders, connections=1, seconds=effort.load / 4).run()
        report.time("over HTTPS: key release, latency p50, one connection", alone.percentile(50))


def power_cut(report: Report, effort: Effort, folder: Path, held: Vault) -> None:
    """All hosts want their keys at once: of one Trust Authority host, of two, and of a standard provider."""
    hosts = effort.starting
    all_hosts = Site(made(folder / "hosts"), hosts=hosts, enrolled=hosts)
    starting = [StartingHost(one, KeyHolder.make(one.name, held, one.session)) for one in all_hosts.attesters]
    for count in (1, 2):
        what = f"power cut, {hosts:,} hosts, {count} Trust Authority host{'s' * (count > 1)}"
        with contextlib.ExitStack() as ended:
            fronts = []
            for name in [f"ta{number + 1}" for number in range(count)]:
                site = all_hosts.twin(made(folder / f"{count}-{name}"), name)
                key_site.provide(site, held)
                services = [Service(), key_site.key_service(site, key_site.published_key_set(site))]
                fronts.append(ended.enter_context(running(site, len(os.sched_getaffinity(0)), services)))
            result = PowerCut(fronts, starting).run()
        if result.done != hosts:
            raise SystemExit(f"{what}: {hosts - result.done} hosts got no key: {result.refused}")
        report.plain(f"{what}: the last has its key after", result.seconds, "s")
        report.plain(f"{what}: half of them have it after", statistics.median(result.latencies), "s")
        report.plain(f"{what}: turned away, and tried again", sum(result.refused.values()), "times")
    agents = standard_delivery.StubAgents.make(all_hosts.side, made(folder / "agents"))
    seconds, alone = standard_delivery.delivered(held, agents, hosts)
    report.plain(f"power cut, {hosts:,} hosts, standard provider: the last has its key after", seconds, "s")
    report.rate("keys that the manager gets from the key server", alone)

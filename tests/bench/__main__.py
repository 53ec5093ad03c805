# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: measure, print a table, write build/bench.json and the plots under build/performance/.

    python -m bench [--quick] [--record]

--quick: a few seconds, to see that it works; its figures mean nothing. --record: also put table and plots
into docs/performance/, for a commit.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from bench import key_site, releases
from bench.effort import FULL, QUICK, Effort, made
from bench.front import cpu_seconds, memory, running
from bench.key_figures import key_releases, power_cut
from bench.load import Generator
from bench.plot import Plot
from bench.report import Report
from bench.site import Site
from bench.timing import rate, raw_p256, raw_rsa2048
from bench.verification import Verification

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "performance"
TABLE = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    parser.add_argument("--record", action="store_true", help="also write docs/performance/")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of bench.json and plots")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    effort = QUICK if options.quick else FULL
    began = time.monotonic()
    output: Path = options.output
    made(output)
    # On a disk, as services have it, and short: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        report, plots = measure(effort, Path(name))
    report.plain("time that all of this took", time.monotonic() - began, "s")
    report.write(output / "bench.json")
    for path, plot in plots.items():
        (made(output / "performance") / path).write_text(plot.svg())
    print(report.table())
    if options.record:
        record(report, output / "performance")


def measure(effort: Effort, folder: Path) -> tuple[Report, dict[str, Plot]]:
    """All figures, and the plots by file name."""
    report = Report(raw_p256(effort.seconds))
    report.rate("raw: P-256 verifications on a core", report.raw)
    report.rate("raw: RSA-2048 verifications on a core", raw_rsa2048(effort.seconds))
    report.rate("raw: P-256 signatures on a core", releases.raw_es256_sign(effort.seconds))
    report.rate("raw: HPKE seals (ML-KEM-768, X25519) on a core", releases.raw_seal(effort.seconds))
    report.rate("raw: AES-256-GCM decryptions on a core", releases.raw_aes_gcm(effort.seconds))
    in_process(report, effort, made(folder / "process"))
    plots = growth(report, effort, folder)
    over_https(report, effort, made(folder / "front"))
    with key_site.vault(made(folder / "key-server") / "kms") as held:
        key_releases(report, effort, made(folder / "releases"), held)
        power_cut(report, effort, made(folder / "power-cut"), held)
    report.rate("raw: P-256 verifications on a core, after all", raw_p256(effort.seconds))
    return report, plots


def in_process(report: Report, effort: Effort, folder: Path) -> None:
    """Verification without network and audit write, on one core."""
    one = Verification(Site(folder))
    report.rate("in process: evidence to token", one.verifications(effort.seconds), "at least 800")
    report.rate(
        "in process: evidence to token, host not seen before", rate(one.verify_stranger, effort.seconds)
    )
    report.rate("in process: challenge", rate(one.challenge, effort.seconds))
    report.rate("in process: challenge and evidence", rate(one.attest, effort.seconds))
    other = Verification(Site(made(folder / "rsa"), ek_kind="rsa2048"))
    report.rate("in process: challenge and evidence, RSA-2048 EK", rate(other.attest, effort.seconds))


def growth(report: Report, effort: Effort, folder: Path) -> dict[str, Plot]:
    """How the time of one verification grows with its three sizes."""

    def times(
        name: str, unit: str, sizes: Sequence[int], site: Callable[[Path, int], Site]
    ) -> list[tuple[float, float]]:
        points = []
        for size in sizes:
            one = Verification(site(made(folder / f"{name}-{size}".replace(" ", "-")), size))
            seconds = 1 / one.verifications(effort.seconds / 2)
            report.time(f"{name}: {size:,} {unit}", seconds)
            points.append((float(size), seconds * 1000))
            if unit == "hosts" and size == sizes[-1]:
                report.time(f"taking over a configuration of {size:,} hosts, each worker", one.load_seconds)
        return points

    logs = times("log", "bytes", effort.log_sizes, lambda path, size: Site(path, log_size=size))
    images = times("active images", "images", effort.images, lambda path, count: Site(path, images=count))
    hosts = times(
        "enrolled and as many denied", "hosts", effort.enrolled,
        lambda path, count: Site(path, enrolled=count, denied=count),
    )  # fmt: skip
    milliseconds = "ms for one verification"
    return {
        "log_size.svg": Plot("Size of the event log", "kB", milliseconds, [(x / 1000, y) for x, y in logs]),
        "images.svg": Plot("Active base images of the scope", "images", milliseconds, images),
        "hosts.svg": Plot(
            "Enrolled hosts, and as many denied", "hosts", milliseconds, hosts, logarithmic=True
        ),
    }


def over_https(report: Report, effort: Effort, folder: Path) -> None:
    """Service, proxy and load together on this machine."""
    cores = len(os.sched_getaffinity(0))
    site = Site(folder, hosts=effort.hosts, enrolled=effort.hosts)
    with running(site, workers=cores) as front:
        Generator(front, site.attesters, seconds=effort.load / 4, warm_up=0.5).run()
        before = cpu_seconds(front.workers()), cpu_seconds(front.proxy_workers())
        started = time.monotonic()
        result = Generator(front, site.attesters, seconds=effort.load, warm_up=0.0).run()
        wall = time.monotonic() - started
        after = cpu_seconds(front.workers()), cpu_seconds(front.proxy_workers())
        report.rate("over HTTPS: attestations, 8 connections", result.rate, "at least 300 on two cores")
        report.time("over HTTPS: latency p50", result.percentile(50))
        report.time("over HTTPS: latency p99", result.percentile(99))
        attested = max(result.done, 1)
        report.plain("over HTTPS: refused", sum(result.refused.values()), "requests")
        if result.refused:
            print(f"refused: {result.refused}")
        report.time("processor time of an attestation: service", (after[0] - before[0]) / attested)
        report.time("processor time of an attestation: nginx", (after[1] - before[1]) / attested)
        report.time("processor time of an attestation: load generator", result.cpu / attested)
        report.plain("load generator, of one core", 100 * result.cpu / wall, "%")
        for number, pid in enumerate(front.workers()):
            pss, rss = memory(pid)
            report.plain(f"memory of worker {number}: PSS", pss, "MiB")
            report.plain(f"memory of worker {number}: RSS", rss, "MiB")
        alone = Generator(front, site.attesters, connections=1, seconds=effort.load / 4, warm_up=0.2).run()
        report.time("over HTTPS: latency p50, one connection", alone.percentile(50))


def record(report: Report, plots: Path) -> None:
    """Put figures and plots into docs/performance/."""
    for path in plots.glob("*.svg"):
        shutil.copyfile(path, made(DOCS) / path.name)
    page = DOCS / "README.md"
    text = page.read_text()
    machine = f"{len(os.sched_getaffinity(0))} cores, {processor()}, Python {platform.python_version()}"
    page.write_text(TABLE.sub(lambda _match: f"\nMeasured on {machine}.\n\n{report.markdown()}\n\n", text))


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-3.0-or-later
"""The real services behind the real front door: `trusted-infrastructure serve attestation` and `serve
key-provider` as systemd starts them, and nginx with the template of the roles. Only what belongs to a machine
is put elsewhere (`write_proxy`): files, address and port. Limits, TLS and everything else are as deployed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from bench.site import Site
from integration.software_key_server import held_port

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "roles" / "service_runtime" / "templates"
ROLE = ROOT / "roles" / "trust_authority_host"
ADDRESS = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Front:
    """What runs. host, port: of the public server. services: process ids of the parents, by service; proxy:
    of nginx."""

    host: str
    port: int
    ca: Path
    services: dict[str, int]
    proxy: int

    @property
    def url(self) -> str:
        """Of the public server."""
        return f"https://{self.host}:{self.port}"

    def workers(self, service: str = "attestation") -> list[int]:
        """Processes that answer for a service."""
        parent = self.services[service]
        return children(parent) or [parent]

    def proxy_workers(self) -> list[int]:
        """nginx's worker processes."""
        return children(self.proxy)


@dataclass(frozen=True)
class Service:
    """A service to start. settings: beside those that belong to the site, by the port of the public server.
    before: called when nginx and the services before it run, to prepare the state of this one."""

    name: str = "attestation"
    settings: Callable[[int], dict[str, Any]] = lambda _port: {}
    before: Callable[[int], None] = lambda _port: None


@contextlib.contextmanager
def running(site: Site, workers: int, services: Sequence[Service] = (Service(),)) -> Iterator[Front]:
    """Services and proxy for a site; all ended afterwards. Needs root, for nginx's user.

    The state is in the site's folder, which should be on a disk; what belongs on tmpfs is in /dev/shm.
    """
    folder = site.folder
    run = Path("/dev/shm") / f"ti-bench-{os.getpid()}-{site.name}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(mode=0o755)
    with contextlib.ExitStack() as ended:
        ended.callback(shutil.rmtree, run, ignore_errors=True)
        folder.chmod(0o755)
        (folder / "run").symlink_to(run)
        port = held_port(site, ADDRESS)
        configuration = write_proxy(site, run, port, [service.name for service in services])
        proxy = ended.enter_context(
            process(["nginx", "-c", str(configuration), "-g", "daemon off;"], folder / "nginx.log")
        )
        wait_for(lambda: accepts(port), proxy, folder / "nginx.log")
        started = {}
        for service in services:
            settings = site.write(
                service.name,
                workers=workers,
                lock_memory=False,
                socket_group=proxy_group(),
                **service.settings(port),
            )
            service.before(port)
            started[service.name] = ended.enter_context(_serving(site, service.name, settings)).pid
        yield Front(site.name, port, folder / "side_ca.pem", started, proxy.pid)


@contextlib.contextmanager
def _serving(site: Site, name: str, settings: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = site.folder / f"{name}.log"
    command = (sys.executable, "-m", "trusted_infrastructure.cli", "serve", name, "--settings", str(settings))
    with process(command, log, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}) as started:
        wait_for(lambda: answers(site.folder / "run" / name / "public.sock"), started, log)
        yield started


def write_proxy(site: Site, run: Path, port: int, services: Sequence[str]) -> Path:
    """nginx.conf from the roles' template, with the places of this run; answers its path."""
    name = site.name
    site.side.write_leaf(site.folder, "server", "server", name, dns=(name,))
    site.side.write_leaf(site.folder, "config-server", "configuration-service", name, dns=(f"config.{name}",))
    (site.folder / "side_ca.pem").write_text(site.side.certificate)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("nginx.conf.j2").render(proxy=proxy_variables(name, services))
    places = {
        "/run/trusted-infrastructure/": f"{run}/",
        "/etc/trusted-infrastructure/tls/server.": f"{site.folder}/server.",
        "/etc/trusted-infrastructure/tls/config-server.": f"{site.folder}/config-server.",
        "/etc/trusted-infrastructure/tls/side_ca.pem": f"{site.folder}/side_ca.pem",
        "pid /run/nginx.pid;": f"pid {run}/nginx.pid;",
        "error_log syslog:server=unix:/dev/log,nohostname;": f"error_log {site.folder}/nginx-error.log;",
        "listen 443 ssl": f"listen {ADDRESS}:{port} ssl",
    }
    for written, place in places.items():
        if written not in text:
            raise ValueError(f"the template of nginx has no {written!r} any more")
        text = text.replace(written, place)
    text = "\n".join(line for line in text.splitlines() if "listen [::]" not in line)
    path = site.folder / "nginx.conf"
    path.write_text(text + "\n")
    return path


def proxy_variables(name: str, services: Sequence[str]) -> dict[str, Any]:
    """What the role gives to the template, as far as these services are concerned."""
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["trust_authority_host_proxy"]

    def ours(entries: Sequence[dict[str, str]], key: str) -> list[dict[str, str]]:
        beginnings = tuple(service.replace("-", "_") for service in services)
        return [entry for entry in entries if entry[key].startswith(beginnings)]

    return {
        **variables,
        "public_name": name,
        "upstreams": ours(variables["upstreams"], "name"),
        "public": ours(variables["public"], "upstream"),
        "management": ours(variables["management"], "upstream"),
    }


def proxy_group() -> str:
    """The group of nginx's user."""
    import grp

    return grp.getgrgid(pwd.getpwnam("www-data").pw_gid).gr_name


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended afterwards; what it prints goes to `log`."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def wait_for(condition: Any, started: subprocess.Popen[bytes], log: Path, seconds: float = 30) -> None:
    """Wait for a process to be ready. Raises RuntimeError with its log when it is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if started.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text()[-2000:])
        time.sleep(0.02)


def accepts(port: int) -> bool:
    """Whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


def answers(path: Path) -> bool:
    """Whether a service answers on its socket, with whatever."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
            probe.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            return probe.recv(1) != b""
        except OSError:
            return False


def children(pid: int) -> list[int]:
    """Child processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(pid: int) -> tuple[float, float]:
    """(PSS, RSS) of a process in MiB: PSS counts what it shares with others in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
    return sizes["Pss:"], sizes["Rss:"]

# SPDX-License-Identifier: GPL-3.0-or-later
"""Key servers, and ways to them, that are at fault: never a wrong key, never longer than the timeout, never a
crash; the next server is asked. For the Key Provider Service's primary keys, and for the keys that the
workload manager makes and gets for a standard provider. Both ask real key servers, the first of them through
`FaultProxy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
from integration import fault_proxy
from integration.fault_proxy import Fault, FaultProxy
from integration.software_key_server import SoftwareKeyServer, replicate
from services.hostile_key_server import Pair, make_pair

from trusted_infrastructure import wrapping
from trusted_infrastructure.key_provider.providers import FRESH, PrimaryKeys, ProviderConfiguration
from trusted_infrastructure.kmip.client_certificates import self_signed
from trusted_infrastructure.kmip.connection import (
    ClientCredentials,
    KeyServer,
    client_context,
    presented_certificate,
)
from trusted_infrastructure.kmip.servers import KeyServerGroup, ServedKey
from trusted_infrastructure.refusal import Refusal

TIMEOUT = 1.0
# Of a server that is not at fault: a busy machine, or one with a slow disk, may be slow.
HEALTHY = 20.0
# What such a machine may take on top of TIMEOUT: far less than what HEALTHY would be.
MARGIN = 4.0
NAME = "trusted-key-provider.finance"
PRIVATE, CERTIFICATE = self_signed(NAME, int(time.time()))
PRIMARY, OTHER = "1001", "1002"
USE = {"x-Component": "Virtual Machine", "x-Name": "db1", "x-Identifier": "52d3-77"}

Result = TypeVar("Result")

FAULTS: dict[str, Fault] = {
    "nothing is answered to a connection": fault_proxy.SILENT,
    "something else than TLS is answered": fault_proxy.NO_TLS,
    "a byte each second in the handshake": fault_proxy.DRIP_IN_HELLO,
    "the connection is cut in the handshake": fault_proxy.CUT_IN_HELLO,
    "nothing is answered": fault_proxy.HANG,
    "the connection is cut before an answer": fault_proxy.CUT,
    "half an answer, then nothing": fault_proxy.HALF_THEN_HANG,
    "half an answer, then the end": fault_proxy.HALF_THEN_CUT,
    "noise": fault_proxy.NOISE,
    "a good beginning, then noise": fault_proxy.BROKEN,
    "an answer of 2 GB is announced": fault_proxy.HUGE,
    "a byte each second": fault_proxy.DRIP,
}
# The same, in the middle of a conversation that began well.
LATER = {
    f"{name}, at {operation}": fault.at(operation)
    for name, fault in FAULTS.items()
    if fault.answer is not None
    for operation in ("GET_ATTRIBUTES", "GET")
}
ANOTHER_OBJECT = {
    f"another object at {operation}": fault_proxy.another_object(PRIMARY, OTHER).at(operation)
    for operation in ("GET_ATTRIBUTES", "GET")
}
ANOTHER_KEY = {"another object's key": fault_proxy.another_key(PRIMARY, OTHER)}
CERTIFICATES = ("another name", "another CA", "expired")
EVERY = {**FAULTS, **LATER, **ANOTHER_OBJECT}


@dataclass
class Servers:
    """Two servers that replicate; the first is behind the proxy."""

    first: SoftwareKeyServer
    second: SoftwareKeyServer
    proxy: FaultProxy
    folder: Path
    primary: bytes
    other: bytes

    def server(self, *, behind: bool, timeout: float | None = None) -> KeyServer:
        """timeout: that of a server which is at fault, or is not, at the moment."""
        if behind:
            timeout = timeout or (HEALTHY if self.proxy.fault is None else TIMEOUT)
            return KeyServer("first", "127.0.0.1", self.proxy.port, timeout=timeout)
        return KeyServer("second", "127.0.0.1", self.second.port, timeout=timeout or HEALTHY)

    def listed(self, alone: bool, timeout: float | None = None) -> tuple[KeyServer, ...]:
        first = self.server(behind=True, timeout=timeout)
        return (first,) if alone else (first, self.server(behind=False))

    @contextmanager
    def at_fault(self, fault: Fault) -> Iterator[None]:
        self.proxy.drop()
        self.proxy.asked.clear()
        self.proxy.fault = fault
        try:
            yield
        finally:
            self.proxy.fault = None
            self.proxy.drop()

    def certificate(self, kind: str) -> Fault:
        """A fault in the certificate that is presented."""
        path, folder = self.folder / f"{kind}.pem", self.first.authority
        authority = Pair((folder / "ca.pem").read_text(), (folder / "ca.key").read_bytes())
        if not path.exists():
            make_pair(
                "kms1",
                address="192.0.2.9" if kind == "another name" else "127.0.0.1",
                issuer=None if kind == "another CA" else authority,
                ended=kind == "expired",
            ).write(path)
        return fault_proxy.another_certificate(path)

    def trusted(self) -> tuple[str, ...]:
        return ((self.first.authority / "ca.pem").read_text(),)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("faults")
    first = SoftwareKeyServer(folder / "kms1", "kms1")
    second = SoftwareKeyServer(folder / "kms2", "kms2", authority=first.authority)
    replicate(first, second)
    client = folder / "client.pem"
    client.write_bytes(PRIVATE + CERTIFICATE.encode())
    for server in (first, second):
        server.allow({"primary": [NAME, "kms1", "kms2"]})
        server.trust("client", CERTIFICATE)
    with first, second, FaultProxy(first, client) as proxy:
        keys = [{"name": key_id, "id": key_id, "policy": "primary"} for key_id in (PRIMARY, OTHER)]
        first.ensure_keys(keys)
        with group(KeyServer("second", "127.0.0.1", second.port), folder=first.authority) as direct:
            material = {key_id: replicated(direct, key_id).material for key_id in (PRIMARY, OTHER)}
        yield Servers(first, second, proxy, folder, material[PRIMARY], material[OTHER])


def replicated(keys: KeyServerGroup, key_id: str, *vendor: str) -> ServedKey:
    """A key that another server made. What comes to a server late comes within a second or two."""
    deadline = time.monotonic() + 20
    while True:
        try:
            if len(keys.attributes(key_id, vendor).vendor) == len(vendor):
                return keys.get(key_id)
        except Refusal:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def group(*listed: KeyServer, folder: Path) -> Iterator[KeyServerGroup]:
    credentials = ClientCredentials(CERTIFICATE, PRIVATE)
    context = client_context(credentials, [(folder / "ca.pem").read_text()])
    made = KeyServerGroup(listed, credentials, context)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def primary_keys(servers: Servers, *, alone: bool, timeout: float | None = None) -> Iterator[PrimaryKeys]:
    made = PrimaryKeys(lambda _provider, _refusal: None, time.monotonic)
    made.configure(
        {
            "finance": ProviderConfiguration(
                name="finance",
                primary_key_id=PRIMARY,
                check_value=wrapping.check_value(servers.primary, PRIMARY),
                servers=servers.listed(alone, timeout),
                credentials=ClientCredentials(CERTIFICATE, PRIVATE),
                trusted_certificates=servers.trusted(),
            )
        }
    )
    try:
        yield made
    finally:
        made.close()


def timely(work: Callable[[], Result], timeouts: float = 1) -> Result | Refusal:
    """What came of it: an answer or a refusal, nothing else, and in time."""
    began = time.monotonic()
    try:
        return work()
    except Refusal as refusal:
        return refusal
    finally:
        assert time.monotonic() - began < timeouts * TIMEOUT + MARGIN


def obtained(servers: Servers, *, alone: bool) -> bytes | Refusal:
    """The primary key as the Key Provider Service gets it."""
    with primary_keys(servers, alone=alone) as keys:
        found = timely(lambda: keys.obtain("finance", PRIMARY, FRESH))
    return found if isinstance(found, Refusal) else found.material


def got(servers: Servers, *, alone: bool) -> bytes | Refusal:
    """A key as the workload manager gets it: of each server in turn."""
    with group(*servers.listed(alone), folder=servers.first.authority) as keys:
        found = timely(lambda: keys.get(PRIMARY))
    return found if isinstance(found, Refusal) else found.material


WAYS = {"trusted": obtained, "standard": got}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERY)
def test_a_fault_of_one_server(servers: Servers, name: str, way: str) -> None:
    """The next server gives the key. Alone, the one at fault gives none; when it is well again, it does."""
    with servers.at_fault(EVERY[name]):
        assert WAYS[way](servers, alone=False) == servers.primary
        refused = WAYS[way](servers, alone=True)
        assert isinstance(refused, Refusal)
        assert refused.code == "key_server_unreachable", refused
    assert WAYS[way](servers, alone=True) == servers.primary


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CERTIFICATES)
def test_another_certificate(servers: Servers, kind: str, way: str) -> None:
    with servers.at_fault(servers.certificate(kind)):
        assert WAYS[way](servers, alone=False) == servers.primary
        refused = WAYS[way](servers, alone=True)
        assert isinstance(refused, Refusal)
        assert refused.code == "key_server_unreachable"
        assert "certificate is not trusted" in refused.message
        # It was not even asked: no user name, no id went to somebody else.
        assert servers.proxy.asked == []


def test_another_key_under_the_id_is_not_the_primary_key(servers: Servers) -> None:
    """Only the check value tells: the connection and the answer are as good as any."""
    with servers.at_fault(ANOTHER_KEY["another object's key"]):
        assert obtained(servers, alone=False) == servers.primary
        refused = obtained(servers, alone=True)
        assert isinstance(refused, Refusal)
        assert refused.code == "primary_key_mismatch"


@pytest.mark.parametrize(
    "name", ["nothing is answered, at GET", "half an answer, then the end, at GET", *ANOTHER_OBJECT]
)
def test_a_key_in_memory_serves_on(servers: Servers, name: str) -> None:
    """A fault that begins later: who asks has the key without waiting, the look in the background ends."""
    with primary_keys(servers, alone=True, timeout=3 * TIMEOUT) as keys:
        assert keys.obtain("finance", PRIMARY, FRESH).material == servers.primary
        with servers.at_fault(EVERY[name]):
            found = timely(lambda: keys.check("finance", PRIMARY, FRESH), timeouts=3)
            assert found is not None
            assert not isinstance(found, Refusal)
            assert found.health == "WARNING"
            began = time.monotonic()
            assert keys.obtain("finance", PRIMARY, FRESH).material == servers.primary
            assert time.monotonic() - began < TIMEOUT
        found = keys.check("finance", PRIMARY, FRESH)
        assert found is not None
        assert found.health == "OK"


@pytest.mark.parametrize(
    "name",
    [
        "nothing is answered to a connection",
        "something else than TLS is answered",
        "a byte each second in the handshake",
        "the connection is cut in the handshake",
    ],
)
def test_looking_at_a_certificate_takes_no_longer(servers: Servers, name: str) -> None:
    with servers.at_fault(FAULTS[name]):
        refused = timely(lambda: presented_certificate(servers.server(behind=True)))
    assert isinstance(refused, Refusal)
    assert refused.code == "key_server_unreachable"


@pytest.mark.parametrize("fault", ["SILENT", "DRIP_IN_HELLO", "CUT_IN_HELLO"])
def test_a_proxy_of_the_network_that_is_at_fault(servers: Servers, fault: str) -> None:
    """An HTTP CONNECT proxy is no better than what is behind it."""
    with servers.at_fault(getattr(fault_proxy, fault)):
        direct = servers.server(behind=False, timeout=TIMEOUT)
        through = replace(direct, proxy=("127.0.0.1", servers.proxy.port))
        with group(through, folder=servers.first.authority) as keys:
            refused = timely(lambda: keys.get(PRIMARY))
    assert isinstance(refused, Refusal)
    assert "through proxy" in refused.message


CREATION = ("CREATE", "ACTIVATE", "GET_ATTRIBUTES", "ADD_ATTRIBUTE", "GET")


@pytest.mark.parametrize("operation", CREATION)
@pytest.mark.parametrize(
    "name",
    [
        "nothing is answered",
        "half an answer, then the end",
        "noise",
        "an answer of 2 GB is announced",
        "a byte each second",
    ],
)
def test_a_fault_while_a_key_is_made(servers: Servers, name: str, operation: str) -> None:
    """What comes of it is one active key, the same on both servers, for the object that it was made for."""
    with servers.at_fault(FAULTS[name].at(operation)):
        with group(*servers.listed(alone=False), folder=servers.first.authority) as keys:
            made = timely(lambda: keys.create({"x-Vendor": "test"}, USE), timeouts=1)
        assert not isinstance(made, Refusal)
        with group(*servers.listed(alone=True), folder=servers.first.authority) as keys:
            refused = timely(lambda: keys.create({"x-Vendor": "test"}, USE))
        assert isinstance(refused, Refusal)
        assert refused.code == "key_server_unreachable"
    for alone in (True, False):
        with group(servers.server(behind=alone), folder=servers.first.authority) as keys:
            found = replicated(keys, made.key_id, *USE)
            assert (found.material, found.state) == (made.material, "ACTIVE")
            assert keys.attributes(made.key_id, tuple(USE)).vendor == USE


@pytest.mark.parametrize("operation", ["GET_ATTRIBUTES", "GET"])
def test_another_object_than_the_one_that_was_made(servers: Servers, operation: str) -> None:
    """Nothing is taken for the new key but what the server calls by its id."""

    def renamed(message: bytes) -> bytes:
        begin = message.find(fault_proxy._UNIQUE_IDENTIFIER)
        if begin < 0:
            return message
        length = int.from_bytes(message[begin + 4 : begin + 8], "big")
        return message[: begin + 8] + OTHER.zfill(length).encode() + message[begin + 8 + length :]

    with servers.at_fault(Fault(back=renamed, operations=(operation,))):
        with group(*servers.listed(alone=False), folder=servers.first.authority) as keys:
            made = timely(lambda: keys.create({}, USE))
        assert not isinstance(made, Refusal)
        assert made.server == "second"


def test_a_key_that_nobody_got_is_destroyed_when_the_server_is_well(servers: Servers) -> None:
    with group(*servers.listed(alone=False), folder=servers.first.authority) as keys:
        with servers.at_fault(fault_proxy.CUT.at("GET")):
            made = keys.create({}, USE)
            assert made.server == "second"
        orphan = [key_id for _server, key_id in keys._orphans]
        assert len(orphan) == 1
        assert all(not status.problem for status in keys.check())
        assert keys.attributes(orphan[0]).state == "DESTROYED"
        assert keys.get(made.key_id).material == made.material

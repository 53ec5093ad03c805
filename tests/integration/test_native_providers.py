# SPDX-License-Identifier: GPL-3.0-or-later
"""Native providers on a host with a software TPM: what a boot opens, what not, and what repairs it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from integration.certified_tpm import CertifiedTpm
from integration.pcr_policies import OTHERS, OURS, PolicyKey

from trusted_infrastructure import wrapping
from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.host import native_providers
from trusted_infrastructure.host.native_providers import NativeProviders
from trusted_infrastructure.host.pcr_policies import signed_policy
from trusted_infrastructure.host.sealed_provider import SealedProvider
from trusted_infrastructure.host.tpm_device import TpmDevice
from trusted_infrastructure.host.tpm_worker import TpmWorker
from trusted_infrastructure.key_delivery import NativeKey, NativeProviderPush, NativeProviderState
from trusted_infrastructure.refusal import InvalidField, Refusal, Unavailable

HOST = "host1"
PROVIDER = "native / one"
INSTANCE = "0" * 32
PCRS = (0, 4, 7)
NO_TPM = "swtpm:path=/nonexistent/sock"
KEY_IDS = [str(uuid.UUID(int=number)) for number in range(3)]
KEYS = {key_id: bytes([65 + number]) * 16 + bytes(range(16)) for number, key_id in enumerate(KEY_IDS)}


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that awaits."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def push(policy_key: PolicyKey | None, *key_ids: str, required: bool = False, **changes: Any) -> Any:
    """A push of these keys, the current one first. Its "sealed" keys are the keys: `opened` opens them."""
    ids = key_ids or (KEY_IDS[0],)
    keys = [
        NativeKey(key_id=one, sealed_key=KEYS[one], check_value=wrapping.check_value(KEYS[one], one))
        for one in ids
    ]
    fields: dict[str, Any] = {
        "instance": INSTANCE,
        "provider": PROVIDER,
        "key_id": ids[0],
        "tpm_required": required,
        "policy_public_key": policy_key.public if policy_key else None,
        "policy_reference": OURS if policy_key else None,
        "keys": keys,
    }
    return NativeProviderPush(**{**fields, **changes})


def opened(_key_id: str, sealed: bytes) -> bytes:
    return sealed


@dataclasses.dataclass
class Host:
    """An agent's native providers, which can be started again as after a boot."""

    folder: Path
    tcti: str
    policies: dict[str, PcrPolicy] = dataclasses.field(default_factory=dict)
    fault: Refusal | None = None
    now: float = 1_800_000_000

    def __post_init__(self) -> None:
        self.started: list[NativeProviders] = []

    def known_policies(self) -> dict[str, PcrPolicy]:
        if self.fault is not None:
            raise self.fault
        return dict(self.policies)

    def made(self) -> NativeProviders:
        """As the agent makes them, before it listens."""
        worker = TpmWorker(lambda: TpmDevice(self.tcti))
        providers = NativeProviders(worker, self.folder, self.known_policies, HOST, lambda: self.now)
        providers.read()
        self.started.append(providers)
        return providers

    async def start(self) -> NativeProviders:
        providers = self.made()
        await providers.start()
        return providers

    def approve(self, key: PolicyKey, name: str = "now", **changed: bytes) -> None:
        """A policy for the PCR values of now, or for others: `pcr4=...`."""
        with TpmDevice(self.tcti) as device:
            values = device.read_pcrs("sha256", PCRS)
        self.policies[name] = key.document(values | {int(pcr[3:]): value for pcr, value in changed.items()})

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests say when an agent tries again."""
    monkeypatch.setattr(native_providers, "TICK", 3600.0)


@pytest.fixture(scope="module")
def shared_tpm() -> Iterator[CertifiedTpm]:
    with CertifiedTpm() as started:
        yield started


@pytest.fixture
def host(tmp_path: Path, shared_tpm: CertifiedTpm) -> Iterator[Host]:
    made = Host(tmp_path, shared_tpm.tcti)
    yield made
    for providers in made.started:
        providers.close()


@pytest.fixture(scope="module")
def key() -> PolicyKey:
    return PolicyKey()


def state_of(providers: NativeProviders) -> NativeProviderState:
    (state,) = providers.states()
    return state


def check_locked(providers: NativeProviders, code: str, *words: str) -> None:
    state = state_of(providers)
    assert (state.state, state.code, state.sealed) == ("LOCKED", code, True), state
    assert set(state.keys) == {KEY_IDS[0]}
    for word in words:
        assert word in state.message
    with pytest.raises(Refusal) as refusal:
        providers.key(PROVIDER)
    assert refusal.value.code == "native_provider_locked"
    assert code in refusal.value.message


async def pushed(host: Host, key: PolicyKey) -> None:
    """A provider whose sealed copy opens with the PCR values of now; the agent is stopped then."""
    host.approve(key)
    providers = await host.start()
    state = await providers.receive(push(key), opened)
    assert (state.state, state.sealed, state.code, state.message) == ("AVAILABLE", True, "", "")
    assert state == state_of(providers)
    providers.close()


# ---- what opens -------------------------------------------------------------------------------------------


@in_a_loop
async def test_after_a_start_with_the_same_pcrs_the_keys_are_there(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    again = await host.start()
    assert again.key(PROVIDER) == (KEY_IDS[0], KEYS[KEY_IDS[0]])
    state = state_of(again)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "")
    assert state.keys == {KEY_IDS[0]: wrapping.check_value(KEYS[KEY_IDS[0]], KEY_IDS[0])}


@in_a_loop
async def test_all_keys_of_a_rotated_provider_are_kept(host: Host, key: PolicyKey) -> None:
    host.approve(key)
    providers = await host.start()
    await providers.receive(push(key, KEY_IDS[0]), opened)
    await providers.receive(push(key, KEY_IDS[1], KEY_IDS[0]), opened)
    again = await host.start()
    for started in (providers, again):
        assert started.key(PROVIDER) == (KEY_IDS[1], KEYS[KEY_IDS[1]])
        assert started.key(PROVIDER, KEY_IDS[0]) == (KEY_IDS[0], KEYS[KEY_IDS[0]])
    await again.receive(push(key, KEY_IDS[2], removed=KEY_IDS[:2]), opened)
    for one in KEY_IDS[:2]:
        with pytest.raises(Refusal, match="native_key_unknown"):
            again.key(PROVIDER, one)
    assert (await host.start()).key(PROVIDER)[0] == KEY_IDS[2]
    assert len(host.files) == 1


@in_a_loop
async def test_a_boot_with_the_same_values_opens_on_the_same_tpm(tmp_path: Path, key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        host = Host(tmp_path, tpm.tcti)
        await pushed(host, key)
        tpm.reboot()
        assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        for providers in host.started:
            providers.close()


@in_a_loop
async def test_an_upgrade_opens_if_its_policy_was_signed_before(tmp_path: Path, key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        host = Host(tmp_path, tpm.tcti)
        await pushed(host, key)
        tpm.tool("tpm2_pcrextend", "4:sha256=" + "ab" * 32)
        with TpmDevice(tpm.tcti) as device:
            upgraded = device.read_pcrs("sha256", [4])[4]
        tpm.reboot()
        host.approve(key, "upgraded", pcr4=upgraded)
        assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        tpm.reboot()
        tpm.tool("tpm2_pcrextend", "4:sha256=" + "ab" * 32)
        assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        for providers in host.started:
            providers.close()


# ---- what does not ----------------------------------------------------------------------------------------


@in_a_loop
async def test_an_extended_pcr_locks_and_a_push_repairs(tmp_path: Path, key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        host = Host(tmp_path, tpm.tcti)
        await pushed(host, key)
        host.approve(key, "older", pcr0=b"\1" * 32, pcr7=b"\7" * 32)
        tpm.tool("tpm2_pcrextend", "4:sha256=" + "ab" * 32)
        providers = await host.start()
        check_locked(
            providers, "pcr_policy_mismatch", "PCR 4 of policy 'now'", "PCR 0, 4, 7 of policy 'older'"
        )
        state = await providers.receive(push(key), opened)
        assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        # In memory; the stored copy would still not open, and the state says so.
        assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "pcr_policy_mismatch")
        host.approve(key, "new")
        await providers.refresh()
        assert state_of(providers).code == ""
        assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        for started in host.started:
            started.close()


@in_a_loop
async def test_a_new_policy_unlocks_by_itself(
    host: Host, key: PolicyKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_providers, "TICK", 0.02)
    await pushed(host, key)
    right, host.policies = host.policies, {}
    providers = await host.start()
    check_locked(providers, "pcr_policy_missing")
    host.policies = right
    async with asyncio.timeout(20):
        while state_of(providers).state == "LOCKED":
            await asyncio.sleep(0.02)
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_a_configuration_that_comes_later_is_waited_for(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    host.fault = Unavailable("configuration_unavailable", "not published yet")
    providers = await host.start()
    check_locked(providers, "configuration_unavailable")
    host.fault = None
    assert providers._due()
    await providers.refresh()
    assert state_of(providers).state == "AVAILABLE"
    assert not providers._due()


def by_another_key(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    values = {int(number): bytes.fromhex(value) for number, value in policy.pcrs.items()}
    return PolicyKey().document(values)


def of_another_cluster(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    values = {int(number): bytes.fromhex(value) for number, value in policy.pcrs.items()}
    return key.document(values, OTHERS)


def of_an_earlier_release(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    values = {int(number): bytes.fromhex(value) for number, value in policy.pcrs.items()}
    return key.document(values, b"trusted.infrastructure/pcr-policy/v1")


def of_another_signature(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, signature=by_another_key(key, policy).signature)


def of_other_values(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, pcrs={**policy.pcrs, "4": "44" * 32})


def of_fewer_pcrs(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, pcrs={"0": policy.pcrs["0"]})


def of_a_short_value(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, pcrs={**policy.pcrs, "4": "44"})


def of_no_hex(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, pcrs={**policy.pcrs, "4": "values"})


def of_no_key(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    return replaced(policy, public_key="no key")


def of_an_inactive_bank(key: PolicyKey, policy: PcrPolicy) -> PcrPolicy:
    signed = key.policy({0: bytes(64)}, "sha512")
    return replaced(policy, bank="sha512", pcrs={"0": "00" * 64}, signature=signed.signature)


def replaced(policy: PcrPolicy, **changes: Any) -> PcrPolicy:
    fields = {name: getattr(policy, name) for name in policy.__struct_fields__}
    return PcrPolicy(**{**fields, **changes})


BAD_POLICIES: dict[Callable[[PolicyKey, PcrPolicy], PcrPolicy], tuple[str, str]] = {
    by_another_key: ("pcr_policy_missing", "1 of another key"),
    of_no_key: ("pcr_policy_missing", "1 of another key"),
    of_another_cluster: (
        "pcr_policy_invalid",
        "policy 'now': signature: is not its key's over these values for this cluster",
    ),
    of_an_earlier_release: (
        "pcr_policy_invalid",
        "policy 'now': signature: is not its key's over these values for this cluster",
    ),
    of_another_signature: ("pcr_policy_invalid", "policy 'now': signature"),
    of_other_values: ("pcr_policy_invalid", "policy 'now': signature"),
    of_fewer_pcrs: ("pcr_policy_invalid", "policy 'now': signature"),
    of_a_short_value: ("pcr_policy_invalid", "policy 'now': pcrs"),
    of_no_hex: ("pcr_policy_invalid", "policy 'now': pcrs"),
    of_an_inactive_bank: ("pcr_policy_invalid", "policy 'now': bank"),
}


@pytest.mark.parametrize("change", BAD_POLICIES, ids=lambda change: change.__name__)
@in_a_loop
async def test_a_bad_policy_opens_nothing_and_is_reported(host: Host, key: PolicyKey, change: Any) -> None:
    await pushed(host, key)
    right = host.policies["now"]
    host.policies["now"] = change(key, right)
    providers = await host.start()
    check_locked(providers, *BAD_POLICIES[change])
    host.policies["right"] = right
    await providers.refresh()
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_the_data_of_another_tpm_stays_locked_until_a_push(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    with CertifiedTpm() as other:
        moved = Host(host.folder, other.tcti, host.policies)
        providers = await moved.start()
        check_locked(providers, "sealed_data_foreign", "cleared")
        await providers.receive(push(key), opened)
        assert (await moved.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
        for started in moved.started:
            started.close()


@in_a_loop
async def test_a_cleared_tpm_locks(tmp_path: Path, key: PolicyKey) -> None:
    with CertifiedTpm() as tpm:
        host = Host(tmp_path, tpm.tcti)
        await pushed(host, key)
        tpm.tool("tpm2_clear", "-c", "p")
        providers = await host.start()
        check_locked(providers, "sealed_data_foreign")
        providers.close()


@in_a_loop
async def test_a_stopped_tpm_locks_and_is_tried_again(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    tcti, host.tcti = host.tcti, NO_TPM
    providers = await host.start()
    check_locked(providers, "tpm_unavailable")
    assert not providers._due()
    host.tcti, host.now = tcti, host.now + 30
    assert providers._due()
    await providers.refresh()
    assert state_of(providers).state == "AVAILABLE"


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {
    "ciphertext": lambda stored: stored.update(ciphertext=flipped(stored["ciphertext"])),
    "private": lambda stored: stored.update(private=flipped(stored["private"])),
    "tpm_required": lambda stored: stored["described"].update(tpm_required=True),
    "key_id": lambda stored: stored["described"].update(key_id="another"),
    "check value": lambda stored: stored["described"]["check_values"].update({KEY_IDS[0]: "0" * 64}),
    "key": lambda stored: stored["described"].update(check_values={KEY_IDS[0]: "0" * 64, "more": "0" * 64}),
}


def flipped(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("name", CHANGES)
@in_a_loop
async def test_a_changed_file_stays_locked(host: Host, key: PolicyKey, name: str) -> None:
    await pushed(host, key)
    (path,) = host.files
    stored = json.loads(path.read_text())
    CHANGES[name](stored)
    path.write_text(json.dumps(stored))
    providers = await host.start()
    assert (state_of(providers).state, state_of(providers).code) == ("LOCKED", "sealed_data_invalid")
    with pytest.raises(Refusal, match="native_provider_locked"):
        providers.key(PROVIDER)
    await providers.receive(push(key), opened)
    assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_the_file_of_another_host_stays_locked(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    worker = TpmWorker(lambda: TpmDevice(host.tcti))
    providers = NativeProviders(worker, host.folder, host.known_policies, "host2", lambda: host.now)
    providers.read()
    await providers.start()
    check_locked(providers, "sealed_data_invalid")
    providers.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"\xff\xfe"])
@in_a_loop
async def test_what_is_no_such_file_is_passed_over(host: Host, key: PolicyKey, content: bytes) -> None:
    await pushed(host, key)
    host.files[0].write_bytes(content)
    providers = await host.start()
    assert providers.states() == []
    await providers.receive(push(key), opened)
    assert len(host.files) == 1


@in_a_loop
async def test_a_file_that_others_can_read_is_passed_over(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    host.files[0].chmod(0o644)
    assert (await host.start()).states() == []


# ---- pushes -----------------------------------------------------------------------------------------------


@in_a_loop
async def test_without_a_tpm_keys_are_in_memory_alone(host: Host, key: PolicyKey) -> None:
    host.tcti = NO_TPM
    providers = await host.start()
    state = await providers.receive(push(key), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", False, "tpm_unavailable")
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]
    assert host.files == []
    assert (await host.start()).states() == []


@in_a_loop
async def test_a_tpm_that_comes_back_gets_the_copy(host: Host, key: PolicyKey) -> None:
    host.approve(key)
    tcti, host.tcti = host.tcti, NO_TPM
    providers = await host.start()
    await providers.receive(push(key), opened)
    host.tcti, host.now = tcti, host.now + 30
    assert providers._due()
    await providers.refresh()
    assert (state_of(providers).sealed, state_of(providers).code) == (True, "")


@in_a_loop
async def test_a_provider_that_requires_a_tpm_is_refused_without_one(host: Host, key: PolicyKey) -> None:
    tcti, host.tcti = host.tcti, NO_TPM
    providers = await host.start()
    with pytest.raises(Refusal, match="tpm_required.*tpm_unavailable"):
        await providers.receive(push(key, required=True), opened)
    assert providers.states() == [] and host.files == []
    host.tcti = tcti
    with pytest.raises(Refusal, match="tpm_required.*pcr_policy_missing"):
        await providers.receive(push(None, required=True), opened)
    state = await providers.receive(push(key, required=True), opened)
    assert (state.sealed, state.tpm_required) == (True, True)


@in_a_loop
async def test_a_refused_push_leaves_the_provider_as_it_was(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    providers = await host.start()
    stored, before = host.files[0].read_bytes(), providers.states()
    other = bytes(32)
    same_id = NativeKey(
        key_id=KEY_IDS[0], sealed_key=other, check_value=wrapping.check_value(other, KEY_IDS[0])
    )
    first = push(key).keys[0]
    twice = push(key, KEY_IDS[0], KEY_IDS[0])
    refusals = {
        "key_mismatch.*check value": push(key, keys=[_with(first, sealed_key=other)]),
        "key_mismatch.*under this id": push(key, keys=[same_id]),
        "keys: has a key id twice": twice,
        "removed: has a key that is in keys": push(key, removed=[KEY_IDS[0]]),
        "keys: must begin": push(key, KEY_IDS[1], KEY_IDS[0], key_id=KEY_IDS[0]),
        "public_key": push(key, policy_public_key="no key"),
    }
    for expected, refused in refusals.items():
        with pytest.raises(Refusal, match=expected) as refusal:
            await providers.receive(refused, opened)
        assert isinstance(refusal.value, InvalidField) or refusal.value.status == 409
    with pytest.raises(Refusal, match="not opened"):
        await providers.receive(push(key, KEY_IDS[1]), _does_not_open)
    assert providers.states() == before
    assert host.files[0].read_bytes() == stored
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_another_key_under_a_known_id_does_not_replace_a_locked_one(host: Host, key: PolicyKey) -> None:
    """The only copy of what this host has wrapped keys with: it may open after the next boot."""
    await pushed(host, key)
    (path,) = host.files
    stored, right = path.read_bytes(), host.policies.pop("now")
    providers = await host.start()
    check_locked(providers, "pcr_policy_missing")
    other = bytes(32)
    same_id = NativeKey(
        key_id=KEY_IDS[0], sealed_key=other, check_value=wrapping.check_value(other, KEY_IDS[0])
    )
    with pytest.raises(Refusal, match="key_mismatch.*under this id"):
        await providers.receive(push(key, keys=[same_id]), opened)
    assert path.read_bytes() == stored
    host.policies["now"] = right
    await providers.refresh()
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


def _with(key: NativeKey, **changes: Any) -> NativeKey:
    fields = {name: getattr(key, name) for name in key.__struct_fields__}
    return NativeKey(**{**fields, **changes})


def _does_not_open(_key_id: str, _sealed: bytes) -> bytes:
    raise Refusal("sealed_value_invalid", "not opened")


@in_a_loop
async def test_another_policy_key_seals_again(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    other = PolicyKey()
    providers = await host.start()
    state = await providers.receive(push(other), opened)
    assert (state.sealed, state.code) == (True, "pcr_policy_missing")
    check_locked(await host.start(), "pcr_policy_missing", "1 of another key")
    host.approve(other, "other")
    assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_keys_that_the_manager_took_away_do_not_come_back(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    providers = await host.start()
    state = await providers.receive(push(None, KEY_IDS[1], removed=[KEY_IDS[0]]), opened)
    assert (state.sealed, state.code, set(state.keys)) == (False, "pcr_policy_missing", {KEY_IDS[1]})
    assert host.files == []


# ---- clusters, and releases -------------------------------------------------------------------------------


@in_a_loop
async def test_a_host_that_moves_is_sealed_anew_and_keeps_no_old_copy(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    (path,) = host.files
    before = SealedProvider(**_stored(path))
    providers = await host.start()
    state = await providers.receive(push(key, policy_reference=OTHERS), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "pcr_policy_invalid")
    assert host.files == [path]
    after = SealedProvider(**_stored(path))
    assert after.private != before.private and after.ciphertext != before.ciphertext
    check_locked(await host.start(), "pcr_policy_invalid", "for this cluster")
    with TpmDevice(host.tcti) as device:
        # What our code would not try, the TPM does not do either: the policy of the cluster that was left.
        policy = signed_policy(host.policies["now"], OURS)
        assert device.unseal(before.sealed_data, policy)
        with pytest.raises(Refusal, match="pcr_policy_invalid"):
            device.unseal(after.sealed_data, policy)
        values = device.read_pcrs("sha256", PCRS)
    host.policies = {"now": key.document(values, OTHERS)}
    assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[0]]


@in_a_loop
async def test_a_copy_of_an_earlier_release_is_locked_until_a_push(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    (path,) = host.files
    stored = json.loads(path.read_text())
    del stored["described"]["policy_reference"]
    path.write_text(json.dumps(stored))
    providers = await host.start()
    check_locked(providers, "sealed_data_outdated", "earlier release", "every cluster")
    await providers.refresh()
    check_locked(providers, "sealed_data_outdated")
    # What cannot open protects nothing: another key under the id is the manager's to decide.
    other = bytes(32)
    same_id = NativeKey(
        key_id=KEY_IDS[0], sealed_key=other, check_value=wrapping.check_value(other, KEY_IDS[0])
    )
    state = await providers.receive(push(key, keys=[same_id]), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "")
    assert (await host.start()).key(PROVIDER)[1] == other


@in_a_loop
async def test_a_manager_of_an_earlier_release_gets_no_copy_sealed(host: Host, key: PolicyKey) -> None:
    host.approve(key)
    providers = await host.start()
    state = await providers.receive(push(key, policy_reference=None), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", False, "pcr_policy_missing")
    assert host.files == []


def _stored(path: Path) -> dict[str, Any]:
    found = msgspec.json.decode(path.read_bytes(), type=SealedProvider)
    return {name: getattr(found, name) for name in found.__struct_fields__}


# ---- a manager that knows fewer keys ----------------------------------------------------------------------


def all_of(providers: NativeProviders) -> dict[str, bytes]:
    return {one: providers.key(PROVIDER, one)[1] for one in state_of(providers).keys}


@in_a_loop
async def test_a_push_with_fewer_keys_loses_none(host: Host, key: PolicyKey) -> None:
    """As of a manager whose database is an old backup."""
    host.approve(key)
    providers = await host.start()
    await providers.receive(push(key, KEY_IDS[1], KEY_IDS[0]), opened)
    held = providers._providers[PROVIDER].keys[KEY_IDS[1]]
    state = await providers.receive(push(key, KEY_IDS[0]), opened)
    assert (state.key_id, set(state.keys), state.code) == (KEY_IDS[0], set(KEY_IDS[:2]), "")
    assert held == bytes(32)  # the one in memory is another object
    again = await host.start()
    for started in (providers, again):
        assert started.key(PROVIDER)[0] == KEY_IDS[0]
        assert all_of(started) == {one: KEYS[one] for one in KEY_IDS[:2]}
    other = bytes(32)
    same_id = NativeKey(
        key_id=KEY_IDS[1], sealed_key=other, check_value=wrapping.check_value(other, KEY_IDS[1])
    )
    with pytest.raises(Refusal, match="key_mismatch.*under this id"):
        await again.receive(push(key, keys=[*push(key).keys, same_id]), opened)
    state = await again.receive(push(key, removed=[KEY_IDS[1], KEY_IDS[2]]), opened)
    assert set(state.keys) == {KEY_IDS[0]}
    assert all_of(await host.start()) == {KEY_IDS[0]: KEYS[KEY_IDS[0]]}


@in_a_loop
async def test_a_locked_copy_with_further_keys_stays_until_it_opens(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    (path,) = host.files
    stored, right = path.read_bytes(), host.policies.pop("now")
    providers = await host.start()
    check_locked(providers, "pcr_policy_missing")
    state = await providers.receive(push(key, KEY_IDS[1]), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "pcr_policy_missing")
    assert (state.key_id, set(state.keys)) == (KEY_IDS[1], set(KEY_IDS[:2]))
    assert providers.key(PROVIDER)[1] == KEYS[KEY_IDS[1]]
    with pytest.raises(Refusal, match="native_key_unknown"):
        providers.key(PROVIDER, KEY_IDS[0])
    # Again, and with another one under the id: the copy is as it was.
    await providers.receive(push(key, KEY_IDS[1], tpm_required=True), opened)
    other = bytes(32)
    same_id = NativeKey(
        key_id=KEY_IDS[0], sealed_key=other, check_value=wrapping.check_value(other, KEY_IDS[0])
    )
    with pytest.raises(Refusal, match="key_mismatch.*under this id"):
        await providers.receive(push(key, keys=[same_id]), opened)
    await providers.refresh()
    assert path.read_bytes() == stored
    host.policies["now"] = right
    await providers.refresh()
    assert (state_of(providers).code, providers.key(PROVIDER)[0]) == ("", KEY_IDS[1])
    for started in (providers, await host.start()):
        assert all_of(started) == {one: KEYS[one] for one in KEY_IDS[:2]}


@in_a_loop
async def test_a_push_that_is_quicker_than_the_start_loses_no_key(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    providers = host.made()
    with pytest.raises(Refusal, match="native_provider_locked"):
        providers.key(PROVIDER)
    await providers.receive(push(key, KEY_IDS[1]), opened)
    await providers.start()
    for started in (providers, await host.start()):
        assert all_of(started) == {one: KEYS[one] for one in KEY_IDS[:2]}


@in_a_loop
async def test_a_locked_copy_of_removed_keys_is_replaced(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    right = host.policies.pop("now")
    providers = await host.start()
    state = await providers.receive(push(key, KEY_IDS[1], removed=[KEY_IDS[0]]), opened)
    assert set(state.keys) == {KEY_IDS[1]}
    host.policies["now"] = right
    assert all_of(await host.start()) == {KEY_IDS[1]: KEYS[KEY_IDS[1]]}


@in_a_loop
async def test_a_kept_copy_that_is_found_to_be_changed_is_replaced(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    (path,) = host.files
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"ciphertext": flipped(stored["ciphertext"])}))
    right = host.policies.pop("now")
    providers = await host.start()
    await providers.receive(push(key, KEY_IDS[1]), opened)
    host.policies["now"] = right
    await providers.refresh()
    assert state_of(providers).code == "sealed_data_invalid"
    await providers.refresh()
    assert (state_of(providers).code, set(state_of(providers).keys)) == ("", {KEY_IDS[1]})
    assert (await host.start()).key(PROVIDER)[1] == KEYS[KEY_IDS[1]]


@in_a_loop
async def test_a_busy_tpm_costs_no_key_that_the_manager_lacks(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    providers = await host.start()
    tcti, host.tcti = host.tcti, NO_TPM
    state = await providers.receive(push(key, KEY_IDS[1]), opened)
    assert (state.state, state.sealed, state.code) == ("AVAILABLE", True, "tpm_unavailable")
    assert all_of(providers) == {one: KEYS[one] for one in KEY_IDS[:2]}
    host.tcti = tcti
    assert all_of(await host.start()) == {KEY_IDS[0]: KEYS[KEY_IDS[0]]}
    await providers.refresh()
    for started in (providers, await host.start()):
        assert all_of(started) == {one: KEYS[one] for one in KEY_IDS[:2]}


@in_a_loop
async def test_a_busy_tpm_costs_no_stored_copy(
    host: Host, key: PolicyKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushed(host, key)
    providers = await host.start()
    host.tcti = NO_TPM
    state = await providers.receive(push(key), opened)
    assert (state.state, state.sealed) == ("AVAILABLE", True)
    assert len(host.files) == 1


@in_a_loop
async def test_an_interrupted_write_leaves_the_old_file(
    host: Host, key: PolicyKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushed(host, key)
    providers = await host.start()

    class PowerCut(BaseException):
        pass

    def cut(*_arguments: object) -> None:
        raise PowerCut

    with monkeypatch.context() as interrupted:
        interrupted.setattr("trusted_infrastructure.state_files.os.replace", cut)
        with pytest.raises(PowerCut):
            await providers.receive(push(key, KEY_IDS[1], KEY_IDS[0]), opened)
    assert len(host.files) == 2  # the old one, and what was being written
    again = await host.start()
    assert again.key(PROVIDER) == (KEY_IDS[0], KEYS[KEY_IDS[0]])
    assert len(host.files) == 1


@in_a_loop
async def test_a_full_disk_is_said(host: Host, key: PolicyKey) -> None:
    host.approve(key)
    (host.folder / "native_providers").write_text("a file where the directory should be")
    providers = await host.start()
    with pytest.raises(Unavailable, match="state_unusable"):
        await providers.receive(push(key, required=False), opened)
    with pytest.raises(Refusal, match="tpm_required.*state_unusable"):
        await providers.receive(push(key, required=True), opened)


# ---- removal, memory, disk --------------------------------------------------------------------------------


@in_a_loop
async def test_a_removed_provider_is_gone(host: Host, key: PolicyKey) -> None:
    await pushed(host, key)
    providers = await host.start()
    held = providers._providers[PROVIDER].keys[KEY_IDS[0]]
    await providers.remove(PROVIDER)
    await providers.remove(PROVIDER)
    assert held == bytes(32)
    assert host.files == [] and providers.states() == []
    with pytest.raises(Refusal, match="provider_unknown"):
        providers.key(PROVIDER)
    assert (await host.start()).states() == []


@in_a_loop
async def test_closing_and_replacing_wipes(host: Host, key: PolicyKey) -> None:
    providers = await host.start()
    await providers.receive(push(key), opened)
    first = providers._providers[PROVIDER].keys[KEY_IDS[0]]
    await providers.receive(push(key), opened)
    second = providers._providers[PROVIDER].keys[KEY_IDS[0]]
    assert (first, second) == (bytes(32), KEYS[KEY_IDS[0]])
    providers.close()
    assert second == bytes(32)
    with pytest.raises(Refusal, match="provider_unknown"):
        providers.key(PROVIDER)


@in_a_loop
async def test_nothing_is_on_disk_in_the_clear(
    host: Host, key: PolicyKey, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    await pushed(host, key)
    providers = await host.start()
    await providers.receive(push(key, KEY_IDS[1], KEY_IDS[0]), opened)
    shown = repr(providers._providers) + repr(providers.states()) + caplog.text + "".join(capsys.readouterr())
    assert [oct(path.stat().st_mode & 0o777) for path in host.files] == ["0o600"]
    assert oct(host.files[0].parent.stat().st_mode & 0o777) == "0o700"
    for secret in KEYS.values():
        forms = [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)]
        forms += [base64.urlsafe_b64encode(secret).rstrip(b"="), repr(secret).encode()[2:-1]]
        for form in forms:
            assert not [path for path in host.files if form in path.read_bytes()]
            assert form not in shown.encode()

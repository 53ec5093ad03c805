# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log's queue: nobody goes on before the record is on disk, and a disk that fails fails all."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from trusted_infrastructure.audit import AuditLog, AuditQueue, Decision, records, verify
from trusted_infrastructure.refusal import Refusal


def decision(number: int) -> Decision:
    return Decision(time=1, service="s", host=f"host{number}", address="", code="ok")


def test_all_that_wait_go_to_disk_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    syncs, first = [], threading.Event()
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        first.wait(5)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)

    async def run() -> None:
        queue = AuditQueue(log)
        waiting = [asyncio.create_task(queue.append(decision(number))) for number in range(50)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        first.set()
        await asyncio.gather(*waiting)

    asyncio.run(run())
    assert len(syncs) == 2  # the one that came first, and all others
    found = verify(tmp_path / "audit.jsonl")
    assert (found.intact, found.records) == (True, 50)
    hosts = [record.host for record in records(tmp_path / "audit.jsonl")]
    assert hosts == [f"host{number}" for number in range(50)]


def test_who_is_cancelled_holds_nobody_up(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")

    async def run() -> None:
        queue = AuditQueue(log)
        tasks = [asyncio.create_task(queue.append(decision(number))) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result is None for result in results] == [True, False, True, False]
        await queue.append(decision(9))

    asyncio.run(run())
    assert verify(tmp_path / "audit.jsonl").intact


def test_a_disk_that_fails_fails_all_and_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)

    async def run() -> list[Any]:
        queue = AuditQueue(log)
        first = await asyncio.gather(
            *(queue.append(decision(number)) for number in range(3)), return_exceptions=True
        )
        return [*first, *await asyncio.gather(queue.append(decision(3)), return_exceptions=True)]

    for refusal in asyncio.run(run()):
        assert isinstance(refusal, Refusal)
        assert refusal.code == "audit_unavailable"

# SPDX-License-Identifier: GPL-3.0-or-later
"""ConfigStore: what it refuses, all or nothing, generations, tombstones, file modes."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services.config.documents_of import DENIED, IMAGE, SETTINGS, document, image

from trusted_infrastructure.config.documents import Document, Generation
from trusted_infrastructure.config.store import GENERATION_LIMIT, ConfigStore
from trusted_infrastructure.refusal import Refusal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.db"


@pytest.fixture
def store(path: Path) -> Iterator[ConfigStore]:
    opened = ConfigStore(path, "trust_authority")
    yield opened
    opened.close()


def changed(**changes: Any) -> dict[str, Any]:
    return {**IMAGE, **changes}


REFUSED = {
    "kind of the other side": (document("host_assertion", "assertion", {}), "invalid_document", "kind"),
    "unknown kind": (document("nothing", "x", {}), "invalid_document", "kind"),
    "unknown field": (document("base_image", "x", changed(extra=1)), "invalid_document", "content"),
    "missing field": (document("base_image", "x", {"bank": "sha256"}), "invalid_document", "content"),
    "wrong type": (
        document("base_image", "x", changed(display_name=7)),
        "invalid_document",
        "content.display_name",
    ),
    "other version": (document("base_image", "x", changed(version=2)), "invalid_document", "content.version"),
    "second settings": (document("tpm2_settings", "other", SETTINGS), "invalid_document", "id"),
    "deleted document of an unknown kind": (document("nothing", "x", None), "invalid_document", "kind"),
    "too large a counter": (
        document("base_image", "x", IMAGE, GENERATION_LIMIT + 1),
        "invalid_document",
        "generation",
    ),
}


@pytest.mark.parametrize(("bad", "code", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_and_stores_nothing(store: ConfigStore, bad: Document, code: str, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        store.apply([image(1), bad])
    assert refused.value.code == code
    assert refused.value.status == 400
    assert refused.value.message.startswith(f"documents[1].{field}")
    assert store.documents() == []
    assert store.security_generation == 0


def test_refuses_a_document_twice_in_a_batch(store: ConfigStore) -> None:
    with pytest.raises(Refusal, match=r"documents\[1\].id: base_image 'image-1' is in the batch twice"):
        store.apply([image(1), image(1, counter=2)])
    assert store.documents() == []


STALE = {
    "lower counter": Generation(2, 4),
    "lower epoch": Generation(1, 9),
    "equal": Generation(2, 5),
}


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("generation", STALE.values(), ids=STALE.keys())
def test_refuses_stale_generations_with_other_content(
    store: ConfigStore, generation: Generation, deleted: bool
) -> None:
    stored = document("base_image", "image-1", None if deleted else IMAGE, 5, 2)
    store.apply([stored])
    stale = Document("base_image", "image-1", generation, changed(display_name="other"))
    with pytest.raises(Refusal) as refused:
        store.apply([image(2), stale])
    assert (refused.value.code, refused.value.status) == ("stale_generation", 409)
    assert refused.value.message.startswith("documents[1].generation: base_image 'image-1'")
    assert store.documents() == [stored]


def test_refuses_to_delete_with_the_stored_generation(store: ConfigStore) -> None:
    store.apply([image(1)])
    with pytest.raises(Refusal, match="stale_generation"):
        store.apply([document("base_image", "image-1", None)])
    assert store.get("base_image", "image-1") == image(1)


def test_a_deleted_document_does_not_come_back(store: ConfigStore) -> None:
    store.apply([image(1, 1)])
    store.apply([document("base_image", "image-1", None, 2)])
    with pytest.raises(Refusal, match="stale_generation"):
        store.apply([image(1, 1)])
    assert store.get("base_image", "image-1") == document("base_image", "image-1", None, 2)
    assert store.apply([image(1, 3)]).changed == (("base_image", "image-1"),)


def test_the_same_batch_again_changes_nothing(store: ConfigStore) -> None:
    batch = [image(1), document("denied_host", "host1", DENIED), document("ca_certificate", "x", None)]
    first = store.apply(batch)
    assert len(first.changed) == 3
    again = store.apply(batch)
    assert (again.changed, again.security_generation) == ((), first.security_generation)


def test_a_new_epoch_wins_over_any_counter(store: ConfigStore) -> None:
    store.apply([document("base_image", "image-1", IMAGE, counter=900)])
    restored = document("base_image", "image-1", changed(display_name="restored"), counter=1, epoch=2)
    store.apply([restored])
    assert store.get("base_image", "image-1") == restored


def test_a_withdrawal_raises_the_generation_once_and_it_survives(path: Path) -> None:
    store = ConfigStore(path, "trust_authority")
    assert store.apply([image(1), image(2)]).security_generation == 0
    withdrawal = [document("base_image", f"image-{n}", None, 2) for n in (1, 2)]
    assert store.apply(withdrawal).security_generation == 1
    store.close()
    store = ConfigStore(path, "trust_authority")
    assert store.security_generation == 1
    assert store.apply([image(3)]).security_generation == 1
    store.close()


def test_the_clusters_generation_is_adopted_and_never_lowered(store: ConfigStore) -> None:
    assert store.apply([image(1)], at_least=7).security_generation == 7
    assert store.apply([image(2)], at_least=3).security_generation == 7
    assert store.apply([image(3), document("denied_host", "h", DENIED)], at_least=3).security_generation == 8
    assert store.apply([document("base_image", "image-1", None, 2)], at_least=9).security_generation == 9
    for bad in (-1, GENERATION_LIMIT + 1):
        with pytest.raises(Refusal, match="security_generation"):
            store.apply([], at_least=bad)


def test_the_workload_side_takes_its_own_kinds_only(path: Path) -> None:
    store = ConfigStore(path, "workload")
    with pytest.raises(Refusal, match="not a kind of side workload"):
        store.apply([image(1)])
    assert store.apply([document("trusted_key_provider", "p", {"group": "g"})]).changed
    store.close()


def test_files_are_private_from_the_first_byte(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    connect = sqlite3.connect

    def watching(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        connection: sqlite3.Connection = connect(*arguments, **keywords)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watching)
    before = os.umask(0)
    try:
        store = ConfigStore(path, "trust_authority")
        store.apply([image(1)])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert modes == {"config.db": 0o600, "config.db-wal": 0o600, "config.db-shm": 0o600}


def test_is_durable_as_configured(store: ConfigStore) -> None:
    assert store._one("PRAGMA journal_mode") == "wal"
    assert store._one("PRAGMA synchronous") == 2  # FULL


def _open_to_others(path: Path) -> None:
    path.touch()
    path.chmod(0o640)


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.touch(0o600)
    path.symlink_to(target)


def _other_database(path: Path) -> None:
    path.touch(0o600)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE other (x)")


def _newer_schema(path: Path) -> None:
    ConfigStore(path, "trust_authority").close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")


def _not_a_database(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)


def _missing_directory(path: Path) -> None:
    path.parent.rmdir()


UNUSABLE = [_open_to_others, _link, _other_database, _newer_schema, _not_a_database, _missing_directory]


@pytest.mark.parametrize("spoil", UNUSABLE, ids=lambda spoil: spoil.__name__.strip("_"))
def test_does_not_start_on_an_unusable_file(path: Path, spoil: Any) -> None:
    spoil(path)
    with pytest.raises(Refusal) as refused:
        ConfigStore(path, "trust_authority")
    assert refused.value.code == "configuration_store_unusable"
    assert str(path) in refused.value.message


def test_a_failing_disk_is_a_refusal_and_changes_nothing(store: ConfigStore) -> None:
    store.apply([image(1)])
    store._database.execute(f"PRAGMA max_page_count = {store._one('PRAGMA page_count')}")
    with pytest.raises(Refusal) as refused:
        store.apply([image(number, display_name="x" * 200) for number in range(2, 200)])
    assert (refused.value.code, refused.value.status) == ("configuration_store_failed", 503)
    assert store.documents() == [image(1)]
    store._database.execute("PRAGMA max_page_count = 100000")
    assert store.apply([image(2)]).changed

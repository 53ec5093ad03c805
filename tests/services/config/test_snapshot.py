# SPDX-License-Identifier: GPL-3.0-or-later
"""The published snapshot: read whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from services.config.documents_of import IMAGE, SCOPE, document, image

from trusted_infrastructure.config.documents import BaseImage, Scope
from trusted_infrastructure.config.snapshot import (
    SnapshotReader,
    parse_snapshot,
    publish,
    remove_leftovers,
    snapshot_of,
)
from trusted_infrastructure.refusal import Unavailable

DOCUMENTS = [image(2), image(1), document("scope", "s", SCOPE), document("base_image", "gone", None)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.json"


def test_reads_what_was_published(path: Path) -> None:
    digest = publish(path, snapshot_of("ta1", "trust_authority", 3, DOCUMENTS))
    snapshot = SnapshotReader(path).current()
    assert (snapshot.host, snapshot.side, snapshot.security_generation) == ("ta1", "trust_authority", 3)
    assert snapshot.digest == digest
    assert list(snapshot.documents("base_image", BaseImage)) == ["image-1", "image-2"]
    scope = snapshot.get("scope", "s", Scope)
    assert scope is not None and scope.providers == ["provider-1"]
    assert snapshot.get("scope", "other", Scope) is None
    assert dict(snapshot.documents("key_provider")) == {}


def test_the_digest_does_not_depend_on_the_order(path: Path) -> None:
    forward = publish(path, snapshot_of("ta1", "trust_authority", 3, DOCUMENTS))
    assert publish(path, snapshot_of("ta1", "trust_authority", 3, DOCUMENTS[::-1])) == forward
    assert publish(path, snapshot_of("ta1", "trust_authority", 4, DOCUMENTS)) != forward


def test_asking_for_another_type_is_a_mistake(path: Path) -> None:
    publish(path, snapshot_of("ta1", "trust_authority", 0, DOCUMENTS))
    with pytest.raises(TypeError, match="scope"):
        SnapshotReader(path).current().documents("scope", BaseImage)


def test_reads_again_only_when_replaced(path: Path) -> None:
    publish(path, snapshot_of("ta1", "trust_authority", 1, DOCUMENTS))
    reader = SnapshotReader(path)
    first = reader.current()
    assert reader.current() is first
    publish(path, snapshot_of("ta1", "trust_authority", 2, DOCUMENTS))
    assert reader.current().security_generation == 2


def test_is_not_readable_by_others(path: Path) -> None:
    before = os.umask(0)
    try:
        publish(path, snapshot_of("ta1", "trust_authority", 1, []), group=0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in path.parent.iterdir()] == ["snapshot.json"]


def _whole(path: Path) -> bytes:
    publish(path, snapshot_of("ta1", "trust_authority", 1, DOCUMENTS))
    return path.read_bytes()


def test_every_torn_file_is_refused(path: Path) -> None:
    data = _whole(path)
    for length in range(len(data)):
        with pytest.raises(Unavailable):
            parse_snapshot(data[:length])


CHANGES = {
    "another generation": (b'"security_generation":1', b'"security_generation":0'),
    "another content": (IMAGE["display_name"].encode(), b"Image 9"),
    "another version": (b'"version":1', b'"version":2'),
    "an unknown field": (b'"host":', b'"more":1,"host":'),
    "no digest": (b'"digest":', b'"digest_":'),
}


@pytest.mark.parametrize(("found", "replaced"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_file_is_refused(path: Path, found: bytes, replaced: bytes) -> None:
    data = _whole(path)
    assert found in data
    path.write_bytes(data.replace(found, replaced))
    with pytest.raises(Unavailable) as refused:
        SnapshotReader(path).current()
    assert (refused.value.code, refused.value.status) == ("configuration_unavailable", 503)


def test_a_content_that_this_release_does_not_know_is_refused(path: Path) -> None:
    publish(path, snapshot_of("ta1", "trust_authority", 1, [document("base_image", "x", {"new": 1})]))
    with pytest.raises(Unavailable):
        SnapshotReader(path).current()


def test_nothing_published_is_unavailable_and_a_lost_file_is_not_served_from_memory(path: Path) -> None:
    reader = SnapshotReader(path)
    with pytest.raises(Unavailable, match="No such file"):
        reader.current()
    _whole(path)
    reader.current()
    path.unlink()
    with pytest.raises(Unavailable):
        reader.current()


def test_a_failed_publication_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _whole(path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        publish(path, snapshot_of("ta1", "trust_authority", 2, []))
    assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == ["snapshot.json"]


def test_leftovers_of_a_killed_process_are_removed(path: Path) -> None:
    _whole(path)
    path.with_name(".snapshot.json.0123").write_text("half")
    other = path.with_name("other.json")
    other.write_text("{}")
    remove_leftovers(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["other.json", "snapshot.json"]
    assert msgspec.json.decode(path.read_bytes())["security_generation"] == 1

# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents for tests: one valid content of each kind that the tests change."""

from __future__ import annotations

from typing import Any

from trusted_infrastructure.config.documents import Document, Generation

CLUSTER: dict[str, Any] = {
    "cluster": "domain-c1",
    "name": "Trust Authority",
    "state": "ENABLE",
    "group": "group-1",
    "peers": [{"host": "ta1", "public_name": "ta1"}, {"host": "ta2", "public_name": "ta2"}],
}
PRINCIPAL: dict[str, Any] = {
    "issuer": "https://workload-manager",
    "issuer_alias": "workload",
    "principal": {"id": {"name": "workload", "domain": "local"}, "type": "STS_USER"},
    "certificates": [["PEM one"]],
}
SCOPE: dict[str, Any] = {
    "principal": "https://workload-manager",
    "trusted_cluster": "domain-c9",
    "base_images": ["image-1", "image-2"],
    "providers": ["provider-1"],
}
DENIED: dict[str, Any] = {"host": "host1", "ek_digest": "ab" * 32}
CA: dict[str, Any] = {"cert_chain": ["PEM root"], "eku_exception": True}
EK: dict[str, Any] = {"public_key": "PEM key"}
SETTINGS: dict[str, Any] = {"require_endorsement_keys": True, "require_certificate_validation": True}
IMAGE: dict[str, Any] = {
    "image_version": "image-1",
    "display_name": "Image 1",
    "bank": "sha256",
    "pcrs": {"0": {"value": "00" * 32}},
}
PROVIDER: dict[str, Any] = {
    "master_key_id": "key-1",
    "servers": [{"name": "kms1", "address": {"hostname": "kms1", "port": 5696}}],
}


def document(
    kind: str, document_id: str, content: dict[str, Any] | None, counter: int = 1, epoch: int = 1
) -> Document:
    return Document(kind, document_id, Generation(epoch, counter), content)


def image(number: int, counter: int = 1, **changes: Any) -> Document:
    """Base image `image-<number>`."""
    content = {**IMAGE, "image_version": f"image-{number}", **changes}
    return document("base_image", f"image-{number}", content, counter)

# SPDX-License-Identifier: GPL-3.0-or-later
"""Which peers count: those in the Trust Authority Cluster's document *and* in the anchors.

Only local root writes the anchors: a manager can take a peer away, but cannot bring in one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trusted_infrastructure.config.documents import Peer, TrustAuthorityCluster
from trusted_infrastructure.config.snapshot import Snapshot
from trusted_infrastructure.refusal import Unavailable

CLUSTER_ID = "cluster"
HTTPS = 443


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of anchors/peers.json: a Trust Authority host that this one accepts."""

    host: str
    public_name: str


def accepted_peers(peers: Sequence[Peer], anchors: Sequence[Anchor]) -> tuple[list[Peer], list[str]]:
    """The peers that are also anchors, and what is wrong with the others, for people."""
    accepted, problems = [], []
    names = {anchor.host: anchor.public_name for anchor in anchors}
    for peer in peers:
        if names.get(peer.host) == peer.public_name:
            accepted.append(peer)
        else:
            problems.append(
                f"peer {peer.host!r} ({peer.public_name}) is not in this host's anchors: not used"
            )
    return accepted, problems


def other_members(snapshot: Snapshot, anchors: Path, host: str) -> list[Peer]:
    """The other hosts of the cluster that are also anchors; none where there is no cluster.

    anchors: anchors/peers.json. Raises Unavailable `configuration_unavailable`.
    """
    cluster = snapshot.get("trust_authority_cluster", CLUSTER_ID, TrustAuthorityCluster)
    others = [peer for peer in cluster.peers if peer.host != host] if cluster else []
    return accepted_peers(others, read_anchors(anchors))[0] if others else []


def read_anchors(path: Path) -> list[Anchor]:
    """anchors/peers.json. Raises Unavailable `configuration_unavailable`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Anchor])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a list of peers"
        raise Unavailable(
            "configuration_unavailable", f"{path}: {reason}", "Deploy the Trust Authority host again."
        ) from None


def url_of(peer: Peer, path: str) -> str:
    """A path at the public name of a peer's services."""
    port = "" if peer.port == HTTPS else f":{peer.port}"
    return f"https://{peer.public_name}{port}{path}"

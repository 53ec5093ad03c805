# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  types:
    description: Event ids. Without it, all types.
    type: list
    elements: str
    default: []
  hosts:
    description: Names of the hosts that events are about. Without it, all events.
    type: list
    elements: str
    default: []
  users:
    description: Users who caused events. A host that asks for a key is V(host:) and its name.
    type: list
    elements: str
    default: []
  objects:
    description: Ids or names of other things that events are about, such as a virtual machine or a key provider.
    type: list
    elements: str
    default: []
  key_ids:
    description: Ids of the keys that encryption events are about.
    type: list
    elements: str
    default: []
  operations:
    description: Operations of encryption events, such as V(create) or V(rewrap).
    type: list
    elements: str
    default: []
  since:
    description: The earliest time of events, in RFC 3339 with an offset.
    type: str
  until:
    description: The time before which events were, in RFC 3339 with an offset.
    type: str
  after:
    description:
      - The id after which events begin, in their order. To read all, V(0).
      - Without it, the latest events are read.
    type: int
"""

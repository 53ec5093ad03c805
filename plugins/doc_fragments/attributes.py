# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What every module that manages a resource offers.
    DOCUMENTATION = r"""
attributes:
  check_mode:
    support: full
    description:
      - Says what would change, and changes nothing. Where what can be read tells that the server will refuse it, check mode
        fails as well; where an earlier task of the same run may clear the way, it warns. Values are judged by the server
        when they are sent.
  diff_mode:
    support: full
    description: Shows the resource before and after; secrets never show.
  idempotent:
    support: full
    description: A second run with the same parameters changes nothing.
  action_group:
    support: full
    membership: [trusted.infrastructure.trusted]
    description: Use C(group/trusted.infrastructure.trusted) in C(module_defaults) to set the connection once.
"""

    # What every module that only reads offers.
    INFO = r"""
attributes:
  check_mode:
    support: full
    description: This module never changes anything.
  diff_mode:
    support: N/A
    description: This module never changes anything.
  idempotent:
    support: full
    description: This module never changes anything.
  action_group:
    support: full
    membership: [trusted.infrastructure.trusted]
    description: Use C(group/trusted.infrastructure.trusted) in C(module_defaults) to set the connection once.
"""

# SPDX-License-Identifier: GPL-3.0-or-later
"""Base images: capture the reference values of a host, and appraise evidence against them. Pure.

A base image says, for each PCR that it covers, either the events that extend it, as rules in order, or its
final value. docs/base_images.md.

Rules of appraisal
1. An image covers at least REQUIRED_PCRS: what runs before user space does. An image that leaves one of them
   out matches nobody, so that a careless import is not an open door.
2. Only the image's own bank counts, and only values that the TPM signed.
3. A PCR with `events`: the log explains the PCR's signed value by replay, and its events keep the rules, in
   order, no more and no fewer (`rules`). What the log says *about* an event (its data) counts only where it
   hashes to the event's digest.
4. A PCR with `value`: the signed value is that value. It is the only way for a PCR that something extends
   without logging it.
5. The host matches when all PCRs of one image match. It may boot in one of several states (staging an
   upgrade), but never in a mixture of two. Active and staged images are accepted, retired ones named.

Rules of capture (`capturing`)
- DEFAULT_PCRS are captured. Left out: 6 (what the machine's maker measures), 10 (IMA's list, which grows), 15
  (machine id, volume keys), 16 and 23 (open to everybody), 17 to 22 (dynamic launch). Others can be asked
  for.
- A PCR is captured by its events where the log explains its value, which gives refusals that name the event;
  by its value where it had no event, or was extended by somebody who is not in the firmware's log. 1 and 5
  hold what belongs to the machine: by value they are captured only when asked for.
- What differs between equal machines gets a rule instead of being left out.
- `userspace` is `verity` only where a measured command line holds the root hash; `ima` is never assumed.

What an image does not fix: the locality that PCR 0 starts from, when PCR 0 is covered by events.
"""

from trusted_infrastructure.base_images.appraisal import Difference, appraise, images_for, quote_selection
from trusted_infrastructure.base_images.capturing import DEFAULT_PCRS, capture, explained_pcrs
from trusted_infrastructure.base_images.exact import ExactPcrs
from trusted_infrastructure.base_images.prediction import foreseen_values, varying
from trusted_infrastructure.base_images.rules import BANKS, REQUIRED_PCRS, check_image
from trusted_infrastructure.base_images.userspace import Userspace, userspace_of
from trusted_infrastructure.base_images.wording import MAXIMUM_DESCRIPTION

__all__ = [
    "BANKS",
    "DEFAULT_PCRS",
    "MAXIMUM_DESCRIPTION",
    "REQUIRED_PCRS",
    "Difference",
    "ExactPcrs",
    "Userspace",
    "appraise",
    "capture",
    "check_image",
    "explained_pcrs",
    "foreseen_values",
    "images_for",
    "quote_selection",
    "userspace_of",
    "varying",
]

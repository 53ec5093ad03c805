# SPDX-License-Identifier: GPL-3.0-or-later
"""The short way to see that a PCR is as an image wants it, for PCRs whose rules leave no choice.

Where every rule of a PCR takes one event with one digest, there is one value that the PCR can have, and it
can be computed beforehand. A PCR with that value, which the log explains with as many events, was extended
with just those digests: another list that leads to the same value would be a collision of the hash. Types are
compared as ever. What does not match in this way is compared rule by rule, which also finds the words for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trusted_infrastructure.base_images.observed import Observed
from trusted_infrastructure.base_images.prediction import fixed_value
from trusted_infrastructure.config.documents import BaseImage, ReferencePcr


@dataclass(frozen=True, slots=True)
class _Expected:
    value: bytes
    types: list[str]


class ExactPcrs:
    """The PCRs of some images that have one possible value. Make it once for as long as the images stay."""

    def __init__(self, images: Collection[BaseImage]) -> None:
        self._images = tuple(images)  # kept alive, because their parts are told by identity
        self._expected = {
            id(reference): expected
            for image in self._images
            for pcr, reference in image.pcrs.items()
            if (expected := _expected(int(pcr), reference, image.bank)) is not None
        }
        self._values = {
            id(image): [
                (int(pcr), self._expected[id(reference)].value)
                for pcr, reference in image.pcrs.items()
                if id(reference) in self._expected
            ]
            for image in self._images
        }

    def excludes(self, image: BaseImage, values: Mapping[int, bytes]) -> bool:
        """Whether a PCR that can have one value only has another one. values: as the TPM signed them."""
        return any(values.get(pcr) != value for pcr, value in self._values.get(id(image), ()) if pcr != 0)

    def matches(self, pcr: int, reference: ReferencePcr, value: bytes, observed: Observed) -> bool | None:
        """Whether the events of a PCR keep the rules of `reference`, None where this way cannot tell.

        value: as the TPM signed it; the log must explain it.
        """
        expected = self._expected.get(id(reference))
        # A log may say that PCR 0 does not begin with zeros.
        if expected is None or (pcr == 0 and observed.log.start_locality):
            return None
        return value == expected.value and observed.types(pcr) == expected.types


def _expected(pcr: int, reference: ReferencePcr, bank: str) -> _Expected | None:
    value = None if reference.value is not None else fixed_value(pcr, reference, bank)
    if value is None:
        return None
    return _Expected(value, [kind for kind, _digest in reference.exact])

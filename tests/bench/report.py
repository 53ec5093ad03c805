# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures: a table for people, and JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured value. ratio_to_raw: by the raw P-256 verifications of the same run: a rate as a part of
    their rate, a time as the number of them that fit; None where that means nothing. wanted: what it should
    reach, in words."""

    name: str
    value: float
    unit: str
    ratio_to_raw: float | None = None
    wanted: str = ""


@dataclass
class Report:
    """The figures of one run. raw: P-256 verifications per second and core."""

    raw: float
    figures: list[Figure] = field(default_factory=list)

    def rate(self, name: str, value: float, wanted: str = "") -> None:
        """So many per second."""
        self.figures.append(Figure(name, round(value, 1), "1/s", round(value / self.raw, 4), wanted))

    def time(self, name: str, seconds: float, wanted: str = "") -> None:
        """So many seconds, shown in milliseconds."""
        self.figures.append(
            Figure(name, round(seconds * 1000, 3), "ms", round(seconds * self.raw, 2), wanted)
        )

    def plain(self, name: str, value: float, unit: str) -> None:
        """A value that no processor makes larger or smaller."""
        self.figures.append(Figure(name, round(value, 2), unit))

    def table(self) -> str:
        """For people. The ratio says what would be the same on another machine."""
        rows = [("", "", "", "of raw P-256", "wanted")]
        for one in self.figures:
            ratio = "" if one.ratio_to_raw is None else f"{one.ratio_to_raw:g}"
            rows.append((one.name, f"{one.value:,g}", one.unit, ratio, one.wanted))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}} {row[2]:<{widths[2]}}  "
            f"{row[3]:>{widths[3]}}  {row[4]}".rstrip()
            for row in rows
        )

    def markdown(self) -> str:
        """For docs/performance/README.md."""
        lines = ["| figure | value | of raw P-256 | wanted |", "| --- | ---: | ---: | --- |"]
        for one in self.figures:
            ratio = "" if one.ratio_to_raw is None else f"{one.ratio_to_raw:g}"
            lines.append(f"| {one.name} | {one.value:,g} {one.unit} | {ratio} | {one.wanted} |")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """JSON: a list of {name, value, unit, ratio_to_raw}."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{k: v for k, v in asdict(one).items() if k != "wanted"} for one in self.figures]
        path.write_text(json.dumps(rows, indent=2) + "\n")

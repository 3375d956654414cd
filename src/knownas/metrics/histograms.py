"""Histograms in plain cells: one for each bucket, one past all bounds, and one for the sum."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from prometheus_client.core import HistogramMetricFamily

from knownas.metrics.memory import Layout

BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001,
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Upper bounds of the latency buckets, in seconds."""

BOUNDS_NS: Final = [int(bound * 1e9) for bound in BUCKETS]
"""The same in nanoseconds."""

SIZES: Final = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000]
"""Upper bounds of the buckets of sizes."""


class Scale(NamedTuple):
    """The bounds of a histogram, and what it counts in."""

    bounds: Sequence[int]
    labels: Sequence[str]
    """The bounds, as they are told."""
    unit: float
    """How many of what is counted are one of what is told."""

    @property
    def cells(self) -> int:
        """How many cells a histogram takes."""
        return len(self.bounds) + 2


TIMES: Final = Scale(BOUNDS_NS, [*map(str, BUCKETS), "+Inf"], 1e9)
COUNTS: Final = Scale(SIZES, [*(str(float(size)) for size in SIZES), "+Inf"], 1)


class Histogram(NamedTuple):
    """Where a histogram stands in each slab."""

    scale: Scale
    buckets: int
    """The first of its cells."""

    @classmethod
    def make(cls, layout: Layout, scale: Scale) -> "Histogram":
        """Take the cells for one."""
        return cls(scale, layout.take(scale.cells))

    @property
    def total(self) -> int:
        """The cell of the sum."""
        return self.buckets + self.scale.cells - 1

    def note(self, cells: "memoryview[int]", value: int) -> None:
        """Count one value."""
        cells[self.buckets + bisect_left(self.scale.bounds, value)] += 1
        cells[self.total] += value

    def add_to(
        self, family: HistogramMetricFamily, labels: Sequence[str], totals: Sequence[int]
    ) -> int:
        """Add what all processes have counted, of their cells' totals; return how many it was.

        What is nothing is not added.
        """
        counted = 0
        buckets = []
        for index, label in enumerate(self.scale.labels):
            counted += totals[self.buckets + index]
            buckets.append((label, counted))
        if counted:
            told = totals[self.total] / self.scale.unit
            family.add_metric(labels, buckets=buckets, sum_value=told)
        return counted

"""How much work a drawing is on this device, and how much work the device does in a second.

Owns the arithmetic from measured durations to the work model and capacity, the tracking of
capacity while running, and the measuring itself. It knows the engine by its interface only and
must not import torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edge_node.clock import Clock
from edge_node.domain import Drawing, WorkModel
from edge_node.worker.memory_guard import is_out_of_memory

LOG = logging.getLogger(__name__)

# The smallest width whose throughput is within this share of the best is enough: wider batches
# would only delay their first rows.
THROUGHPUT_TOLERANCE = 0.03
# Each duration is the best of so many, unless they take longer than this together.
REPEATS = 3
REPEATED_S_MAX = 1.0
# Busy seconds after which a change of speed (throttling, a busy neighbour) shows by two thirds.
TRACKING_S = 20.0
# A change of speed by more than e^.1 that lasts is found by its sum of log ratios; a single step,
# however long, is a hiccup and counts at most as one of e^.5. So a halved speed is known after 3
# steps, one of 1.2 after 13.
CHANGE_IGNORED = 0.1
CHANGE_STEP_MAX = 0.5
CHANGE_CERTAIN = 1.0
CHANGE_STEPS_MIN = 3


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Durations in seconds, as measured or as documented for an emulated device.

    Attributes:
        reference_px: side of the square at which all but `size_step_s` was measured.
        guided_s: one guided step by number of rows, ascending from 1 row.
        unguided_s: one unguided step of one row.
        fixed_s: encoding an unknown prompt, decoding the latent and encoding the image.
        size_step_s: (width_px, height_px, seconds of a guided step of one row).
        row_bytes: memory that each further row of a guided step takes; 0 when not known.
    """

    reference_px: int
    guided_s: tuple[tuple[int, float], ...]
    unguided_s: float
    fixed_s: float
    size_step_s: tuple[tuple[int, int, float], ...] = ()
    row_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the engine plans and reports with.

    Attributes:
        guided_s: seconds of a guided reference step by number of rows, pace included.
        rows_max: rows that share a step.
        capacity: work units per second at `rows_max`.
        row_bytes: memory that each further row of the reference size takes, other sizes by their
            area; 0 when not known.
        tracking_s: busy seconds after which a slow change of speed shows by two thirds.
    """

    work_model: WorkModel
    guided_s: tuple[tuple[int, float], ...]
    rows_max: int
    capacity: float
    row_bytes: int = 0
    tracking_s: float = TRACKING_S

    def step_s(self, *, rho: float, width: float) -> float:
        """Expected seconds of a step of `width` guided rows of size cost `rho`."""
        return rho * _interpolated_s(self.guided_s, width)


def calibrated(
    measurements: Measurements, *, pace_s: float = 0.0, rows_limit: int | None = None
) -> Calibration:
    """Work model, width and capacity that follow from `measurements`.

    Args:
        measurements: durations without pace.
        pace_s: least duration of a work unit, an operator's choice.
        rows_limit: an operator's bound on the width.
    """
    unit_s = measurements.guided_s[0][1]
    work_model = WorkModel(
        fixed_steps=measurements.fixed_s / unit_s,
        unguided_ratio=min(1.0, measurements.unguided_s / unit_s),
        reference_px=measurements.reference_px,
        size_costs=tuple((w, h, step_s / unit_s) for w, h, step_s in measurements.size_step_s),
    )
    paced_s = tuple((rows, max(s, rows * pace_s)) for rows, s in measurements.guided_s)
    rows_max = chosen_width(paced_s, rows_limit=rows_limit)
    return Calibration(
        work_model=work_model,
        guided_s=paced_s,
        rows_max=rows_max,
        capacity=rows_max / _interpolated_s(paced_s, rows_max),
        row_bytes=measurements.row_bytes,
    )


def chosen_width(guided_s: Sequence[tuple[int, float]], *, rows_limit: int | None = None) -> int:
    """Smallest width whose throughput is within 3 % of the best, among those allowed."""
    allowed = [(rows, s) for rows, s in guided_s if rows_limit is None or rows <= rows_limit]
    best = max(rows / s for rows, s in allowed)
    return min(rows for rows, s in allowed if rows / s >= (1.0 - THROUGHPUT_TOLERANCE) * best)


def _interpolated_s(guided_s: Sequence[tuple[int, float]], width: float) -> float:
    """Seconds at `width`: linear between measured widths, proportional outside of them."""
    first, last = guided_s[0], guided_s[-1]
    if width <= first[0]:
        return first[1] * width / first[0]
    for (rows_a, s_a), (rows_b, s_b) in itertools.pairwise(guided_s):
        if width <= rows_b:
            return s_a + (s_b - s_a) * (width - rows_a) / (rows_b - rows_a)
    return last[1] * width / last[0]


@dataclass(kw_only=True)
class _Change:
    """Steps in a row that speak for a device that has become slower, or faster.

    Attributes:
        sign: 1 for slower, -1 for faster.
        evidence: sum of log ratios beyond what is ignored (the CUSUM of Page 1954).
        steps, expected_s, measured_s: of the steps since the evidence was last 0.
    """

    sign: int
    evidence: float = 0.0
    steps: int = 0
    expected_s: float = 0.0
    measured_s: float = 0.0

    def record_step(self, log_ratio: float, *, expected_s: float, measured_s: float) -> bool:
        """Takes in a step; True when a change is certain enough."""
        step = min(self.sign * log_ratio, CHANGE_STEP_MAX) - CHANGE_IGNORED
        self.evidence = max(0.0, self.evidence + step)
        if self.evidence == 0.0:
            self.steps, self.expected_s, self.measured_s = 0, 0.0, 0.0
            return False
        self.steps += 1
        self.expected_s += expected_s
        self.measured_s += measured_s
        return self.evidence > CHANGE_CERTAIN and self.steps >= CHANGE_STEPS_MIN


class CapacityTracker:
    """Capacity while running: the calibrated one times expected over measured step time.

    Comparing with the expectation for the width and size at hand, rather than counting work per
    second, keeps a lone narrow drawing from looking like a slow device. Slow drifts are followed by
    fading; a change of power mode or throttling, which no fading would follow in time, by a CUSUM
    test (Page 1954) that begins anew from the steps since the change.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._tracking_s = calibration.tracking_s
        self._expected_s = self._measured_s = calibration.tracking_s
        self._changes = (_Change(sign=1), _Change(sign=-1))

    @property
    def capacity(self) -> float:
        """Work units per second."""
        return self._calibration.capacity * self._expected_s / self._measured_s

    def step_s(self, *, rho: float, width: float) -> float:
        """Expected seconds of a step at the present capacity; as `Calibration.step_s`."""
        expected_s = self._calibration.step_s(rho=rho, width=width)
        return expected_s * self._measured_s / self._expected_s

    def record_step(self, *, rho: float, width: float, measured_s: float) -> None:
        """Takes in one step; older ones fade with the seconds that it took."""
        expected_s = self._calibration.step_s(rho=rho, width=width)
        if not (measured_s > 0.0 and expected_s > 0.0):
            return
        tracked_s = expected_s * self._measured_s / self._expected_s
        times = {"expected_s": expected_s, "measured_s": measured_s}
        log_ratio = math.log(measured_s / tracked_s)
        certain = [one for one in self._changes if one.record_step(log_ratio, **times)]
        if certain:
            self._expected_s, self._measured_s = certain[0].expected_s, certain[0].measured_s
            self._changes = (_Change(sign=1), _Change(sign=-1))
            return
        counted_s = min(measured_s, tracked_s * math.exp(CHANGE_STEP_MAX))
        kept = math.exp(-counted_s / self._tracking_s)
        self._expected_s = kept * self._expected_s + expected_s
        self._measured_s = kept * self._measured_s + counted_s


Row = TypeVar("Row")


class Measurable(Protocol[Row]):
    """The part of an engine that is measured."""

    def begin(self, drawing: Drawing, init_image: bytes) -> Row:
        """Row of a new drawing."""
        ...

    def step(self, rows: Sequence[Row]) -> None:
        """One denoising step of all `rows`."""
        ...


class Peak(Protocol):
    """What a watch of memory tells when it is over."""

    @property
    def growth_bytes(self) -> int:
        """The most that was in use meanwhile, beyond what was in use before."""
        ...


def measure(
    engine: Measurable[Row],
    *,
    finish: Callable[[Row], object],
    reference_px: int,
    widths: Sequence[int],
    sizes_px: Sequence[tuple[int, int]],
    clock: Clock,
    budget_s: float,
    watch: Callable[[], AbstractContextManager[Peak]] | None = None,
) -> Measurements:
    """Runs the engine on made-up drawings and returns what it took; the best of a few each.

    Args:
        engine: loaded; its first step may compile and tune, and is not counted.
        finish: what is done with a row after its last step.
        reference_px: side of the reference size.
        widths: rows to try, ascending from 1.
        sizes_px: other sizes to measure at one row.
        clock: to measure with.
        budget_s: further widths and sizes are left out once this much time is spent; the
            first width and the fixed cost are always measured.
        watch: watches memory as long as it is entered; without it rows have no size.
    """
    started_s = clock.now_s()
    guided = _probe(reference_px, reference_px)
    engine.step([engine.begin(guided, b"")])
    guided_s, row_bytes = _by_width(
        engine, guided, widths=widths, clock=clock, until_s=started_s + budget_s / 2, watch=watch
    )
    unguided = dataclasses.replace(guided, guidance_scale=1.0)
    unguided_s = _best_step_s(engine, drawing=unguided, rows=1, clock=clock)
    fixed_s = _fixed_s(engine, drawing=guided, finish=finish, clock=clock)
    size_step_s: list[tuple[int, int, float]] = []
    for width_px, height_px in sizes_px:
        if clock.now_s() - started_s > budget_s:
            break
        drawing = _probe(width_px, height_px)
        engine.step([engine.begin(drawing, b"")])
        step_s = _best_step_s(engine, drawing=drawing, rows=1, clock=clock)
        size_step_s.append((width_px, height_px, step_s))
    return Measurements(
        reference_px=reference_px,
        guided_s=guided_s,
        unguided_s=unguided_s,
        fixed_s=fixed_s,
        size_step_s=tuple(size_step_s),
        row_bytes=row_bytes,
    )


def _by_width(
    engine: Measurable[Row],
    drawing: Drawing,
    *,
    widths: Sequence[int],
    clock: Clock,
    until_s: float,
    watch: Callable[[], AbstractContextManager[Peak]] | None,
) -> tuple[tuple[tuple[int, float], ...], int]:
    """Seconds of a step by number of rows, and the memory that each further row took."""
    guided_s: list[tuple[int, float]] = []
    growths_bytes: list[int] = []
    for rows in widths:
        if guided_s and clock.now_s() > until_s:
            break
        try:
            with watch() if watch else nullcontext() as peak:
                step_s = _best_step_s(engine, drawing=drawing, rows=rows, clock=clock)
        except Exception as error:
            if not guided_s or not is_out_of_memory(error):
                raise
            LOG.warning("%d rows do not fit into memory: at most %d", rows, guided_s[-1][0])
            break
        guided_s.append((rows, step_s))
        growths_bytes.append(peak.growth_bytes if peak else 0)
    more_bytes, further = growths_bytes[-1] - growths_bytes[0], guided_s[-1][0] - guided_s[0][0]
    return tuple(guided_s), max(0, more_bytes) // max(1, further)


def _probe(width_px: int, height_px: int) -> Drawing:
    return Drawing(
        prompt="calibration",
        width_px=width_px,
        height_px=height_px,
        steps=4,
        guidance_scale=5.0,
        seed=0,
        model="",
    )


def _best_step_s(engine: Measurable[Row], *, drawing: Drawing, rows: int, clock: Clock) -> float:
    batch = [engine.begin(drawing, b"") for _ in range(rows)]
    durations_s: list[float] = []
    # A step that is long is measured well enough by one of it.
    while len(durations_s) < REPEATS and sum(durations_s) < REPEATED_S_MAX:
        before_s = clock.now_s()
        engine.step(batch)
        durations_s.append(clock.now_s() - before_s)
    return min(durations_s)


def _fixed_s(
    engine: Measurable[Row], *, drawing: Drawing, finish: Callable[[Row], object], clock: Clock
) -> float:
    durations_s: list[float] = []
    while len(durations_s) < REPEATS and sum(durations_s) < REPEATED_S_MAX:
        # A prompt of its own each time, because a known one costs nothing to encode; one step,
        # because before the last one a picture is but a preview.
        prompt = f"calibration of a prompt {len(durations_s)}"
        fresh = dataclasses.replace(drawing, prompt=prompt, steps=1)
        before_s = clock.now_s()
        row = engine.begin(fresh, b"")
        begun_s = clock.now_s() - before_s
        engine.step([row])
        before_s = clock.now_s()
        finish(row)
        durations_s.append(begun_s + clock.now_s() - before_s)
    return min(durations_s)

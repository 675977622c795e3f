"""Steps that two engines share: as fast as they should be, the same picture, and no harm done."""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_node.checkpoint import Latents
from edge_node.clock import SystemClock
from edge_node.domain import AttemptFailed, AttemptFinished, Drawing, Fence, TaskId
from edge_node.peering import rows_codec
from edge_node.shared_rows import (
    ANOTHER_MODEL,
    BUSY,
    NO_ANSWER,
    NO_MEMORY,
    NOBODY_IDLE,
    UNUSABLE,
    RowGiven,
    RowWanted,
)
from edge_node.worker import emulated, tiny_sd3
from edge_node.worker.attempts import Report
from edge_node.worker.engine_limits import EngineLimits
from edge_node.worker.step_engine import StepEngine
from tests.worker.oracle import denoiser

pytestmark = pytest.mark.model
IMAGES = int(os.environ.get("HELPED_IMAGES", "16"))
STEP_S = 0.1
PROFILE = emulated.profile("orin-64gb-maxn")


def drawing(**changes: Any) -> Drawing:
    base = {
        "prompt": "a red circle",
        "width_px": 64,
        "height_px": 64,
        "steps": 6,
        "guidance_scale": 5.0,
        "seed": 1,
        "model": "",
    }
    return Drawing(**{**base, **changes})


class Device:
    """An engine, and who helps it: by messages as they travel."""

    def __init__(self, build: Callable[[], Any], **limits: Any) -> None:
        self.engine: StepEngine[Any] = StepEngine(
            build, limits=EngineLimits(**limits), clock=SystemClock(), on_change=lambda: None
        )
        self.engine.start()
        self.given: list[RowGiven] = []
        self.wanted: list[RowWanted] = []
        self._drawn = 0

    def ready(self) -> Device:
        give_up_s = time.monotonic() + 60.0
        while self.engine.describe().state != "ready":
            assert time.monotonic() < give_up_s, self.engine.describe()
            time.sleep(0.01)
        return self

    def helped_by(self, give: Callable[[RowWanted, Callable[[RowGiven], None]], None]) -> None:
        def ask(wanted: RowWanted) -> None:
            self.wanted.append(wanted)
            travelled = rows_codec.wanted_from_proto(rows_codec.wanted_to_proto(wanted))
            give(travelled, self.answered)

        self.engine.sharing.ask_by(ask)

    def answered(self, given: RowGiven) -> None:
        self.given.append(given)
        travelled = rows_codec.given_from_proto(rows_codec.given_to_proto(given))
        self.engine.sharing.answered(travelled)

    def give(self, wanted: RowWanted, on_given: Callable[[RowGiven], None]) -> None:
        """What it is asked for by another one."""
        self.engine.give_row(wanted, on_given)

    def begin(self, one: Drawing) -> tuple[list[Report], threading.Event]:
        reports: list[Report] = []
        ended = threading.Event()
        self._drawn += 1

        def on_report(report: Report) -> None:
            reports.append(report)
            if isinstance(report, AttemptFinished | AttemptFailed):
                ended.set()

        self.engine.submit(
            task_id=TaskId(f"n-{self._drawn}"),
            fence=Fence(1, 1),
            drawing=one,
            priority=0,
            on_report=on_report,
        )
        return reports, ended

    def draw(self, one: Drawing) -> tuple[np.ndarray, float]:
        """Its pixels, and how long it took."""
        began_s = time.monotonic()
        reports, ended = self.begin(one)
        assert ended.wait(60.0)
        took_s = time.monotonic() - began_s
        last = reports[-1]
        assert isinstance(last, AttemptFinished), last
        return np.asarray(PillowImage.open(io.BytesIO(last.image.content)), dtype=int), took_s


def emulating(step_s: float = STEP_S) -> Callable[[], Any]:
    scale = PROFILE.guided_step_s / step_s
    return lambda: emulated.EmulatedDenoiser(PROFILE, model_name="m", time_scale=scale)


def tiny() -> Any:
    return denoiser(tiny_sd3.model_folder(), "float32")


@contextlib.contextmanager
def devices(*builds: Callable[[], Any], **limits: Any) -> Iterator[list[Device]]:
    made = [Device(build, **limits) for build in builds]
    try:
        yield [one.ready() for one in made]
    finally:
        for one in made:
            one.engine.stop(wait_s=10.0)


@pytest.fixture(scope="module")
def three() -> Iterator[list[Device]]:
    """Of the tiny model, whose calibration takes longer than most tests."""
    with devices(tiny, tiny, tiny) as made:
        yield made


BIG = {"width_px": 512, "height_px": 512, "steps": 12}


def test_an_idle_equal_device_nearly_halves_a_drawing_and_is_not_taken_for_speed() -> None:
    with devices(emulating(), emulating()) as (here, there):
        _, alone_s = here.draw(drawing(**BIG))
        capacity = here.engine.load().capacity
        here.helped_by(there.give)
        _, took_s = here.draw(drawing(**BIG))
        assert sum(one.velocity is not None for one in here.given) == 12
        assert took_s < 0.75 * alone_s
        assert here.engine.load().capacity == pytest.approx(capacity, rel=0.1)
        assert there.engine.load().steps_done == 0


def test_a_faster_one_is_waited_for_and_a_row_of_the_own_one_is_the_least() -> None:
    with devices(emulating(), emulating(STEP_S / 4)) as (here, there):
        here.helped_by(there.give)
        _, took_s = here.draw(drawing(**BIG))
        assert took_s > 11 * STEP_S / 2 + STEP_S


@pytest.fixture
def unforgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was waited for in vain is not asked again while the test lasts."""
    monkeypatch.setattr("edge_node.shared_rows.MISSED_S", 60.0)


@pytest.mark.usefixtures("unforgiving")
def test_one_that_freezes_costs_one_step_at_most_and_is_not_asked_again_soon() -> None:
    with devices(emulating(), emulating()) as (here, there):
        _, alone_s = here.draw(drawing(**BIG))
        asked: list[RowWanted] = []

        def freezing(wanted: RowWanted, on_given: Callable[[RowGiven], None]) -> None:
            asked.append(wanted)
            if len(asked) < 3:
                there.give(wanted, on_given)

        here.helped_by(freezing)
        _, took_s = here.draw(drawing(**BIG))
        assert len(asked) == 3
        assert took_s < alone_s + STEP_S


@pytest.mark.usefixtures("unforgiving")
def test_one_that_gives_numbers_that_are_none_costs_half_a_step() -> None:
    with devices(emulating(), emulating()) as (here, there):
        _, alone_s = here.draw(drawing(**BIG))

        def lying(wanted: RowWanted, on_given: Callable[[RowGiven], None]) -> None:
            def lie(given: RowGiven) -> None:
                assert given.velocity is not None
                short = Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=bytes(2))
                on_given(replace(given, velocity=short))

            there.give(wanted, lie)

        here.helped_by(lying)
        _, took_s = here.draw(drawing(**BIG))
        assert len(here.given) == 2  # the one that was not waited for, and the one that was
        assert took_s < alone_s + 0.75 * STEP_S


def test_own_work_comes_first_and_waits_for_the_row_under_way_at_most() -> None:
    with devices(emulating(), emulating()) as (here, there):
        here.helped_by(there.give)
        _, ended = here.begin(drawing(**BIG, seed=2))
        give_up_s = time.monotonic() + 10.0
        while len(here.given) < 3:
            assert time.monotonic() < give_up_s
            time.sleep(0.005)
        _, took_s = there.draw(drawing(**{**BIG, "steps": 4}, seed=3))
        assert took_s < 4 * STEP_S + STEP_S / 2 + 0.25
        assert ended.wait(10.0)
        assert BUSY in {one.refused for one in here.given}


def test_who_draws_two_at_once_asks_nobody(three: list[Device]) -> None:
    here, there, _ = three
    here.wanted.clear()
    here.helped_by(there.give)
    rows = here.engine._ready_rows
    rows._width.rows = 2
    endings = [here.begin(drawing(seed=seed, steps=10))[1] for seed in range(2)]
    assert all(ended.wait(60.0) for ended in endings)
    # But for the step that the first may do before the second has come, and the last ones.
    assert len(here.wanted) < 10


def test_paced_devices_take_the_pace_of_the_rows_that_they_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One that this machine kept from being in time is asked again at once.
    monkeypatch.setattr("edge_node.shared_rows.MISSED_S", 0.0)
    # So slow that a row takes many times what this machine needs for it, whatever else it does.
    pace_s = 0.5
    with devices(tiny, tiny, pace_s=pace_s) as (here, there):
        here.helped_by(there.give)
        _, took_s = here.draw(drawing(steps=6))
        ratios = [one.engine.describe().work_model.unguided_ratio for one in (here, there)]
        given = [one for one in here.given if one.velocity is not None]
        assert len(given) >= 3
        assert min(one.took_s for one in given) >= 0.99 * ratios[1] * pace_s
        assert took_s > pace_s + 5 * ratios[0] * pace_s


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fingerprint": "another"}, ANOTHER_MODEL),
        ({"drawing": drawing(guidance_scale=1.0)}, UNUSABLE),
        ({"drawing": drawing(width_px=2048)}, UNUSABLE),
        ({"step": 6}, UNUSABLE),
        ({"latents": Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=bytes(2))}, UNUSABLE),
    ],
)
def test_what_cannot_be_computed_is_refused(
    three: list[Device], changes: dict[str, Any], why: str
) -> None:
    there = three[1]
    assert row_of(there, wanted_of(there)).velocity is not None
    given = row_of(there, replace(wanted_of(there), **changes))
    assert (given.velocity, given.refused) == (None, why)


def test_a_row_that_memory_does_not_bear_is_refused(
    three: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = three[1]
    rows = there.engine._ready_rows
    monkeypatch.setattr(rows, "_calibration", replace(rows._calibration, row_bytes=1000))
    assert row_of(there, wanted_of(there)).velocity is not None
    monkeypatch.setattr(rows, "_floor_bytes", 2**60)
    assert row_of(there, wanted_of(there)).refused == NO_MEMORY


def wanted_of(there: Device) -> RowWanted:
    """A row that it can compute."""
    return RowWanted(
        task_id=TaskId("n-1"),
        fence=Fence(1, 1),
        drawing=drawing(),
        fingerprint=there.engine.describe().model_fingerprint,
        step=0,
        latents=Latents(dtype="float32", shape_CHW=(8, 16, 16), latent=bytes(8192)),
        pair_s=1.0,
        row_s=0.5,
    )


def row_of(there: Device, wanted: RowWanted) -> RowGiven:
    """What it says to that."""
    given: list[RowGiven] = []
    told = threading.Event()

    def on_given(one: RowGiven) -> None:
        given.append(one)
        told.set()

    there.give(wanted, on_given)
    assert told.wait(30.0)
    return given[0]


class Unreliable:
    """Helpers that are killed, frozen, join and leave at random, and answers that come late."""

    def __init__(self, helpers: list[Device], seed: int) -> None:
        self._helpers = helpers
        self._random = random.Random(seed)
        self.fates: dict[str, int] = {}

    def give(self, wanted: RowWanted, on_given: Callable[[RowGiven], None]) -> None:
        fates = ("good", "good", "good", "good", "away", "killed", "frozen", "late", "lies")
        fate = self._random.choice(fates)
        self.fates[fate] = self.fates.get(fate, 0) + 1
        helper = self._random.choice(self._helpers)
        match fate:
            case "good":
                helper.give(wanted, on_given)
            case "away":
                on_given(wanted.refused(NOBODY_IDLE))
            case "killed":
                on_given(wanted.refused(NO_ANSWER))
            case "late":
                wait_s = self._random.uniform(0.0, 0.05)
                helper.give(
                    wanted, lambda given: threading.Timer(wait_s, on_given, [given]).start()
                )
            case "lies":
                nan = np.full(2048, np.nan, dtype=np.float32).tobytes()
                lie = Latents(dtype="float32", shape_CHW=(8, 16, 16), latent=nan)
                on_given(wanted.computed(lie, took_s=0.0))


def test_images_drawn_with_helpers_that_come_and_go_are_those_drawn_alone(
    three: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as `HELPED_IMAGES` says; a frozen helper is forgotten sooner than it would be."""
    monkeypatch.setattr("edge_node.shared_rows.MISSED_S", 0.01)
    monkeypatch.setattr("edge_node.shared_rows.ANSWER_S_MAX", 0.05)
    monkeypatch.setattr("edge_node.shared_rows.ASK_AGAIN_S", 0.0)
    here, *helpers = three
    here.given.clear()
    unreliable = Unreliable(helpers, seed=1)
    for seed in range(IMAGES):
        one = drawing(
            prompt=f"a {('red', 'blue', 'green')[seed % 3]} circle",
            negative_prompt="a square" if seed % 2 else "",
            seed=seed,
            steps=8,
        )
        here.engine.sharing.ask_by(lambda _: None)
        alone, _ = here.draw(one)
        here.helped_by(unreliable.give)
        helped, _ = here.draw(one)
        assert np.abs(alone - helped).max() <= 1, (seed, unreliable.fates)
    assert sum(one.velocity is not None for one in here.given) > 2 * IMAGES
    assert len(unreliable.fates) == 6 or IMAGES < 8, unreliable.fates

"""What is simulated, with units: servers, tasks, links, state reports and disturbances.

Owns the numbers of an experiment and their validation; draws nothing. Work is counted in
Gcycles, as the paper does; a scenario of real devices may count in any other unit, as long as
capacity is that unit per second.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal


class InvalidScenario(ValueError):
    """A scenario has an impossible value; the message names the field and the value."""


@dataclass(frozen=True, kw_only=True)
class CapacityChange:
    """From `at_s` on, `server` works at `factor` times its first capacity; 0 is an outage.

    Attributes:
        at_s: when, in seconds from the start.
        server: index of the server in the order of falling capacity (0: the fastest), so that
            one scenario means the same for every draw of capacities.
        factor: of the capacity that the scenario gave the server.
    """

    at_s: float
    server: int
    factor: float


@dataclass(frozen=True, kw_only=True)
class ModelServed:
    """One of several models that tasks ask for.

    Attributes:
        servers: those that draw it, by their index in the order of falling capacity, as in
            `CapacityChange`.
        share: of the tasks; the shares of all models make 1.
    """

    servers: tuple[int, ...]
    share: float


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One experiment. The defaults are the paper's (Table III) as its code reads them.

    Attributes:
        name: as the command lines give it.
        servers: B, stations and servers alike.
        capacity_range: integer capacities are drawn from it, both ends included; Gcycles/s.
        capacities: given instead of drawn; Gcycles/s.
        task_arrivals: "slotted": every dispatcher has 1..tasks_per_slot_max tasks at the start of
            each slot; "poisson": every dispatcher has Poisson arrivals, together `load` times
            what all servers can work off.
        tasks_per_slot_max: N, slotted only.
        load: Poisson only.
        slots: scored slots; the paper's 60 are 59 in its code, for the last is never served.
        slot_s: length of a slot in seconds. A Poisson run lasts slots x slot_s.
        dispatchers: stations with tasks of their own: all of them, or only the first (FDEdge).
        station_order: within a slot station 0 is served first ("index", as in the code), or a
            new order is drawn each slot ("random").
        input_mbit: range of the upload d, Mbit.
        result_mbit: range of the result, Mbit.
        density_range: rho, work per denoising step (Gcycles).
        steps_range: z, half-open as in the code: (1, 15) draws 1..14.
        steps_tail: None, or the exponent of a Pareto distribution of steps that starts at
            steps_range[0] and is cut at steps_range[1] - 1.
        work_per_mbit: work is density x input instead of density x steps (FDEdge).
        tasks_by_index: rho, z and result depend on the index in the slot only and are the same
            for all stations, slots and episodes (docs/paper.md, "tasks by index"); otherwise
            every task draws its own.
        link_mbit_s: range of the rate to each destination, integers, both ends included.
        refresh_s: the servers' backlogs are published at multiples of it; 0: the true state is
            always seen.
        capacity_published: published states carry the current capacity; otherwise the first
            capacity is believed for ever.
        changes: capacity changes in mid-run.
        models: what tasks ask for and who draws it, a server perhaps several; (): every server
            draws every task. A station need not draw what it is asked for.
        capacity_seed, link_seed, task_seed: of the authors' legacy generator (numpy RandomState).
    """

    name: str
    servers: int = 20
    capacity_range: tuple[int, int] = (10, 50)
    capacities: tuple[float, ...] | None = None
    task_arrivals: Literal["slotted", "poisson"] = "slotted"
    tasks_per_slot_max: int = 50
    load: float | None = None
    slots: int = 59
    slot_s: float = 1.0
    dispatchers: Literal["all", "first"] = "all"
    station_order: Literal["index", "random"] = "index"
    input_mbit: tuple[float, float] = (2.0, 5.0)
    result_mbit: tuple[float, float] = (0.6, 1.0)
    density_range: tuple[float, float] = (0.1024, 0.3072)
    steps_range: tuple[int, int] = (1, 15)
    steps_tail: float | None = None
    work_per_mbit: bool = False
    tasks_by_index: bool = True
    link_mbit_s: tuple[int, int] = (400, 500)
    refresh_s: float = 1.0
    capacity_published: bool = True
    changes: tuple[CapacityChange, ...] = ()
    models: tuple[ModelServed, ...] = ()
    capacity_seed: int = 2
    link_seed: int = 5
    task_seed: int = 1

    def __post_init__(self) -> None:
        """Refuses what cannot be simulated."""
        _require(self.servers >= 1, "servers", self.servers, "at least 1")
        _require(self.slots >= 1, "slots", self.slots, "at least 1")
        _require(
            self.tasks_per_slot_max >= 1, "tasks_per_slot_max", self.tasks_per_slot_max, ">= 1"
        )
        for field in ("slot_s",):
            value = getattr(self, field)
            _require(math.isfinite(value) and value > 0, field, value, "positive")
        _require(
            math.isfinite(self.refresh_s) and self.refresh_s >= 0,
            "refresh_s",
            self.refresh_s,
            "0 or more",
        )
        for field in (
            "capacity_range",
            "input_mbit",
            "result_mbit",
            "density_range",
            "steps_range",
            "link_mbit_s",
        ):
            low, high = getattr(self, field)
            good = math.isfinite(low) and math.isfinite(high) and 0 < low <= high
            _require(good, field, (low, high), "a rising pair of positive numbers")
        _require(
            self.steps_range[0] < self.steps_range[1],
            "steps_range",
            self.steps_range,
            "half-open and not empty",
        )
        good = self.steps_tail is None or (math.isfinite(self.steps_tail) and self.steps_tail > 0)
        _require(good, "steps_tail", self.steps_tail, "positive")
        if self.capacities is not None:
            _require(
                len(self.capacities) == self.servers,
                "capacities",
                self.capacities,
                f"one for each of {self.servers} servers",
            )
            for value in self.capacities:
                _require(math.isfinite(value) and value > 0, "capacities", value, "positive")
        if self.task_arrivals == "poisson":
            good = self.load is not None and math.isfinite(self.load) and self.load > 0
            _require(good, "load", self.load, "positive, as Poisson arrivals need it")
        else:
            _require(
                self.load is None, "load", self.load, "None, as slotted arrivals have their own"
            )
        for field in ("capacity_seed", "link_seed", "task_seed"):
            value = getattr(self, field)
            _require(0 <= value < 2**32, field, value, "in 0..2^32 - 1")
        self._check_changes()
        self._check_models()

    def _check_changes(self) -> None:
        for change in self.changes:
            _require(
                0 <= change.server < self.servers,
                "changes.server",
                change.server,
                f"in 0..{self.servers - 1}",
            )
            _require(
                math.isfinite(change.at_s) and change.at_s >= 0,
                "changes.at_s",
                change.at_s,
                "0 or more",
            )
            _require(
                math.isfinite(change.factor) and change.factor >= 0,
                "changes.factor",
                change.factor,
                "0 or more",
            )

    def _check_models(self) -> None:
        for model in self.models:
            known = set(range(self.servers))
            good = len(model.servers) > 0 and set(model.servers) <= known
            _require(good, "models.servers", model.servers, f"some of 0..{self.servers - 1}")
            good = math.isfinite(model.share) and model.share > 0
            _require(good, "models.share", model.share, "positive")
        if self.models:
            total = math.fsum(model.share for model in self.models)
            _require(abs(total - 1.0) < 1e-6, "models.share", total, "1 in all")

    def replace(self, **changes: object) -> Scenario:
        """The same scenario with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _require(good: bool, field: str, value: object, wanted: str) -> None:
    if not good:
        raise InvalidScenario(f"{field} is {value!r}; it must be {wanted}")

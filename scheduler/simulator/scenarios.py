"""The scenarios that have names, and scenarios from TOML files.

Owns the numbers of the named experiments and where they come from; checks a file's keys and types,
while impossible values are refused by `Scenario` itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from scheduler.simulator.scenario import CapacityChange, InvalidScenario, ModelServed, Scenario

DEFAULT = Scenario(name="default")

# fp16 dense TFLOPS that NVIDIA documents for the Jetson AGX Orin 64 GB in each power mode. They
# are the capacities of emulated devices; nothing here was measured on one.
ORIN_MAXN, ORIN_50W, ORIN_30W, ORIN_15W = 42.6, 26.7, 10.0, 5.0
ORIN_LOADS = (0.5, 0.8, 0.95, 1.2)
ORIN_MEAN_SERVICE_S = 3.5  # on the fastest
ORIN_STEPS = (10, 20)  # half-open: 10..19, as the paper's captions
# Two models and a variant of the first: shares are about those of the capacity that draws each.
_ORIN_MODELS = (
    ModelServed(servers=(0, 2, 4), share=0.5),
    ModelServed(servers=(0,), share=0.15),
    ModelServed(servers=(1, 3), share=0.35),
)
_ORIN_STEP = ORIN_MEAN_SERVICE_S * ORIN_MAXN / ((ORIN_STEPS[0] + ORIN_STEPS[1] - 1) / 2)


def names() -> tuple[str, ...]:
    """Every name that `get` knows."""
    return tuple(_NAMED)


def get(name: str) -> Scenario:
    """A named scenario.

    Raises:
        InvalidScenario: no scenario has this name; the message says which is nearest.
    """
    if name not in _NAMED:
        raise InvalidScenario(f"no scenario is called {name!r}{_nearest(name, names())}")
    return _NAMED[name][0]


def description(name: str) -> str:
    """What a named scenario is for, in a sentence."""
    get(name)
    return _NAMED[name][1]


def load(path: Path) -> Scenario:
    """A scenario from a TOML file.

    The file holds fields of `Scenario`; what it leaves out is as in the scenario named by its key
    `base` ("default" if there is none). Ranges are arrays of two, `changes` and `models` arrays of
    tables. The name is the file's unless it gives one.

    Raises:
        InvalidScenario: the file cannot be read, a key is unknown, or a value has the wrong type
            or is impossible; the message names file, key and value.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidScenario(f"{path} is no readable TOML file: {error}") from error
    try:
        base = get(_checked("base", str, table.pop("base", "default")))
        return base.replace(**{"name": path.stem} | _fields_of(Scenario, table, ""))
    except InvalidScenario as error:
        raise InvalidScenario(f"{path}: {error}") from error


def _fields_of(kind: type, table: dict[str, Any], where: str) -> dict[str, object]:
    """The table's values as the dataclass `kind` wants them."""
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            known = (*hints, "base") if kind is Scenario else tuple(hints)
            raise InvalidScenario(f"unknown key {where + key!r}{_nearest(key, known)}")
    return {key: _checked(where + key, hints[key], value) for key, value in table.items()}


def _checked(key: str, hint: Any, value: object) -> Any:
    """A TOML value as the type `hint`; arrays become tuples, tables changes or models."""
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _checked(key, arms[0], value)  # TOML has no null
    if origin is Literal:
        return _is(value in arms, key, value, "one of " + ", ".join(map(repr, arms)))
    if origin is tuple:
        open_ended = arms[-1] is Ellipsis
        good = isinstance(value, list) and (open_ended or len(value) == len(arms))
        items = _is(good, key, value, "an array" if open_ended else f"an array of {len(arms)}")
        each = [arms[0]] * len(items) if open_ended else arms
        return tuple(_checked(key, arm, one) for arm, one in zip(each, items, strict=True))
    if hint in (CapacityChange, ModelServed):
        fields = {field.name for field in dataclasses.fields(hint)}
        wanted = f"a table of {', '.join(sorted(fields))}"
        table = _is(isinstance(value, dict), key, value, wanted)
        values = _fields_of(hint, table, f"{key}.")
        return hint(**_is(values.keys() == fields, key, values, wanted))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[
        hint
    ]
    return _is(type(value) is hint, key, value, wanted)


def _is(good: bool, key: str, value: Any, wanted: str) -> Any:
    if not good:
        raise InvalidScenario(f"{key} is {value!r}; it must be {wanted}")
    return value


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _change(at_s: float, server: int, factor: float) -> CapacityChange:
    return CapacityChange(at_s=at_s, server=server, factor=factor)


def _of_the_paper() -> dict[Scenario, str]:
    """The default and one field of it at a time."""
    named = {DEFAULT: "The paper's (Table III): 20 servers at load 1.24, 59 slots of 1 s."}
    for servers in (10, 20, 30, 40):
        named[DEFAULT.replace(name=f"B={servers}", servers=servers)] = f"{servers} servers."
    for tasks in (30, 38, 40, 50, 70):
        text = f"1..{tasks} tasks per station and slot."
        scenario = DEFAULT.replace(name=f"N={tasks}", tasks_per_slot_max=tasks)
        if tasks == 40:
            # At load .975, queues have not settled after 59 slots.
            scenario, text = scenario.replace(slots=300), f"{text[:-1]}, over 300 slots."
        named[scenario] = text
    for fastest in (30, 50, 70):
        scenario = DEFAULT.replace(name=f"f_max={fastest}", capacity_range=(10, fastest))
        named[scenario] = f"Capacities of 10..{fastest} Gcycles/s."
    for steps in (10, 15, 20):
        scenario = DEFAULT.replace(name=f"z_max={steps}", steps_range=(1, steps))
        named[scenario] = f"1..{steps - 1} denoising steps, half-open as in the authors' code."
    return named


def _beyond_the_paper() -> dict[Scenario, str]:
    """Other tasks than the paper's."""
    fdedge = DEFAULT.replace(
        name="fdedge",
        servers=10,
        dispatchers="first",
        tasks_per_slot_max=100,
        slots=100,
        input_mbit=(10.0, 40.0),
        work_per_mbit=True,
        tasks_by_index=False,
    )
    heavy_tail = DEFAULT.replace(
        name="heavy_tail",
        tasks_per_slot_max=40,
        steps_range=(3, 301),
        steps_tail=1.5,
        tasks_by_index=False,
    )
    # An uncompressed 8-bit RGB image has 6.3 Mbit at 512x512 and 25.2 Mbit at 1024x1024, so that
    # sending it takes as long as drawing on a fast server. Few enough tasks for this to matter.
    image_to_image = DEFAULT.replace(
        name="image_to_image", tasks_per_slot_max=30, input_mbit=(6.3, 25.2)
    )
    return {
        fdedge: "FDEdge (Xu et al., IEEE TMC 2025): one master places all tasks; work by Mbit.",
        heavy_tail: "Steps of a Pareto distribution, 3..300: few tasks are most of the work.",
        image_to_image: "Tasks bring an initial image of 6..25 Mbit; load .73.",
    }


def _disturbed() -> dict[Scenario, str]:
    """The default with old reports or changing servers."""
    drop = DEFAULT.replace(
        name="capacity_drop", changes=tuple(_change(20.0, server, 0.1) for server in (0, 1))
    )
    drift = DEFAULT.replace(
        name="drift",
        changes=(
            # The fastest throttles and recovers, one fades, one speeds up, one does both.
            *(_change(8.0 * k, 0, 1.0 - 0.12 * k) for k in range(1, 6)),
            _change(52.0, 0, 1.0),
            *(_change(10.0 * k, 4, 1.0 - 0.1 * k) for k in range(1, 6)),
            *(_change(12.0 * k, 9, 1.0 + 0.15 * k) for k in range(1, 5)),
            _change(15.0, 14, 0.5),
            _change(35.0, 14, 1.5),
        ),
    )
    outage = DEFAULT.replace(name="outage", changes=(_change(20.0, 0, 0.0), _change(35.0, 0, 1.0)))
    return {
        DEFAULT.replace(name="stale_5", refresh_s=5.0): "Queues are reported every 5 slots.",
        DEFAULT.replace(name="stale_10", refresh_s=10.0): "Queues are reported every 10 slots.",
        drop: "The two fastest servers drop to 10 % at slot 20 and report it.",
        drop.replace(
            name="capacity_drop_believed", capacity_published=False
        ): "The two fastest servers drop to 10 % at slot 20; the old capacity is believed.",
        drift: "Four servers' capacities drift in steps, down, up and back.",
        outage: "The fastest server is away from 20 to 35 s.",
    }


def _orins() -> dict[Scenario, str]:
    """Five emulated Orins on a wired LAN: MAXN, 50 W, 50 W, 30 W and 15 W."""
    switches = (
        _change(600.0, 0, ORIN_50W / ORIN_MAXN),
        _change(1200.0, 1, ORIN_MAXN / ORIN_50W),
        _change(1800.0, 0, ORIN_15W / ORIN_MAXN),
        _change(2400.0, 3, ORIN_MAXN / ORIN_30W),
        _change(3000.0, 0, 1.0),
    )
    named = {}
    for load in ORIN_LOADS:
        steady = Scenario(
            name=f"orins_{load:g}",
            servers=5,
            capacities=(ORIN_MAXN, ORIN_50W, ORIN_50W, ORIN_30W, ORIN_15W),
            task_arrivals="poisson",
            load=load,
            slots=3600,
            # A prompt of a kilobyte, and a 512x512 image as PNG.
            input_mbit=(0.008, 0.008),
            result_mbit=(2.0, 4.0),
            density_range=(_ORIN_STEP, _ORIN_STEP),
            steps_range=ORIN_STEPS,
            tasks_by_index=False,
            link_mbit_s=(940, 940),  # what gigabit Ethernet carries of TCP
            refresh_s=0.05,
        )
        named[steady] = f"Five Orins in mixed power modes, an hour at load {load:g}."
        drifting = steady.replace(name=f"orins_drift_{load:g}", changes=switches)
        named[drifting] = f"The same at first load {load:g}; devices switch their power mode."
        believed = drifting.replace(name=f"orins_drift_believed_{load:g}", capacity_published=False)
        named[believed] = "The same, but the capacities at the start are believed for ever."
        mixed = steady.replace(name=f"orins_models_{load:g}", models=_ORIN_MODELS)
        named[mixed] = "The five Orins at first, with two models, one of them with a LoRA variant."
    return named


_NAMED = {
    scenario.name: (scenario, text)
    for group in (_of_the_paper(), _beyond_the_paper(), _disturbed(), _orins())
    for scenario, text in group.items()
}

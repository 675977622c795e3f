from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from benchmarks.recorded_cluster import run_cluster
from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.guard.candidates import rule_factory
from scheduler.guard.live_replay import (
    BATCHES,
    TASKS_MIN,
    ChosenRule,
    choose_rule,
    judge,
    newest_of_last_lives,
    play,
    relative_bounds,
    replay,
    window_of,
)
from scheduler.guard.replayed_reports import Arrival
from scheduler.guard.verdict import ReplayVerdict
from scheduler.observation import Observation, Traffic
from scheduler.policy import Decision, Outcome, Policy
from scheduler.registry import create
from scheduler.simulator import scenarios
from scheduler.simulator.queueing import FloatArray
from scheduler.simulator.workload import draw

RULE = "slow_server_aware"
MARGIN = 0.01


def factory(name: str) -> Callable[[np.random.Generator], Policy]:
    return lambda rng: create(name, rng=rng)


@cache
def ran(
    name: str, load: str = "0.8", slots: int = 1800, seed: int = 1, age_s: float = 0.05
) -> tuple[list[RecordedDecision], FloatArray]:
    scenario = scenarios.get(f"orins_{load}").replace(slots=slots)
    episode = draw(scenario, np.random.default_rng(seed))
    rngs = [np.random.default_rng((seed, station)) for station in range(episode.servers)]
    return run_cluster(episode, lambda station: create(name, rng=rngs[station]), age_s=age_s)


def verdict_on(
    records: list[RecordedDecision], name: str, *, rule: str = RULE, seed: int = 0
) -> ReplayVerdict:
    found = replay(
        records,
        version="v",
        learned=factory(name),
        chosen=ChosenRule(name=rule, means_s={}),
        rule=factory(rule),
        seed=seed,
        judged_unix_s=5.0,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("age_s", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("name", [RULE, "least_expected_delay", "least_queue"])
def test_what_was_done_is_played_as_it_was(name: str, age_s: float) -> None:
    records, delay_s_N = ran(name, age_s=age_s)
    window = window_of(records, np.random.default_rng(0))
    assert window.recorded == len(window.arrivals) == len(records)
    played = play(window, factory(name), fallback=factory(RULE), seed=0)
    # Times of the day have microseconds, so that a choice at a tie may differ.
    assert played.delay_s_N.mean() == pytest.approx(delay_s_N.mean(), rel=5e-3)
    assert np.median(abs(played.delay_s_N - delay_s_N)) < 1e-4


@pytest.mark.parametrize("recorded", [RULE, "power_of_two"])
def test_all_records_give_the_simulators_gaps(recorded: str) -> None:
    records, _ = ran(recorded)
    base_s = ran(RULE)[1].mean()
    for name in ("least_expected_delay", "least_queue", "lad_ts_plus"):
        gap = ran(name)[1].mean() / base_s - 1.0
        assert verdict_on(records, name).worse == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("recorded", [RULE, "power_of_two"])
@pytest.mark.parametrize("node", ["node-0", "node-4"])
def test_one_nodes_records_rank_policies_as_the_cluster_does(recorded: str, node: str) -> None:
    records = [record for record in ran(recorded, slots=3600)[0] if record.node_id == node]
    found = {
        name: verdict_on(records, name)
        for name in ("lad_ts_plus", "least_expected_delay", "power_of_two", "capacity_random")
    }
    worse = [verdict.worse for verdict in found.values()]
    assert worse == sorted(worse)
    assert found["lad_ts_plus"].surely_not_worse(MARGIN)
    for name in ("least_expected_delay", "power_of_two", "capacity_random"):
        assert found[name].surely_worse(MARGIN), found[name]


def test_others_are_as_busy_as_the_measured_load_says() -> None:
    records, _ = ran(RULE, slots=3600)
    window = window_of(
        [record for record in records if record.node_id == "node-0"], np.random.default_rng(0)
    )
    work = sum(arrival.seen.work for arrival in window.arrivals)
    capacity = float(records[0].observation.capacity_B.sum())
    assert work / capacity / window.arrivals[-1].at_s == pytest.approx(0.8, rel=0.05)
    assert {arrival.node_id for arrival in window.arrivals} == set(window.arrivals[0].seen.node_ids)


def test_an_idle_night_brings_no_work_of_others() -> None:
    records = [record for record in ran(RULE)[0] if record.node_id == "node-0"]
    quiet = replace(records[200].observation, backlog_B=np.zeros(5), own_B=np.zeros(5))
    assert quiet.traffic is not None
    quiet = replace(quiet, traffic=replace(quiet.traffic, load=0.001))
    night_s = 36_000.0
    later = [
        replace(record, decided_unix_s=record.decided_unix_s + night_s)
        for record in [replace(records[200], observation=quiet), *records[201:]]
    ]
    window = window_of([*records[:200], *later], np.random.default_rng(0))
    dusk = records[199].decided_unix_s - records[0].decided_unix_s
    by_night = [a for a in window.arrivals if dusk < a.at_s < dusk + night_s]
    assert len(by_night) < 20


def test_a_policy_is_never_worse_than_itself() -> None:
    verdict = verdict_on(ran("power_of_two")[0], RULE)
    assert (verdict.worse_low, verdict.worse_high) == (0.0, 0.0)


def test_equals_with_a_coin_are_called_worse_as_rarely_as_stated() -> None:
    found = []
    for seed in range(12):
        records = ran("power_of_two", load="0.5", slots=900, seed=100 + seed)[0]
        for toss in range(5):
            coins = 1000 * seed + 10 * toss  # the same again would bring the same luck
            found.append(verdict_on(records, "power_of_two", rule="power_of_two", seed=coins))
    # 5 % at most of 60, and what chance adds to it: seven have a chance under 4 %.
    assert sum(verdict.surely_worse(0.0) for verdict in found) <= 6
    assert sum(verdict.surely_worse(MARGIN) for verdict in found) <= 6


def test_half_a_percent_is_settled_by_a_window() -> None:
    found = verdict_on(ran(RULE, slots=3600)[0], "lad_ts_plus")
    assert found.worse_high - found.worse_low < 0.05


class Broken:
    def decide(self, observation: Observation) -> Decision:
        raise ValueError("nan")

    def record(self, outcome: Outcome) -> None: ...


class ChoosesTheDead(Broken):
    def decide(self, observation: Observation) -> Decision:
        return Decision(choice=len(observation.node_ids), policy="learned")


@pytest.mark.parametrize("broken", [Broken, ChoosesTheDead])
def test_failures_are_the_rules_as_live(broken: type[Broken]) -> None:
    records = ran(RULE)[0]
    found = replay(
        records,
        version="v",
        learned=lambda rng: broken(),
        chosen=ChosenRule(name=RULE, means_s={}),
        rule=factory(RULE),
        seed=0,
        judged_unix_s=5.0,
    )
    assert found is not None
    assert found.failed == len(records)
    assert found.worse == 0.0


def test_capacities_are_those_measured_then() -> None:
    records = ran(RULE)[0]
    half = len(records) // 2
    slower = [
        replace(
            record,
            observation=replace(record.observation, capacity_B=record.observation.capacity_B * 0.5),
        )
        for record in records[half:]
    ]
    window = window_of([*records[:half], *slower], np.random.default_rng(0))
    assert len(window.since_s_K) == 2
    np.testing.assert_allclose(window.capacity_KS[1], window.capacity_KS[0] / 2)


def test_only_the_newest_membership_is_played() -> None:
    records = ran(RULE)[0]
    former = replace(records[9].observation, node_ids=("a", "b", "c", "d", "e"))
    changed = [replace(records[9], observation=former)]
    window = window_of([*records[:9], *changed, *records[10:]], np.random.default_rng(0))
    assert window.recorded == len(records) - 10


def test_latents_come_from_an_earlier_slot() -> None:
    seen: list[FloatArray | None] = []

    class Remembers(Broken):
        def decide(self, observation: Observation) -> Decision:
            seen.append(observation.latent_B)
            return Decision(choice=0, policy="p", latent_B=np.full(5, float(len(seen))))

    base = next(record for record in ran(RULE)[0] if record.node_id == "node-0")
    base = replace(base, observation=replace(base.observation, node_ids=("node-0",) * 5))
    slots = [(0, 0), (0, 1), (1, 0), (1, 1), (3, 0)]
    records = [
        replace(base, decided_unix_s=float(i), slot=slot, index_in_slot=index)
        for i, (slot, index) in enumerate(slots)
    ]
    window = window_of(records, np.random.default_rng(0))
    play(window, lambda rng: Remembers(), fallback=factory(RULE), seed=0)
    assert [None if one is None else one[0] for one in seen] == [None, None, 1.0, 2.0, 3.0]


def test_too_few_decisions_say_nothing() -> None:
    records = ran(RULE)[0]
    assert judged([pooled(i, record) for i, record in enumerate(records[: TASKS_MIN - 1])]) is None
    assert judged([]) is None


def pooled(sequence: int, record: RecordedDecision, life: str = "1") -> PooledDecision:
    return PooledDecision(life=life, sequence=sequence, recorded=record)


def judged(
    entries: list[PooledDecision],
    window_tasks: int = 299,
    rules: tuple[str, ...] = (RULE, "local"),
    in_force: str = RULE,
) -> ReplayVerdict | None:
    return judge(
        entries,
        window_tasks=window_tasks,
        version="v",
        learned=factory("lad_ts_plus"),
        rules={name: rule_factory(name) for name in rules},
        in_force=in_force,
        judged_unix_s=5.0,
    )


def test_the_newest_decisions_of_the_last_life_are_judged_once() -> None:
    records = ran(RULE)[0]
    former = [pooled(i, record, "0") for i, record in enumerate(records[:300])]
    present = [pooled(i, record) for i, record in enumerate(records[300:650])]
    found = judged([*present, *former, *present])
    assert found is not None
    # A third of them is less than a hundred: all of them compare, and nothing is chosen.
    assert (found.tasks, found.version, found.rule) == (299, "v", RULE)
    assert found.rule_means_s == {}
    few = judged([*former, *present[:50]])
    assert few is None


def test_the_last_lives_of_all_nodes_are_judged_together() -> None:
    records = ran(RULE)[0][:300]
    nodes = sorted({record.node_id for record in records})
    assert len(nodes) > 1
    # Each node numbers its own; the first has begun anew after its first decisions.
    began = {node_id: f"{at}-{node_id}" for at, node_id in enumerate(nodes)}
    entries = [pooled(i, record, began[record.node_id]) for i, record in enumerate(records)]
    whole = judged(entries)
    assert whole is not None
    assert whole.tasks == 299
    of_first = [i for i, record in enumerate(records) if record.node_id == nodes[0]]
    for i in of_first[10:]:
        entries[i] = pooled(i, records[i], f"9-{nodes[0]}")
    later = judged(entries)
    assert later is not None
    assert later.tasks == 290


def test_the_oldest_third_chooses_and_the_rest_compares() -> None:
    records = ran(RULE)[0][:600]
    entries = [pooled(i, record) for i, record in enumerate(records)]
    found = judged(entries, 600, in_force="local")
    older = choose_rule(
        records[:200],
        rules={name: factory(name) for name in (RULE, "local")},
        in_force="local",
        seed=0,
    )
    newer = verdict_on(records[200:], "lad_ts_plus")
    assert found == replace(newer, rule_means_s=older.means_s)
    assert older.means_s[RULE] < 0.5 * older.means_s["local"]
    # A single rule is not chosen: all decisions compare.
    alone = judged(entries, 600, rules=("local",), in_force="local")
    assert alone is not None
    assert (alone.rule, alone.tasks, alone.rule_means_s) == ("local", 600, {})


def test_only_decisions_among_the_present_candidates_choose() -> None:
    records = ran(RULE)[0][:600]
    gone = [
        replace(one, observation=replace(one.observation, node_ids=("a", "b", "c", "d", "e")))
        for one in records[:150]
    ]
    entries = [pooled(i, record) for i, record in enumerate([*gone, *records[150:]])]
    found = judged(entries, 600)
    assert found is not None
    assert found.tasks == 300


def test_equals_do_not_take_turns() -> None:
    records = ran("power_of_two", load="0.5", slots=900)[0]
    rules = {f"coin {number}": factory("power_of_two") for number in range(4)}
    in_force, lead = "coin 0", 0
    for seed in range(12):
        chosen = choose_rule(records, rules=rules, in_force=in_force, seed=10 * seed)
        lead += min(chosen.means_s, key=chosen.means_s.__getitem__) != in_force
        in_force = chosen.name
    # Eleven times of twelve another one was ahead by chance, and never so that it counted.
    assert (in_force, lead) == ("coin 0", 11)


def test_the_best_rule_of_a_cluster_is_found_in_one_nodes_decisions() -> None:
    """Twenty devices, reports 2 s old: the rule in force herds, and the ring is really the best."""
    scenario = scenarios.get("orins_0.8").replace(
        servers=20, capacities=(42.6, 26.7, 26.7, 10.0, 5.0) * 4, slots=400
    )
    episode = draw(scenario, np.random.default_rng(3))

    def run(name: str) -> tuple[list[RecordedDecision], FloatArray]:
        rngs = [np.random.default_rng((3, station)) for station in range(20)]
        return run_cluster(episode, lambda station: rule_factory(name)(rngs[station]), age_s=2.0)

    rules = (RULE, "power_of_two", "least_expected_delay", "ring")
    real_s = {name: run(name)[1].mean() for name in rules}
    records = [one for one in run(RULE)[0] if one.node_id in ("node-0", "node-7")]
    chosen = choose_rule(
        records, rules={name: rule_factory(name) for name in rules}, in_force=RULE, seed=1
    )
    assert min(real_s, key=real_s.__getitem__) == chosen.name == "ring"
    assert real_s["ring"] < 0.9 * real_s["power_of_two"] < 0.9 * real_s[RULE]
    assert sorted(chosen.means_s, key=chosen.means_s.__getitem__)[:2] == ["ring", "power_of_two"]


def test_bounds_hold_the_ratio_and_narrow() -> None:
    rng = np.random.default_rng(5)
    theirs = rng.exponential(size=4000)
    ours = theirs * 1.1 + 0.2 * rng.standard_normal(4000)
    low, high = relative_bounds(ours, theirs)
    assert low < 0.1 < high
    assert high - low < 0.03
    few_low, few_high = relative_bounds(ours[: 4 * BATCHES], theirs[: 4 * BATCHES])
    assert few_high - few_low > high - low


@pytest.mark.parametrize(
    ("nodes", "name", "expected"),
    [
        (1, "lad_ts_plus", (9.426589650, 9.404466265, -0.00952304419, 0.0142279121)),
        (1, "power_of_two", (13.70571287, 9.404466265, 0.292062672, 0.622661562)),
        (5, "lad_ts_plus", (7.894131881, 8.017548200, -0.0310274214, 0.000240872675)),
        (5, "power_of_two", (12.11123383, 8.017548200, 0.379745051, 0.641436368)),
    ],
)
def test_the_figures_of_a_run(nodes: int, name: str, expected: tuple[float, ...]) -> None:
    """Found once, for others' arrivals, ages, latents and bounds all go into them."""
    asked = {f"node-{node}" for node in range(nodes)}
    records = [record for record in ran(RULE)[0] if record.node_id in asked]
    found = verdict_on(records, name, seed=3)
    figures = (found.learned_mean_s, found.rule_mean_s, found.worse_low, found.worse_high)
    assert figures == pytest.approx(expected, rel=1e-6)
    assert (found.tasks, found.failed) == (len(records), 0)
    assert (found.version, found.rule, found.judged_unix_s) == ("v", RULE, 5.0)


def test_bounds_of_two_lines_by_hand() -> None:
    """Opposite trends are one long batch: the correlation found is cut off at its largest."""
    low, high = relative_bounds(np.arange(1.0, 41.0), np.arange(41.0, 1.0, -1.0))
    ratio, batches = 820 / 860, 20
    residual = np.array([(4 * j + 3) - ratio * (81 - 4 * j) for j in range(batches)]) / 43
    spread = np.sqrt((residual**2).sum() / (batches - 1) / batches * 1.8 / 0.2)
    # 19 batches are worth two; Student's 95 % quantile for two is 2.92.
    assert (high - low) / 2 == pytest.approx(2.919986 * spread, rel=1e-5)
    assert (high + low) / 2 == pytest.approx(ratio - 1)


# Others' work, by hand.


def decided(
    at_s: float, *, load: tuple[float, float], choice: int, work: float = 6.0, **changes: object
) -> RecordedDecision:
    """A decision of node a, beside the silent node b, each of 2 work units per second."""
    seen = Observation(
        node_ids=("a", "b"),
        local=0,
        work=work,
        input_bits=8,
        backlog_B=np.array(load),
        own_B=np.zeros(2),
        capacity_B=np.full(2, 2.0),
        link_s_B=np.array([0.0, 0.5]),
        staleness_s_B=np.array([0.0, 0.25]),
        alive_B=np.ones(2, np.bool_),
    )
    return RecordedDecision(
        decision_id=f"{at_s}",
        node_id="a",
        decided_unix_s=1e9 + at_s,
        slot=int(at_s // 4),
        index_in_slot=0,
        steps=1,
        observation=replace(seen, **changes),  # type: ignore[arg-type]
        decision=Decision(choice=choice, policy="p"),
    )


def others(records: list[RecordedDecision], seed: int = 0) -> list[Arrival]:
    window = window_of(records, np.random.default_rng(seed))
    assert window.recorded == len(records)
    return [arrival for arrival in window.arrivals if arrival.node_id != "a"]


def test_what_backlogs_showed_is_what_others_placed() -> None:
    first = decided(0.0, load=(4.0, 1.0), choice=0)
    # Own work is 10 - 2 x 2 = 6 at a; b has nothing left of its 1, and 18 are seen there.
    second = decided(2.0, load=(6.0, 18.0), choice=1)
    # a: 6 - 4 = 2 of 3 seen; b: 18 + 6 - 4 = 20 of 19 seen: one more at a, which makes no task.
    third = decided(4.0, load=(3.0, 19.0), choice=0)
    found = others([third, first, second])
    assert len(found) == 3
    assert all(0.0 < one.at_s < 2.0 and one.node_id == "b" for one in found)
    assert [(one.slot, one.index_in_slot) for one in found] == [(0, 0), (0, 1), (0, 2)]
    assert [one.at_s for one in found] == sorted(one.at_s for one in found)
    one = found[0].seen
    # b and a change places.
    assert (one.local, one.work, one.latent_B) == (1, 6.0, None)
    assert one.link_s_B.tolist() == [0.5, 0.0]
    assert one.staleness_s_B.tolist() == [0.25, 0.0]


def test_what_is_not_a_whole_task_yet_is_owed() -> None:
    calm = [decided(0.0, load=(0.0, 0.0), choice=0)]
    # Four more of others' at b each time, where the last ones were drawn within the two seconds.
    calm += [decided(2.0 * n, load=(2.0, 4.0), choice=0, work=4.0) for n in range(1, 4)]
    calm = [replace(one, observation=replace(one.observation, work=6.0)) for one in calm]
    own = [replace(one, decision=Decision(choice=0, policy="p")) for one in calm]
    assert [int(one.at_s // 2.0) for one in others(own)] == [1, 2]


def test_what_came_and_went_unseen_is_as_much_as_the_load_says() -> None:
    traffic = Traffic(mean_work=6.0, load=0.75, report_period_s=0.1)
    records = [
        decided(at_s, load=(0.0, 0.0), choice=0, traffic=traffic) for at_s in (0.0, 10.0, 40.0)
    ]
    # .75 x 4 x 40 s are 120 units, of which this node placed 12 after its first: 18 tasks.
    found = others(records)
    assert len(found) == 18
    assert sum(one.at_s < 10.0 for one in found) in (4, 5)
    # Where a node may not be chosen it draws nothing of it.
    down = [
        replace(r, observation=replace(r.observation, alive_B=np.array([True, False])))
        for r in records
    ]
    assert len(others(down)) == 8


def test_no_work_and_no_decision_are_nothing_to_play() -> None:
    idle = decided(0.0, load=(0.0, 0.0), choice=0, work=0.0)
    for records in ([], [idle]):
        with pytest.raises(ValueError, match="no decision to play again"):
            window_of(records, np.random.default_rng(0))
    entries = [pooled(index, idle) for index in range(200)]
    assert judged(entries) is None


def test_a_task_is_late_by_its_link_its_queue_and_its_own_work() -> None:
    records = [decided(0.0, load=(4.0, 1.0), choice=0), decided(2.0, load=(6.0, 0.0), choice=1)]
    records = [replace(one, observation=replace(one.observation, work=6.0)) for one in records]
    window = window_of(records, np.random.default_rng(0))
    played = play(window, lambda rng: Always(1), fallback=factory(RULE), seed=0)
    # 1 + 6 at 2 a second over half a second of link; 3 are left after 2 s, and 6 come.
    assert played.delay_s_N.tolist() == [4.0, 5.0]


def test_a_task_whose_candidate_never_works_again_counts_as_a_failed_one() -> None:
    records = [decided(0.0, load=(0.0, 0.0), choice=0, capacity_B=np.array([2.0, 0.0]))]
    window = window_of(records, np.random.default_rng(0))
    played = play(window, lambda rng: Always(1), fallback=factory(RULE), seed=0)
    assert played.delay_s_N.tolist() == [60.0]


class Always(Broken):
    """Chooses one candidate, and keeps what it saw."""

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.seen: list[Observation] = []

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return Decision(choice=self.choice, policy="p")


def test_reports_are_as_old_as_they_were() -> None:
    """Own dispatches that a report cannot hold yet are own work, not backlog."""
    aged = {"staleness_s_B": np.array([0.0, 1.0]), "queued_B": np.zeros(2)}
    records = [
        decided(at_s, load=(0.0, 0.0), choice=0, **aged)  # type: ignore[arg-type]
        for at_s in (0.0, 0.5, 1.0, 1.25)
    ]
    watching = Always(1)
    window = window_of(records, np.random.default_rng(0))
    play(window, lambda rng: watching, fallback=factory(RULE), seed=0)
    assert [one.own_B.tolist() for one in watching.seen] == [
        *([0.0, 0.0], [0.0, 6.0], [0.0, 6.0], [0.0, 12.0]),
    ]
    assert [one.backlog_B.tolist() for one in watching.seen] == [
        *([0.0, 0.0], [0.0, 0.0], [0.0, 4.0], [0.0, 3.5]),
    ]
    queued = [one.queued_B.tolist() for one in watching.seen if one.queued_B is not None]
    assert queued == [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]


def test_two_models_are_played_together_as_they_would_be_apart() -> None:
    def of(model: str, seed: int) -> list[RecordedDecision]:
        return [
            replace(
                record,
                node_id=f"{model}-{record.node_id}",
                model=model,
                observation=replace(
                    record.observation,
                    node_ids=tuple(f"{model}-{n}" for n in record.observation.node_ids),
                ),
            )
            for record in ran(RULE, slots=600, seed=seed)[0]
        ]

    a, b = of("a", 1), of("b", 2)
    both = window_of([*a, *b], np.random.default_rng(0))
    assert both.recorded == len(a) + len(b)
    assert len(both.servers) == 10
    for name in (RULE, "ring", "lad_ts_plus"):
        apart = [
            play(
                window_of(one, np.random.default_rng(0)),
                factory(name),
                fallback=factory(RULE),
                seed=0,
            )
            for one in (a, b)
        ]
        together = play(both, factory(name), fallback=factory(RULE), seed=0)
        assert together.failed == 0
        expected = np.concatenate([one.delay_s_N for one in apart]).mean()
        assert together.delay_s_N.mean() == pytest.approx(expected, rel=5e-3)


def test_a_models_candidates_that_change_cut_the_window_and_another_models_do_not() -> None:
    one, two = decided(0.0, load=(1.0, 1.0), choice=0), decided(2.0, load=(1.0, 1.0), choice=0)
    theirs = replace(
        decided(1.0, load=(1.0, 1.0), choice=0),
        node_id="c",
        model="other",
        observation=replace(one.observation, node_ids=("c", "d")),
    )
    assert window_of([one, theirs, two], np.random.default_rng(0)).recorded == 3
    before = replace(theirs, observation=replace(one.observation, node_ids=("c", "e")))
    later = replace(theirs, decided_unix_s=two.decided_unix_s + 1.0)
    assert window_of([one, before, two, later], np.random.default_rng(0)).recorded == 2


def test_others_place_tasks_of_each_model_among_its_own_nodes() -> None:
    def of(model: str, at_s: float, backlog: float) -> RecordedDecision:
        one = decided(at_s, load=(0.0, backlog), choice=0)
        names = ("a", "b") if model == "m" else ("c", "d")
        seen = replace(one.observation, node_ids=names, local=0)
        return replace(one, node_id=names[0], model=model, observation=seen)

    records = [of(model, at_s, 8.0) for at_s in range(0, 20, 2) for model in ("m", "other")]
    window = window_of(records, np.random.default_rng(0))
    invented = [a for a in window.arrivals if a.node_id in ("b", "d")]
    assert {(a.node_id, a.seen.node_ids) for a in invented} == {
        ("b", ("a", "b")),
        ("d", ("c", "d")),
    }


def test_a_task_that_moved_is_played_once() -> None:
    records, _ = ran(RULE)
    pooled = [
        PooledDecision(
            life="1",
            sequence=number,
            recorded=replace(one, decision_id=f"t{number // 2}/7.{1 + number % 2}"),
        )
        for number, one in enumerate(records[:200])
    ]
    kept = newest_of_last_lives(pooled, 1000)
    assert [one.decision_id for one in kept] == [f"t{number}/7.1" for number in range(100)]

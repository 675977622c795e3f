"""Every Prometheus metric of a node, and nothing else that counts.

Work is in work units (domain.WorkModel). No prompt and no identifier is ever a label.

| metric (prefix dedgeai_) | unit, labels | formula |
|---|---|---|
| tasks_accepted_total | tasks | tasks that this origin said yes to |
| tasks_refused_total | tasks; code | tasks refused by admission or store before acceptance |
| moderated_total | requests and images; stage, verdict | that an operator's judge was asked about |
| tasks_finished_total | tasks; status, code | tasks of this origin that became final |
| tasks_in_flight | tasks | accepted here and not final |
| service_delay_seconds | s; executor | arrival at the origin to the stored image, if completed |
| queue_seconds | s; executor | waiting at the executor, as measured there, if completed |
| compute_seconds | s; executor | computing at the executor, as measured there, if completed |
| attempts_ended_total | attempts; executor, outcome | this origin's attempts by how they ended |
| replacements_total | attempts; reason | attempts that ended unwanted, for another to follow |
| decisions_total | decisions; policy, reason | placements made; reason: a word of scheduler.guard |
| learned_share | 0..1 | of the last guard_window_tasks decisions, by the learned policy |
| guard_worse_share | share | learned mean delay over the rule's - 1; last replay of these weights |
| guard_rule | 0 or 1; rule | whether it is the one that stands in and is compared with |
| decision_seconds | s | view of the cluster to a chosen executor |
| placement_staleness_seconds | s | at decision, largest age of an unseen change at a candidate |
| latent_reads_total | decisions; found | those that keep a latent; yes: warm start, no: none kept |
| slots_total | slots | of the latent memory that began after the first |
| latent_memory_behind_slots | slots | whose latents the store has yet to confirm |
| experience_dropped_total | entries | decisions and outcomes given up before the store had them |
| learning | 0 or 1 | whether the learner beside this node learns for the cluster |
| weights_generation | publications | of the newest learned weights that are held; 0: none |
| weights_refused_total | files | learned weights that came or were announced and cannot be used |
| experience_read_total | entries | of this node's pool, read by a learner on another device |
| backlog_work_units | work units | placed on this node and not done, whoever its origin |
| capacity_work_units_per_second | work units / s | measured by the worker |
| peers_alive | nodes | others whose state is fresh |
| peer_rules_broken_total | messages; rpc | of other nodes, refused for what no node may say |
| peers_set_aside | nodes | others that are not heard for a while because they broke rules |
| certificate_left_seconds | s | until the node's certificate ends; NaN without TLS between nodes |
| staleness_seconds | s | largest age of an unseen change over the live peers |
| store_available | 0 or 1 | whether a task could be accepted durably |
| store_write_behind_length | tasks | states that the store has yet to confirm |
| store_tasks_damaged_total | tasks | whose latest state was lost with damaged files of the store |
| store_bytes | bytes; part | memory: all of the store; file: append-only; experience; latents |
| store_fill_ratio | share; part | of the part's bound; at memory's finished tasks leave |
| disk_free_bytes | bytes | of the data folder's disk |
| image_stored_bytes | bytes | images kept |
| worker_ready | 0 or 1 | whether the worker would draw now; NaN at a node that has none |
| worker_gpu_lost | 0 or 1 | whether it does not because `device = "cuda"` and there is no GPU |
| worker_backlog_work_units | work units | by the worker's own account; 0 while it is away |
| worker_queue_length | drawings | that it has not begun; 0 while it is away |
| worker_resident_bytes | bytes | of its process; 0 while it is away |
| checkpoints_kept_bytes | bytes | half-drawn images of this origin's tasks, kept now |
| checkpoint_bytes_total | bytes | of all that came here |
| steps_resumed_total | steps | that attempts of this origin were spared by going on from one |
| steps_drawn_again_total | steps | that an earlier attempt of this origin had done |
| moves_total | moves; reason | of this origin's tasks: idle, aside, waiting or draining |
| takes_asked_total | requests; granted | of this device, for drawings that others held |
| move_cost_seconds | s | for which drawings of this origin that moved stood still, lately |
| rows_asked_total | rows; outcome | of this device's steps, asked of idle ones: given, or why not |
| rows_computed_total | rows; outcome | of others' steps, asked of this device: given, or why not |
| rows_computed_seconds_total | s | of this device's idle time, for rows of others |
| row_exchange_seconds | s | of the last row that was given, beyond computing it |
| clock_skew_seconds | s | largest difference of a live peer's clock of the day to this one's |
| clock_step_seconds | s | by which the wall clock was set since the node began |
| loop_failures_total | failures; loop | of what goes on in the background; each is begun again |
| worker_restarts_total | restarts | worker processes started after the first |
| callbacks_total | callbacks; outcome | over: delivered, given_up, not_wanted |
| event_watchers | streams | clients that follow a task's events now |
| http_requests_total | requests; surface, status | answered, by route template and status code |
| device_gpu_load_ratio | 0..1 | share of time that the GPU was busy, as the driver averages it |
| device_gpu_clock_hertz | Hz | of the GPU, now |
| device_gpu_clock_max_hertz | Hz | most that the power mode lets it become |
| device_power_watts | W; rail | voltage x current of each rail |
| device_temperature_celsius | degrees C; zone | of each thermal zone that is powered |
| device_power_mode_info | 1; mode | the mode that nvpmodel last set |
| device_throttled | 0 or 1 | a throttle alert stands, or over-current alarms within a minute |
| device_memory_available_bytes | bytes | MemAvailable, which the GPU shares |

`executor` is local or remote, seen from the origin. What starts with `device_` is read by jetson.py
at the scrape, and is absent where the machine does not tell it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from edge_node.domain import WorkerLoad

CONTENT_TYPE = CONTENT_TYPE_LATEST

_DELAY_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0),
)
_DECISION_BUCKETS_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.1)
_STALENESS_BUCKETS_S = (5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# How an attempt ends when nothing went wrong with it.
_WANTED_ENDS = frozenset(
    {"finished", "cancelled", "moved", "handed_over", "not_wanted", "deadline_exceeded"}
)
# Words for it; this version has some twenty.
_REASONS_MAX = 64


class Fill(Protocol):
    """How full a part of the store is."""

    @property
    def part(self) -> str:
        """A word."""
        ...

    @property
    def used_bytes(self) -> int:
        """That it takes."""
        ...

    @property
    def share(self) -> float:
        """Of its bound."""
        ...


class Checkpoints(Protocol):
    """The account of what is kept of half-drawn images: tasks.checkpoints."""

    kept_bytes: int
    bytes_taken: int
    steps_resumed: int
    steps_again: int


class NodeMetrics:
    """The metrics of one node, on a registry of their own so that a process may hold several."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._reasons = set(_WANTED_ENDS)
        self._checkpoints_seen = (0, 0, 0)
        self._define_tasks()
        self._define_attempts()
        self._define_node()

    def render(self) -> bytes:
        """The text exposition of everything on the registry."""
        return generate_latest(self.registry)

    def tasks_accepted(self, count: int) -> None:
        """This origin said yes."""
        self._tasks_accepted.inc(count)

    def tasks_refused(self, count: int, *, code: str = "queue_full") -> None:
        """This origin said no."""
        self._tasks_refused.labels(code).inc(count)

    def moderated(self, stage: str, verdict: str) -> None:
        """The operator's judge was asked of a request or an image, or could not be."""
        self._moderated.labels(stage, verdict).inc()

    def task_ended(
        self,
        *,
        status: str,
        code: str,
        remote: bool,
        service_delay_s: float,
        queue_s: float,
        compute_s: float,
    ) -> None:
        """A task of this origin became final."""
        self._tasks_finished.labels(status, self._seen_reason(code)).inc()
        if status == "completed":
            executor = _executor(remote=remote)
            self._service_delay.labels(executor).observe(service_delay_s)
            self._queue.labels(executor).observe(queue_s)
            self._compute.labels(executor).observe(compute_s)

    def attempt_ended(self, *, remote: bool, reason: str) -> None:
        """An attempt of this origin's task ended; `reason` is finished or a stable error code."""
        reason = self._seen_reason(reason)
        self._attempts_ended.labels(_executor(remote=remote), reason).inc()
        if reason not in _WANTED_ENDS:
            self._replacements.labels(reason).inc()

    def _seen_reason(self, reason: str) -> str:
        """The reason, or `other`: executors say what they like, and a label is kept for ever."""
        if len(self._reasons) < _REASONS_MAX:
            self._reasons.add(reason)
        return reason if reason in self._reasons else "other"

    def decided(self, *, policy: str, seconds: float, staleness_s: float, reason: str = "") -> None:
        """A placement was made; `reason` is why by this policy, one of a few words."""
        self._decisions.labels(policy, reason).inc()
        self._decision.observe(seconds)
        self._placement_staleness.observe(staleness_s)

    def guarded(
        self,
        *,
        learned_share: float | None,
        worse: float | None,
        rule: str,
        rules: Iterable[str],
    ) -> None:
        """Who decided lately, and what the last replay found; None where nothing is known.

        `rule` of all `rules` stands in and is compared with.
        """
        for name in rules:
            self._guard_rule.labels(name).set(name == rule)
        if learned_share is not None:
            self._learned_share.set(learned_share)
        if worse is not None:
            self._guard_worse.set(worse)

    def latent_read(self, *, found: bool) -> None:
        """A decision of a policy that keeps latents started from one, or from none."""
        self._latent_reads.labels("yes" if found else "no").inc()

    def experience_dropped(self, count: int) -> None:
        """Decisions or outcomes will never be learned from."""
        self._experience_dropped.inc(count)

    def learning(self, *, learns: bool, generation: int) -> None:
        """Who learns and what has been learned, as this node has it."""
        self._learning.set(learns)
        self._weights_generation.set(generation)

    def weights_refused(self) -> None:
        """Learned weights cannot be used."""
        self._weights_refused.inc()

    def experience_read(self, count: int) -> None:
        """A learner on another device has read entries."""
        self._experience_read.inc(count)

    def slots_passed(self, count: int) -> None:
        """Slots began."""
        self._slots.inc(count)

    def latent_memory_changed(self, behind_slots: int) -> None:
        """Slots wait for the store."""
        self._latent_memory_behind.set(behind_slots)

    def state_observed(
        self,
        *,
        backlog: float,
        capacity: float,
        peers_alive: int,
        staleness_s: float,
        clock_skew_s: float,
        tasks_in_flight: int,
        worker_ready: bool | None,
        gpu_lost: bool,
        store_available: bool,
    ) -> None:
        """What the node sees of itself and its peers, at its own rhythm."""
        self._backlog.set(backlog)
        self._capacity.set(capacity)
        self._peers_alive.set(peers_alive)
        self._staleness.set(staleness_s)
        self._clock_skew.set(clock_skew_s)
        self._tasks_in_flight.set(tasks_in_flight)
        self._worker_ready.set(math.nan if worker_ready is None else worker_ready)
        self._gpu_lost.set(gpu_lost)
        self._store_available.set(store_available)

    def write_behind_changed(self, count: int) -> None:
        """States wait for the store."""
        self._write_behind.set(count)

    def store_mended(self, *, tasks: int) -> None:
        """The store's files were mended at the start, if they had to be."""
        self._store_tasks_damaged.inc(tasks)

    def store_looked_at(self, fills: Iterable[Fill]) -> None:
        """The store said how full it is."""
        for fill in fills:
            self._store_bytes.labels(fill.part).set(fill.used_bytes)
            self._store_fill.labels(fill.part).set(fill.share)

    def disk_looked_at(self, free_bytes: int) -> None:
        """The data folder's disk was looked at."""
        self._disk_free.set(free_bytes)

    def images_stored(self, size_bytes: int) -> None:
        """Images on disk."""
        self._image_stored.set(size_bytes)

    def watch_worker(self, load: Callable[[], WorkerLoad | None]) -> None:
        """Asks for the worker's own account of its queue at every scrape; None while it is away."""

        def shown(field: str) -> Callable[[], float]:
            return lambda: 0.0 if (now := load()) is None else float(getattr(now, field))

        self._worker_backlog.set_function(shown("backlog"))
        self._worker_queue.set_function(shown("queued"))
        self._worker_resident.set_function(shown("resident_bytes"))

    def worker_restarted(self) -> None:
        """A worker process was started in place of one that ended."""
        self._worker_restarts.inc()

    def watch_clock(self, step_s: Callable[[], float]) -> None:
        """Asks at every scrape by how much the wall clock was set."""
        self._clock_step.set_function(step_s)

    def rule_broken(self, rpc: str) -> None:
        """Another node said what none may say."""
        self._rules_broken.labels(rpc).inc()

    def checkpoints_observed(self, now: Checkpoints, *, move_cost_s: float) -> None:
        """What is kept of half-drawn images, what they were good for, and what moving takes."""
        self._move_cost.set(move_cost_s)
        self._checkpoints_kept.set(now.kept_bytes)
        totals = (now.bytes_taken, now.steps_resumed, now.steps_again)
        for counter, total, former in zip(
            self._checkpoint_totals, totals, self._checkpoints_seen, strict=True
        ):
            counter.inc(total - former)
        self._checkpoints_seen = totals

    def moved(self, reason: str) -> None:
        """A task of this origin goes on elsewhere."""
        self._moves.labels(reason).inc()

    def take_asked(self, *, granted: bool) -> None:
        """This device asked for a drawing that another one held."""
        self._takes.labels(str(granted).lower()).inc()

    def row_asked(self, outcome: str) -> None:
        """This device asked an idle one for a row of a step."""
        self._rows_asked.labels(outcome).inc()

    def row_exchanged(self, seconds: float) -> None:
        """It was given; what that took beyond computing it."""
        self._row_exchange.set(seconds)

    def row_computed(self, outcome: str, *, seconds: float) -> None:
        """Another device asked this one."""
        self._rows_computed.labels(outcome).inc()
        self._rows_computed_s.inc(seconds)

    def watch_conduct(self, count_aside: Callable[[], int]) -> None:
        """Asks at every scrape how many nodes are not heard."""
        self._set_aside.set_function(count_aside)

    def watch_certificate(self, left_s: Callable[[], float]) -> None:
        """Asks at every scrape for how long the node's certificate is good."""
        self._certificate_left.set_function(left_s)

    def loop_failed(self, name: str) -> None:
        """What goes on in the background failed, and is begun again."""
        self._loop_failures.labels(name).inc()

    def watchers_changed(self, change: int) -> None:
        """A client began (1) or ended (-1) following events."""
        self._watchers.inc(change)

    def callback_over(self, outcome: str) -> None:
        """A callback was delivered, given up, or is not wanted any more."""
        self._callbacks.labels(outcome=outcome).inc()

    def request_answered(self, *, surface: str, status: int) -> None:
        """A REST request was answered; `surface` is the route's template."""
        self._requests.labels(surface, str(status)).inc()

    def _define_tasks(self) -> None:
        self._tasks_accepted = self._counter("tasks_accepted_total", "Tasks accepted")
        self._tasks_refused = self._counter("tasks_refused_total", "Tasks refused", "code")
        self._moderated = self._counter(
            "moderated_total", "Requests and images that were to be judged", "stage", "verdict"
        )
        self._tasks_finished = self._counter(
            "tasks_finished_total", "Tasks that became final", "status", "code"
        )
        self._tasks_in_flight = self._gauge("tasks_in_flight", "Tasks accepted and not final")
        self._service_delay = self._delay("service_delay_seconds", "Arrival to stored result")
        self._queue = self._delay("queue_seconds", "Waiting at the executor")
        self._compute = self._delay("compute_seconds", "Computing at the executor")

    def _define_attempts(self) -> None:
        self._attempts_ended = self._counter(
            "attempts_ended_total", "Attempts by how they ended", "executor", "outcome"
        )
        self._replacements = self._counter(
            "replacements_total", "Attempts that ended without an image", "reason"
        )
        self._decisions = self._counter("decisions_total", "Placements made", "policy", "reason")
        self._learned_share = self._gauge("learned_share", "Recent decisions by the learned policy")
        self._guard_worse = self._gauge("guard_worse_share", "Learned mean delay over the rule's")
        self._guard_worse.set(math.nan)  # no replay yet
        self._guard_rule = self._gauge("guard_rule", "1 for the rule that stands in", "rule")
        self._decision = Histogram(
            "dedgeai_decision_seconds",
            "Time to choose an executor",
            buckets=_DECISION_BUCKETS_S,
            registry=self.registry,
        )
        self._checkpoints_kept = self._gauge("checkpoints_kept_bytes", "Half-drawn images kept")
        self._checkpoint_totals = (
            self._counter("checkpoint_bytes_total", "Half-drawn images that came"),
            self._counter("steps_resumed_total", "Steps that attempts were spared"),
            self._counter("steps_drawn_again_total", "Steps that an earlier attempt had done"),
        )
        self._moves = self._counter("moves_total", "Tasks that went on elsewhere", "reason")
        self._takes = self._counter("takes_asked_total", "Drawings that were asked for", "granted")
        self._move_cost = self._gauge("move_cost_seconds", "Time that a move takes a drawing")
        self._rows_asked = self._counter("rows_asked_total", "Rows asked of others", "outcome")
        self._rows_computed = self._counter("rows_computed_total", "Rows for others", "outcome")
        self._rows_computed_s = self._counter("rows_computed_seconds_total", "Time for these")
        self._row_exchange = self._gauge("row_exchange_seconds", "Of a row beyond computing it")
        self._define_latents()
        self._define_learning()

    def _define_latents(self) -> None:
        self._placement_staleness = Histogram(
            "dedgeai_placement_staleness_seconds",
            "Age of the oldest unseen change, at decision",
            buckets=_STALENESS_BUCKETS_S,
            registry=self.registry,
        )
        self._latent_reads = self._counter(
            "latent_reads_total", "Decisions by whether they started from a latent", "found"
        )
        self._slots = self._counter("slots_total", "Slots that began")
        self._latent_memory_behind = self._gauge(
            "latent_memory_behind_slots", "Slots whose latents are not written"
        )
        self._experience_dropped = self._counter(
            "experience_dropped_total", "Decisions and outcomes that no learner will see"
        )

    def _define_learning(self) -> None:
        self._learning = self._gauge("learning", "Whether the learner beside this node learns")
        self._weights_generation = self._gauge("weights_generation", "Newest learned weights held")
        self._weights_refused = self._counter("weights_refused_total", "Weights of no use")
        self._experience_read = self._counter(
            "experience_read_total", "Entries read by a learner elsewhere"
        )

    def _define_node(self) -> None:
        self._backlog = self._gauge("backlog_work_units", "Work placed here and not done")
        self._capacity = self._gauge("capacity_work_units_per_second", "Measured capacity")
        self._peers_alive = self._gauge("peers_alive", "Other nodes whose state is fresh")
        self._rules_broken = self._counter(
            "peer_rules_broken_total", "Messages that no node may send", "rpc"
        )
        self._set_aside = self._gauge("peers_set_aside", "Nodes that are not heard for a while")
        self._certificate_left = self._gauge(
            "certificate_left_seconds", "Until the node's certificate ends"
        )
        self._certificate_left.set(math.nan)
        self._staleness = self._gauge("staleness_seconds", "Oldest unseen change at a live peer")
        self._store_available = self._gauge("store_available", "Whether the store keeps promises")
        self._write_behind = self._gauge("store_write_behind_length", "States not yet written")
        self._store_tasks_damaged = self._counter(
            "store_tasks_damaged_total", "Tasks whose latest state was lost with damaged files"
        )
        self._store_bytes = self._gauge("store_bytes", "That a part of the store takes", "part")
        self._store_fill = self._gauge("store_fill_ratio", "Share of a part's bound", "part")
        self._disk_free = self._gauge("disk_free_bytes", "Free on the data folder's disk")
        self._image_stored = self._gauge("image_stored_bytes", "Images kept")
        self._worker_ready = self._gauge("worker_ready", "Whether the worker would draw")
        self._gpu_lost = self._gauge("worker_gpu_lost", "Whether its GPU is not there")
        self._worker_backlog = self._gauge("worker_backlog_work_units", "Work by its own account")
        self._worker_queue = self._gauge("worker_queue_length", "Drawings that it has not begun")
        self._worker_resident = self._gauge("worker_resident_bytes", "Memory of its process")
        self._worker_restarts = self._counter("worker_restarts_total", "Worker restarts")
        self._clock_skew = self._gauge("clock_skew_seconds", "Between peers' clocks and ours")
        self._clock_step = self._gauge("clock_step_seconds", "By which the wall clock was set")
        self._loop_failures = self._counter(
            "loop_failures_total", "Failures of what goes on in the background", "loop"
        )
        self._callbacks = self._counter("callbacks_total", "Callbacks that are over", "outcome")
        self._watchers = self._gauge("event_watchers", "Clients that follow events")
        self._requests = self._counter(
            "http_requests_total", "REST requests answered", "surface", "status"
        )

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"dedgeai_{name}", documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(f"dedgeai_{name}", documentation, labels, registry=self.registry)

    def _delay(self, name: str, documentation: str) -> Histogram:
        return Histogram(
            f"dedgeai_{name}",
            documentation,
            ("executor",),
            buckets=_DELAY_BUCKETS_S,
            registry=self.registry,
        )


def _executor(*, remote: bool) -> str:
    return "remote" if remote else "local"

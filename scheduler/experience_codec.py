"""Decisions and outcomes as the flat fields of a stream's entry, and back.

Owns the format of an entry; knows no store. Numpy only. A decision is one JSON object, one array
of doubles and one of singles: some 450 bytes with 5 candidates, 1.6 kB with 40. Measurements are
kept as singles, which is what the feature encoder makes of them anyway. Arrays end in their
dimension: R rows, B candidates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scheduler.experience import PooledDecision, RecordedDecision
from scheduler.observation import FloatArray, Observation, Traffic
from scheduler.policy import Decision, Outcome

FORMAT = b"1"
Fields = dict[bytes, bytes]
# Rows that every decision has, in the order in which they are written; then those that it may have.
_ALWAYS = ("backlog_B", "own_B", "capacity_B", "link_s_B", "staleness_s_B", "alive_B")
_MAYBE = ("latent_B", "queued_B", "x0_B")
# What 0.1.0 reads as the fourth number of traffic; nothing depends on it any more.
_HORIZON_S = 60.0
_JSON = json.JSONEncoder(separators=(",", ":"))


class UnreadableExperience(ValueError):
    """An entry is damaged or of another format; the message says what is wrong with it."""


def encode(entry: PooledDecision | Outcome) -> Fields:
    """Fields of an entry."""
    if isinstance(entry, Outcome):
        return {
            b"format": FORMAT,
            b"kind": b"outcome",
            b"id": entry.decision_id.encode(),
            b"delay_s": repr(entry.service_delay_s).encode(),
            b"completed": b"1" if entry.completed else b"0",
        }
    recorded = entry.recorded
    observation, decision = recorded.observation, recorded.decision
    maybe = (observation.latent_B, observation.queued_B, decision.latent_B)
    rows = [getattr(observation, name) for name in _ALWAYS]
    rows += [row for row in maybe if row is not None]
    return {
        b"format": FORMAT,
        b"kind": b"decision",
        b"id": recorded.decision_id.encode(),
        b"about": _JSON.encode(_about(entry)).encode(),
        b"doubles": np.array([recorded.decided_unix_s, observation.work]).tobytes(),
        b"rows": np.array(rows, np.float32).tobytes(),
    }


def decode(fields: Mapping[bytes, bytes]) -> PooledDecision | Outcome:
    """The entry whose fields these are.

    Raises:
        UnreadableExperience: a field is missing, of another format, cut off or impossible.
    """
    found = fields.get(b"format")
    if found != FORMAT:
        raise UnreadableExperience(f"format {found!r}; this code reads {FORMAT!r}")
    try:
        if fields[b"kind"] == b"decision":
            return _decision(fields)
        if fields[b"kind"] == b"outcome":
            return _outcome(fields)
    except (KeyError, ValueError, TypeError, IndexError) as problem:
        raise UnreadableExperience(f"{type(problem).__name__}: {problem}") from problem
    raise UnreadableExperience(f"an entry of kind {fields[b'kind']!r}")


def _about(entry: PooledDecision) -> dict[str, Any]:
    recorded = entry.recorded
    observation, decision, traffic = (
        recorded.observation,
        recorded.decision,
        recorded.observation.traffic,
    )
    maybe = (observation.latent_B, observation.queued_B, decision.latent_B)
    return {
        "life": entry.life,
        "sequence": entry.sequence,
        "node": recorded.node_id,
        "slot": recorded.slot,
        "index": recorded.index_in_slot,
        "steps": recorded.steps,
        "candidates": observation.node_ids,
        "local": observation.local,
        "input_bits": int(observation.input_bits),
        "dispatchers": observation.dispatchers,
        "traffic": None
        if traffic is None
        else [traffic.mean_work, traffic.load, traffic.report_period_s, _HORIZON_S],
        "has": [name for name, row in zip(_MAYBE, maybe, strict=True) if row is not None],
        "choice": int(decision.choice),
        "policy": decision.policy,
        "version": decision.weights_version,
        "reason": decision.reason,
        "model": recorded.model,
        "ring_place": observation.ring_place,
    }


def _outcome(fields: Mapping[bytes, bytes]) -> Outcome:
    delay_s = float(fields[b"delay_s"])
    if not 0.0 <= delay_s < math.inf:
        raise ValueError(f"a service delay of {delay_s} s")
    return Outcome(
        decision_id=fields[b"id"].decode(),
        service_delay_s=delay_s,
        completed={b"0": False, b"1": True}[fields[b"completed"]],
    )


def _decision(fields: Mapping[bytes, bytes]) -> PooledDecision:
    about = json.loads(fields[b"about"])
    decided_unix_s, work = np.frombuffer(fields[b"doubles"]).tolist()
    node_ids = tuple(map(str, about["candidates"]))
    names = [*_ALWAYS, *about["has"]]
    rows_RB = np.frombuffer(fields[b"rows"], np.float32).astype(np.float64)
    row_B: dict[str, FloatArray] = dict(
        zip(names, rows_RB.reshape(len(names), len(node_ids)), strict=True)
    )
    if not (np.isfinite(rows_RB).all() and math.isfinite(decided_unix_s)):
        raise ValueError("a number that is not finite")
    x0_B, choice = row_B.pop("x0_B", None), int(about["choice"])
    alive_B = row_B.pop("alive_B") != 0.0
    if not (0 <= choice < len(node_ids) and alive_B[choice]):
        raise ValueError(f"choice {choice} may not be chosen")
    traffic = about["traffic"]
    observation = Observation(
        node_ids=node_ids,
        local=about["local"],
        work=work,
        input_bits=int(about["input_bits"]),
        alive_B=alive_B,
        dispatchers=int(about["dispatchers"]),
        ring_place=float(about.get("ring_place", 0.0)),
        traffic=None if traffic is None else Traffic(**_traffic(traffic)),
        **row_B,
    )
    decision = Decision(
        choice=choice,
        policy=str(about["policy"]),
        latent_B=x0_B,
        weights_version=about["version"],
        reason=str(about["reason"]),
    )
    return PooledDecision(
        life=str(about["life"]),
        sequence=int(about["sequence"]),
        recorded=RecordedDecision(
            decision_id=fields[b"id"].decode(),
            node_id=str(about["node"]),
            decided_unix_s=decided_unix_s,
            slot=int(about["slot"]),
            index_in_slot=int(about["index"]),
            steps=int(about["steps"]),
            observation=observation,
            decision=decision,
            model=str(about.get("model", "")),
        ),
    )


def _traffic(numbers: list[float]) -> dict[str, float]:
    mean_work, load, report_period_s, _ = map(float, numbers)
    return {"mean_work": mean_work, "load": load, "report_period_s": report_period_s}

"""Who draws which model, by what nodes last said of themselves. Pure.

A model is a name and a fingerprint: nodes that give one name to different weights do not draw for
each other. Of several fingerprints a node's own counts, else the first that a node alive has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edge_node.domain import ModelFingerprint, NodeId, NodeState, ServedModel

# Name and fingerprint.
Offer = tuple[str, ModelFingerprint]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Nodes that draw one model with one fingerprint, in the order of observations.

    Attributes:
        local: this node's place among them, if it has one.
        told: of each node what it says of the model, as far as it can be used.
    """

    node_ids: tuple[NodeId, ...]
    local: int | None
    told: tuple[ServedModel | None, ...]


class ServingNodes:
    """Answers who draws a model, and remembers the answers until `changed`.

    Args:
        own_id: this node's name.
        states: the last of every node, by name; read at every question that is new.
    """

    def __init__(self, own_id: NodeId, states: Callable[[], Mapping[NodeId, NodeState]]) -> None:
        self._own_id = own_id
        self._states = states
        self._found: dict[str, tuple[Serving, ...]] = {}

    @property
    def remembered(self) -> int:
        """Answers in memory."""
        return len(self._found)

    def changed(self) -> None:
        """A node came, went, or draws something else."""
        self._found.clear()

    def of(self, model: str, *, is_alive: Callable[[NodeId], bool]) -> Serving | None:
        """The nodes whose fingerprint counts; None where none was heard of."""
        groups = self._found.get(model)
        if groups is None:
            groups = self._found_among(model, self._states())
        for group in groups:
            if group.local is not None or any(map(is_alive, group.node_ids)):
                return group
        return groups[0] if groups else None

    def _found_among(self, model: str, states: Mapping[NodeId, NodeState]) -> tuple[Serving, ...]:
        by_fingerprint: dict[ModelFingerprint, list[NodeId]] = {}
        for node_id in sorted(states):
            for name, fingerprint in offers_of(states[node_id]):
                if name == model:
                    by_fingerprint.setdefault(fingerprint, []).append(node_id)
        groups = [
            Serving(
                node_ids=tuple(nodes),
                local=nodes.index(self._own_id) if self._own_id in nodes else None,
                told=tuple(served_by(states[n], model) for n in nodes),
            )
            for nodes in by_fingerprint.values()
        ]
        groups.sort(key=lambda group: group.local is None)  # stable: then by their first node
        if len(self._found) >= len(states) + 1:
            self._found.clear()  # models that nobody draws must not fill the memory
        self._found[model] = tuple(groups)
        return self._found[model]


def offers_of(state: NodeState) -> tuple[Offer, ...]:
    """What a node draws; of one that does not tell more (version 0.1.0), the model it names."""
    if state.serves:
        return tuple((served.name, served.fingerprint) for served in state.serves)
    return ((state.model, state.model_fingerprint),) if state.model else ()


def served_by(state: NodeState, model: str) -> ServedModel | None:
    """What a node says of a model; None where it says nothing that a task could be costed by."""
    told = (served for served in state.serves if served.name == model and _is_usable(served))
    return next(told, None)


def names_of(states: Iterable[NodeState]) -> tuple[str, ...]:
    """Models that some of these nodes draw, in order."""
    return tuple(sorted({name for state in states for name, _ in offers_of(state)}))


def _is_usable(served: ServedModel) -> bool:
    """Whether its numbers leave something to ask for, and no division by nothing."""
    return (
        served.work_model.reference_px > 0
        and served.size_px_multiple > 0
        and 0 < served.size_px_min <= served.size_px_max
        and 0 < served.steps_default <= served.steps_max
        and served.guidance_scale_default <= served.guidance_scale_max
        and served.prompt_chars_max > 0
        and served.strength_default > 0.0
    )

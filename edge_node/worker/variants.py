"""Weights that are ready to draw: a model's own, or those with a LoRA in them.

Owns how modules become a call for a step and the conditions that go with it. Rows of different
variants are steps of one drawing loop, and never one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_node.worker.conditions import Conditions
from edge_node.worker.cuda_graphs import Call, GraphedCall
from edge_node.worker.mmdit import FoldedTransformer


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How modules are called.

    Attributes:
        zero_rows: of the context, that T5 would have filled.
        chunks_max: pieces into which a long prompt is taken.
        compiled: blocks are compiled.
        graphed: calls are captured as CUDA graphs.
    """

    zero_rows: int
    chunks_max: int
    compiled: bool
    graphed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """One set of weights.

    Attributes:
        conditions: what the transformer is told of prompts.
        call: its velocity, of latents, contexts and modulations.
    """

    conditions: Conditions
    call: Call

    def release(self) -> None:
        """Gives back what memory it can do without."""
        self.conditions.release()
        if isinstance(self.call, GraphedCall):
            self.call.release()


def ready_variant(
    transformer: Any, clips: Sequence[tuple[Any, Any]], arrangement: Arrangement
) -> Variant:
    """Modules of a transformer and its text encoders, ready to draw."""
    folded = FoldedTransformer(transformer, zero_rows=arrangement.zero_rows)
    conditions = Conditions(
        clips,
        transformer=folded,
        joint_width=transformer.config.joint_attention_dim,
        chunks_max=arrangement.chunks_max,
    )
    call: Call = folded.velocity
    if arrangement.compiled:
        folded.compile_blocks()
        if arrangement.graphed:
            call = GraphedCall(folded.velocity)
    return Variant(conditions=conditions, call=call)

"""Replays a transformer call as one CUDA graph for each shape, where there is CUDA.

A graph takes the launching of some thousand kernels off the CPU, which an Orin's cores feel. Owns
capturing, the bound on graphs held, and going on without one where capturing fails. Not run on a
device: written against PyTorch's documentation of torch.cuda.CUDAGraph.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

LOG = logging.getLogger(__name__)

# Each graph keeps its own inputs and its output; its workspace is shared.
GRAPHS_MAX = 8
# Calls before capturing, in which libraries choose their kernels.
WARM_UP_CALLS = 3

Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    output: torch.Tensor


class GraphedCall:
    """`call` of three tensors, captured once for each shape of them."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._usable = True

    def __call__(
        self, first: torch.Tensor, second: torch.Tensor, third: torch.Tensor
    ) -> torch.Tensor:
        """The call's result, which the next call of the same shape overwrites."""
        inputs = (first, second, third)
        if not self._usable:
            return self._call(*inputs)
        shape = tuple(one.shape for one in inputs)
        held = self._graphs.get(shape)
        if held is None:
            held = self._captured(inputs)
            if held is None:
                return self._call(*inputs)
            self._graphs[shape] = held
            if len(self._graphs) > GRAPHS_MAX:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        for static, given in zip(held.inputs, inputs, strict=True):
            static.copy_(given)
        held.graph.replay()
        return held.output

    def release(self) -> None:
        """Drops all graphs and what they hold, as when memory runs out."""
        self._graphs.clear()

    def _captured(self, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> _Graph | None:
        static = (inputs[0].clone(), inputs[1].clone(), inputs[2].clone())
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_CALLS):
                    self._call(*static)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                output = self._call(*static)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            LOG.warning("CUDA graphs are not used: capturing failed (%s)", error)
            self._usable = False
            return None
        return _Graph(graph=graph, inputs=static, output=output)

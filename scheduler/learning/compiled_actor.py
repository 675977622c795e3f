"""The denoising chains of all agents, compiled: forwards to decide, backwards to learn.

Owns the arithmetic of `NoiseStack` under a `Schedule` as numba kernels. Training spends most of
its time in these chains of 20 x 20 matrices; agent by agent they stay in the processor's first
caches, and a kernel runs them at twice the speed of batched matrix products. The reference is
`diffusion.denoise` on the same network under autograd: a test holds values and gradients to it.

Arrays end in their dimensions: A agents, R chains of every agent, B actions, H hidden features,
E step features, S state features, I denoising steps, M samples. Samples come last, so that every
inner loop is a vector loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from scheduler.learning.diffusion import Schedule
from scheduler.learning.networks import NoiseStack
from scheduler.learning.noise import TABLE, NoiseSource, add_noise

SingleArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
# Sums may be reordered, but infinities and NaN keep their meaning: a diverged agent must show.
_FAST = {"contract", "reassoc", "nsz", "arcp"}


class _Weights(NamedTuple):
    """A network's parameters, or their gradients."""

    first_AHF: SingleArray
    first_bias_AH1: SingleArray
    second_AHH: SingleArray
    second_bias_AH1: SingleArray
    third_ABH: SingleArray
    third_bias_AB1: SingleArray


class _Chain(NamedTuple):
    """What is the same for all agents: the step's features, keep, take and spread (3, I)."""

    embedding_IE: SingleArray
    coefficients: SingleArray
    softmax: bool


class _Draw(NamedTuple):
    """Where the kernels draw their noise, see `NoiseSource`."""

    table: SingleArray
    start: np.uint64
    position: np.uint64


class _Trail(NamedTuple):
    """What a run leaves for the way back, of each agent's first chain."""

    state_ASM: SingleArray
    x_AIBM: SingleArray
    first_AIHM: SingleArray
    second_AIHM: SingleArray
    eps_AIBM: SingleArray


class CompiledActor:
    """Runs a network's chains and differentiates them.

    Args:
        network: its parameters are read and, by `backward`, given gradients.
        schedule: of the chain.

    Attributes:
        coefficients: keep, take and spread of each step, (3, I).
    """

    def __init__(self, network: NoiseStack, schedule: Schedule) -> None:
        self.coefficients = np.stack(
            [schedule.keep_I, schedule.take_I, schedule.spread_I], dtype=np.float32
        )
        layers = (network.first, network.second, network.third)
        self._parameters = [p for layer in layers for p in (layer.weight_AOI, layer.bias_AO1)]
        # Views: optimisers and loading write into the parameters, never replace them.
        self._weights = _Weights(*(tensor.detach().numpy() for tensor in self._parameters))
        self._chain = _Chain(network.embedding_IE.numpy(), self.coefficients, network.softmax)
        self._noisy = schedule.noisy_steps
        self._trail: _Trail | None = None

    def run(
        self,
        start_RABM: Tensor,
        state_RASM: Tensor,
        noise: NoiseSource,
        *,
        count_A: IntArray | None = None,
        learn: bool = False,
    ) -> Tensor:
        """x_0 of every sample.

        Args:
            start_RABM: x_I.
            state_RASM: the states it is conditioned on.
            noise: of the chain.
            count_A: how many of the M samples each agent has; the others' x_0 are zeros.
            learn: whether `backward` is to follow, for the first of the R chains.

        Returns:
            x_0, (R, A, B, M).
        """
        chains, agents, actions, samples = start_RABM.shape
        state_RASM = state_RASM.contiguous()
        trail = self._room(agents if learn else 0, samples, state_RASM[0].numpy())
        x0_RABM = np.zeros(start_RABM.shape, np.float32)
        rows = self._noisy * chains * agents * actions
        _run(
            self._weights,
            self._chain,
            _Draw(TABLE, noise.start, noise.take(rows, samples)),
            start_RABM.contiguous().numpy(),
            state_RASM.numpy(),
            np.full(agents, samples) if count_A is None else count_A,
            x0_RABM,
            trail,
        )
        if learn:
            self._trail = trail
        return torch.from_numpy(x0_RABM)

    def _room(self, agents: int, samples: int, state_ASM: SingleArray) -> _Trail:
        """Where the next run leaves its trail: the last one's arrays, if they fit.

        Fresh arrays of this size are fresh pages, and touching those costs as much as the run.
        """
        if agents and self._trail is not None and len(self._trail.x_AIBM[0, 0, 0]) == samples:
            return self._trail._replace(state_ASM=state_ASM)
        _, actions, hidden = self._weights.third_ABH.shape
        steps = self.coefficients.shape[1]
        room = [
            np.empty((agents, steps, features, samples), np.float32)
            for features in (actions, hidden, hidden, actions)
        ]
        return _Trail(state_ASM, *room)

    def one(
        self, agent: int, start_B: SingleArray, state_S: SingleArray, noise: NoiseSource
    ) -> SingleArray:
        """x_0 of a single decision of one agent, (B,)."""
        x0_B = start_B.copy()
        draw = _Draw(TABLE, noise.start, noise.take(self._noisy, len(start_B)))
        _one(self._weights, self._chain, draw, agent, x0_B, state_S)
        return x0_B

    def backward(self, grad_x0_ABM: Tensor) -> None:
        """Sets the network's gradients, given that of the loss by the last run's x_0."""
        if self._trail is None:
            raise ValueError("no run was made to learn from")
        grads = _Weights(*(np.zeros_like(array) for array in self._weights))
        grad = grad_x0_ABM.contiguous().numpy()
        _go_back(self._weights, self._chain, grad, self._trail, grads)
        for parameter, gradient in zip(self._parameters, grads, strict=True):
            parameter.grad = torch.from_numpy(gradient)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _run(
    weights: _Weights,
    chain: _Chain,
    draw: _Draw,
    start_RABM: SingleArray,
    state_RASM: SingleArray,
    count_A: IntArray,
    x0_RABM: SingleArray,
    trail: _Trail,
) -> None:
    """All chains of all agents, one after another; a trail with no agents is not written."""
    chains, agents, actions, samples = start_RABM.shape
    steps, features = chain.embedding_IE.shape
    hidden = weights.second_AHH.shape[1]
    # Not unpacked from one array: numba would not know that such rows lie side by side.
    given = np.empty((hidden, samples), np.float32)
    one, two = np.empty_like(given), np.empty_like(given)
    eps = np.empty((actions, samples), np.float32)
    position = draw.position
    for agent in range(agents):
        count = count_A[agent]
        first = weights.first_AHF[agent]
        step_HI = np.zeros((hidden, steps), np.float32)
        _add_outer(first[:, actions : actions + features], chain.embedding_IE, step_HI)
        for number in range(chains):
            learn = number == 0 and len(trail.x_AIBM) > 0
            x, state = x0_RABM[number, agent], state_RASM[number, agent]
            x[:, :count] = start_RABM[number, agent, :, :count]
            bias = weights.first_bias_AH1[agent]
            _affine(first[:, actions + features :], bias, state, given, count)
            for step in range(steps - 1, -1, -1):
                for h in range(hidden):
                    for m in range(count):
                        one[h, m] = given[h, m] + step_HI[h, step]
                _add_product(first[:, :actions], x, one, count)
                _relu(one, count)
                _affine(weights.second_AHH[agent], weights.second_bias_AH1[agent], one, two, count)
                _relu(two, count)
                _affine(weights.third_ABH[agent], weights.third_bias_AB1[agent], two, eps, count)
                if chain.softmax:
                    _softmax(eps, count)
                if learn:
                    trail.x_AIBM[agent, step] = x
                    trail.first_AIHM[agent, step] = one
                    trail.second_AIHM[agent, step] = two
                    trail.eps_AIBM[agent, step] = eps
                keep, take, spread = chain.coefficients[:, step]
                _add_scaled(x, keep, eps, -take, count)
                if spread > 0.0:
                    add_noise(x, spread, draw.table, draw.start, position, count)
                    position += np.uint64(actions * ((samples + 3) // 4))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _one(
    weights: _Weights,
    chain: _Chain,
    draw: _Draw,
    agent: int,
    x_B: SingleArray,
    state_S: SingleArray,
) -> None:
    """One sample: here a layer's inputs lie side by side, so they are the vector loop."""
    hidden, actions = weights.second_AHH.shape[1], len(x_B)
    steps, features = chain.embedding_IE.shape
    given = np.empty(hidden, np.float32)
    one, two = np.empty_like(given), np.empty_like(given)
    eps = np.empty((actions, 1), np.float32)
    first, second = weights.first_AHF[agent], weights.second_AHH[agent]
    third = weights.third_ABH[agent]
    for h in range(hidden):
        given[h] = weights.first_bias_AH1[agent, h, 0]
        given[h] += _dot(first[h], actions + features, state_S)
    position = draw.position
    for step in range(steps - 1, -1, -1):
        for h in range(hidden):
            total = given[h] + _dot(first[h], 0, x_B)
            total += _dot(first[h], actions, chain.embedding_IE[step])
            one[h] = max(total, np.float32(0.0))
        for h in range(hidden):
            total = weights.second_bias_AH1[agent, h, 0] + _dot(second[h], 0, one)
            two[h] = max(total, np.float32(0.0))
        for b in range(actions):
            eps[b, 0] = weights.third_bias_AB1[agent, b, 0] + _dot(third[b], 0, two)
        if chain.softmax:
            _softmax(eps, 1)
        keep, take, spread = chain.coefficients[:, step]
        for b in range(actions):
            x_B[b] = keep * x_B[b] - take * eps[b, 0]
        if spread > 0.0:
            row = x_B.reshape(1, actions)
            add_noise(row, spread, draw.table, draw.start, position, actions)
            position += np.uint64((actions + 3) // 4)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _dot(weight_F: SingleArray, offset: int, x_F: SingleArray) -> np.float32:
    """Sum of the weights from `offset` on times x."""
    total = np.float32(0.0)
    for f in range(len(x_F)):
        total += weight_F[offset + f] * x_F[f]
    return total


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _go_back(
    weights: _Weights, chain: _Chain, grad_x0_ABM: SingleArray, trail: _Trail, grads: _Weights
) -> None:
    """Walks the trail back from x_0 to x_I and sums the parameters' gradients on the way."""
    agents, steps, actions, samples = trail.x_AIBM.shape
    hidden, features = weights.second_AHH.shape[1], chain.embedding_IE.shape[1]
    d_eps = np.empty((actions, samples), np.float32)
    d_given = np.empty((hidden, samples), np.float32)
    d_one, d_two = np.empty_like(d_given), np.empty_like(d_given)
    d_step = np.empty((hidden, steps), np.float32)
    for agent in range(agents):
        x_part_BH = np.ascontiguousarray(weights.first_AHF[agent, :, :actions].T)
        second_HH = np.ascontiguousarray(weights.second_AHH[agent].T)
        third_HB = np.ascontiguousarray(weights.third_ABH[agent].T)
        first_grad = grads.first_AHF[agent]
        d_x = grad_x0_ABM[agent].copy()
        d_given[:] = 0.0
        for step in range(steps):
            one, two = trail.first_AIHM[agent, step], trail.second_AIHM[agent, step]
            _noise_gradient(d_x, trail.eps_AIBM[agent, step], d_eps, chain.softmax)
            d_eps *= -chain.coefficients[1, step]
            _through(third_HB, d_eps, two, d_two)
            _through(second_HH, d_two, one, d_one)
            d_x *= chain.coefficients[0, step]
            _add_product(x_part_BH, d_one, d_x, samples)
            _add_outer(d_eps, two, grads.third_ABH[agent])
            _add_outer(d_two, one, grads.second_AHH[agent])
            _add_outer(d_one, trail.x_AIBM[agent, step], first_grad[:, :actions])
            _add_sums(d_eps, grads.third_bias_AB1[agent, :, 0])
            _add_sums(d_two, grads.second_bias_AH1[agent, :, 0])
            d_step[:, step] = 0.0
            _add_sums(d_one, d_step[:, step])
            d_given += d_one
        step_part = first_grad[:, actions : actions + features]
        _add_product(d_step, chain.embedding_IE, step_part, features)
        _add_outer(d_given, trail.state_ASM[agent], first_grad[:, actions + features :])
        _add_sums(d_step, grads.first_bias_AH1[agent, :, 0])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _affine(
    weight_OI: SingleArray, bias_O1: SingleArray, x_IM: SingleArray, y_OM: SingleArray, count: int
) -> None:
    """Sets y = W x + b for the first `count` samples."""
    for o in range(len(weight_OI)):
        for m in range(count):
            y_OM[o, m] = bias_O1[o, 0]
    _add_product(weight_OI, x_IM, y_OM, count)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _add_product(weight_OI: SingleArray, x_IM: SingleArray, y_OM: SingleArray, count: int) -> None:
    """Adds W x to y, by blocks of two outputs and four inputs to spare loads and stores."""
    outputs, inputs = weight_OI.shape
    paired, whole = outputs - outputs % 2, inputs - inputs % 4
    for o in range(0, paired, 2):
        for i in range(0, whole, 4):
            v0, v1 = weight_OI[o, i], weight_OI[o, i + 1]
            v2, v3 = weight_OI[o, i + 2], weight_OI[o, i + 3]
            w0, w1 = weight_OI[o + 1, i], weight_OI[o + 1, i + 1]
            w2, w3 = weight_OI[o + 1, i + 2], weight_OI[o + 1, i + 3]
            for m in range(count):
                x0, x1, x2, x3 = x_IM[i, m], x_IM[i + 1, m], x_IM[i + 2, m], x_IM[i + 3, m]
                y_OM[o, m] += v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3
                y_OM[o + 1, m] += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
    for o in range(outputs):
        for i in range(whole if o < paired else 0, inputs):
            for m in range(count):
                y_OM[o, m] += weight_OI[o, i] * x_IM[i, m]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _add_outer(d_OM: SingleArray, x_IM: SingleArray, sum_OI: SingleArray) -> None:
    """Adds d x^T to a sum: a weight's gradient, summed over the samples."""
    outputs, samples = d_OM.shape
    inputs = len(x_IM)
    whole = inputs - inputs % 4
    for o in range(outputs):
        for i in range(0, whole, 4):
            s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for m in range(samples):
                s0 += d_OM[o, m] * x_IM[i, m]
                s1 += d_OM[o, m] * x_IM[i + 1, m]
                s2 += d_OM[o, m] * x_IM[i + 2, m]
                s3 += d_OM[o, m] * x_IM[i + 3, m]
            sum_OI[o, i] += s0
            sum_OI[o, i + 1] += s1
            sum_OI[o, i + 2] += s2
            sum_OI[o, i + 3] += s3
        for i in range(whole, inputs):
            s0 = np.float32(0)
            for m in range(samples):
                s0 += d_OM[o, m] * x_IM[i, m]
            sum_OI[o, i] += s0


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _add_sums(d_OM: SingleArray, sum_O: SingleArray) -> None:
    for o in range(len(d_OM)):
        total = np.float32(0)
        for m in range(d_OM.shape[1]):
            total += d_OM[o, m]
        sum_O[o] += total


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _through(
    weight_IO: SingleArray, d_out_OM: SingleArray, y_IM: SingleArray, d_in_IM: SingleArray
) -> None:
    """Gradient below a layer, and below the ReLU whose output y was its input."""
    d_in_IM[:] = 0.0
    _add_product(weight_IO, d_out_OM, d_in_IM, d_in_IM.shape[1])
    for i in range(len(d_in_IM)):
        for m in range(d_in_IM.shape[1]):
            d_in_IM[i, m] = d_in_IM[i, m] if y_IM[i, m] > 0.0 else np.float32(0.0)


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _relu(x_FM: SingleArray, count: int) -> None:
    for f in range(len(x_FM)):
        for m in range(count):
            x_FM[f, m] = max(x_FM[f, m], np.float32(0.0))


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _noise_gradient(
    d_BM: SingleArray, eps_BM: SingleArray, d_logit_BM: SingleArray, softmax: bool
) -> None:
    """Gradient by the network's output, given that by eps."""
    actions, samples = d_BM.shape
    d_logit_BM[:] = d_BM
    if not softmax:
        return
    mean_M = np.zeros(samples, np.float32)
    for b in range(actions):
        for m in range(samples):
            mean_M[m] += d_BM[b, m] * eps_BM[b, m]
    for b in range(actions):
        for m in range(samples):
            d_logit_BM[b, m] = eps_BM[b, m] * (d_BM[b, m] - mean_M[m])


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _add_scaled(
    x_BM: SingleArray, keep: np.float32, y_BM: SingleArray, factor: np.float32, count: int
) -> None:
    """Sets x = keep x + factor y."""
    for b in range(len(x_BM)):
        for m in range(count):
            x_BM[b, m] = keep * x_BM[b, m] + factor * y_BM[b, m]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _softmax(x_BM: SingleArray, count: int) -> None:
    """Softmax over the actions, in place."""
    top_M = x_BM[0, :count].copy()
    for b in range(1, len(x_BM)):
        for m in range(count):
            top_M[m] = max(top_M[m], x_BM[b, m])
    total_M = np.zeros(count, np.float32)
    for b in range(len(x_BM)):
        _exp(x_BM[b], top_M, count)
        for m in range(count):
            total_M[m] += x_BM[b, m]
    for m in range(count):
        total_M[m] = np.float32(1.0) / total_M[m]
    for b in range(len(x_BM)):
        for m in range(count):
            x_BM[b, m] *= total_M[m]


@njit(cache=True, fastmath=_FAST, error_model="numpy")
def _exp(x_M: SingleArray, shift_M: SingleArray, count: int) -> None:
    """Sets x = exp(x - shift), arguments up to 0, to 4e-7; a vector loop, which np.exp is not.

    2^y = 2^floor(y) 2^(y - floor(y)): the first by an exponent's bits, the second by a
    polynomial of degree 5 (minimax on 0..1).
    """
    for m in range(count):
        y = (x_M[m] - shift_M[m]) * np.float32(1.4426950408889634)
        y = max(y, np.float32(-126.0))
        whole = np.floor(y)
        part = y - whole
        p = np.float32(1.8775767e-3)
        p = p * part + np.float32(8.9893397e-3)
        p = p * part + np.float32(5.5826318e-2)
        p = p * part + np.float32(2.4015361e-1)
        p = p * part + np.float32(6.9315308e-1)
        p = p * part + np.float32(9.9999994e-1)
        x_M[m] = p * np.int32((np.int32(whole) + 127) << 23).view(np.float32)

"""The device that a model runs on: which one, whether it computes, and what memory it has."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from edge_node.worker import memory_guard
from edge_node.worker.denoiser import GpuLost, ModelUnusable


def wanted(name: str) -> torch.device:
    """The device of that name, or for "auto" the best that is there.

    Raises:
        GpuLost: a GPU is wanted, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise GpuLost(
            "device = cuda, and torch finds no GPU: a container loses it at `systemctl "
            "daemon-reload`, so make it anew (docker compose up -d --force-recreate worker); else "
            "look at the driver"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def prove_computing(device: torch.device, dtype: torch.dtype) -> None:
    """Returns once a product was really computed: `is_available` is no proof on a Jetson.

    Raises:
        ModelUnusable: there is none, or it is wrong.
    """
    values = torch.arange(64 * 64, dtype=torch.float64).reshape(64, 64).remainder(7) / 7
    try:
        product = (values.to(device, dtype) @ values.to(device, dtype)).double().cpu()
    except Exception as error:
        raise ModelUnusable(
            f"the device {device} is there but does not compute in {dtype} ({error}): check that "
            "the driver and this build of torch belong together"
        ) from error
    if not torch.allclose(product, values @ values, rtol=0.05, atol=0.05):
        raise ModelUnusable(
            f"the device {device} computes wrong products in {dtype}: check that the driver and "
            "this build of torch belong together"
        )


def repeat_itself(device: torch.device) -> None:
    """Asks a GPU's libraries for algorithms that give the same sums each time.

    As torch's notes on reproducibility have it; CUBLAS_WORKSPACE_CONFIG belongs to it. A CPU's sums
    depend on shapes and threads alone. Not run on a device.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def available_bytes(device: torch.device) -> Callable[[], int]:
    """Reader of the memory that rows take: the machine's own, unless the GPU has its own."""
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        return memory_guard.gpu_available_bytes(torch.cuda.mem_get_info)
    return memory_guard.system_available_bytes


def has_spare_core() -> bool:
    """Whether something else can run beside torch's threads."""
    return len(os.sched_getaffinity(0)) > torch.get_num_threads()


def dtype_for(device: torch.device, name: str) -> torch.dtype:
    """The torch dtype of that name, or for "auto" the one that the device is best at."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def name_of(device: torch.device) -> str:
    """As people know it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"

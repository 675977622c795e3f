"""`python -m edge_node.console.doctor_checks.gpu_probe DEVICE`: a kernel really run.

Owns one process, because CUDA may crash it or never come back. Its last line is JSON, which
gpu.py reads. Not run on a GPU so far; a test runs it with DEVICE cpu.
"""

from __future__ import annotations

import json
import sys

import torch

# Side of the square matrices: large enough for the tensor cores' kernels, small enough for a CPU.
SIDE = 1024


def main(device_name: str) -> None:
    """Multiplies in fp32 and fp16 on the device, and compares with fp64 on the CPU.

    Without a CUDA device it only says which torch that was.
    """
    facts: dict[str, object] = {"torch": torch.__version__, "side": SIDE}
    if device_name == "cpu" or torch.cuda.is_available():
        device = torch.device(device_name)
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(SIDE, SIDE, generator=generator).half() for _ in range(2))
        exact = left.double() @ right.double()
        facts["device"] = "cpu" if device_name == "cpu" else torch.cuda.get_device_name(device)
        for name, dtype in (("fp32_error", torch.float32), ("fp16_error", torch.float16)):
            product = left.to(device, dtype) @ right.to(device, dtype)
            error = (product.cpu().double() - exact).norm() / exact.norm()
            facts[name] = float(error) if bool(torch.isfinite(error)) else None
    print(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1])

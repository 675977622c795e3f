"""What the algorithms share: networks, diffusion, replay, training."""

from scheduler.compiled_code import keep_by_sources

keep_by_sources()

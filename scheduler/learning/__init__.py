"""What the algorithms share: networks, diffusion, replay, training."""

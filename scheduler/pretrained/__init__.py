"""Checkpoints that ship with the package."""

"""Policies that a node can load: numpy only."""

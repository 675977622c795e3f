"""What the commands do beside running a node: clients of the REST surface, and local clusters."""

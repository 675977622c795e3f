"""The child processes of a node."""

"""Who may ask a node, and for what."""

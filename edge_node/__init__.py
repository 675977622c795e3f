"""The serving side of DEdgeAI: one node per device."""

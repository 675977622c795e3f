"""The deciding side of DEdgeAI: policies, and what trains and measures them."""

"""The cluster for agents, by the Model Context Protocol: `dedgeai mcp`, and /mcp of a node.

Both are clients of the REST surface, so that its keys, limits and sentences hold. dedgeai[mcp] is
needed, and imported where one of them is wanted and nowhere else.
"""

"""The typed client of a node under the name of the distribution: `from dedgeai.client import Client`.

What it is and can do: edge_node/client.
"""

from edge_node.client import *  # noqa: F403
from edge_node.client import __all__ as __all__

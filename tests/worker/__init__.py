"""Tests of edge_node/worker."""

"""The REST surfaces."""

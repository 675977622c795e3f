"""gRPC between nodes."""

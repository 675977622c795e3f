from tests.store.conftest import valkey

__all__ = ["valkey"]

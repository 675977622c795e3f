"""The model that a client of AUTOMATIC1111's surface chose, apart from what it draws."""

from __future__ import annotations

# Beyond so many clients the one that chose first is forgotten.
_CLIENTS_MAX = 1000


class ChosenModels:
    """The last choice of each client at this node, until it ends."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def choose(self, client_id: str, model: str | None) -> None:
        """From now on the client means this model where it names none; None for the default one."""
        self._of.pop(client_id, None)
        if model is None:
            return
        while len(self._of) >= _CLIENTS_MAX:
            del self._of[next(iter(self._of))]
        self._of[client_id] = model

    def of(self, client_id: str) -> str | None:
        """What the client chose; None where it did not."""
        return self._of.get(client_id)

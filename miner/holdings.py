"""How much of something scarce each caller holds; who holds nothing is not remembered."""

from __future__ import annotations


class Holdings:
    """Amounts by caller, and their sum."""

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[str, int] = {}

    def of(self, hotkey: str) -> int:
        """What a caller holds."""
        return self._of.get(hotkey, 0)

    def add(self, hotkey: str, amount: int) -> None:
        """A caller holds so much more, or less if the amount is negative."""
        self.total += amount
        self._of[hotkey] = self.of(hotkey) + amount
        if not self._of[hotkey]:
            del self._of[hotkey]

"""What a call to a Stage-2 server costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a call costs, in the unit of the budget.

    Attributes:
        call: whatever it takes.
        token: for each token.
        most_tokens: of one call.
    """

    call: float = 1.0
    token: float = 0.0
    most_tokens: int = 0

    @property
    def upper(self) -> float:
        """The most that it may be."""
        return self.call + self.token * self.most_tokens

    def of(self, tokens: int | None) -> float:
        """What it was; the most that it may be where the tokens are not known."""
        return self.upper if tokens is None else self.call + self.token * tokens

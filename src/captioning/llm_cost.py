"""What questions to an API have cost."""

from typing import Any

from src.errors import UserError

_MILLION = 1_000_000


class Cost:
    """Counts tokens, and money where the prices are known.

    Args:
        price_input: Dollars for a million tokens of questions; None if not known.
        price_output: The same for answers.
        limit: Dollars that may be spent, above 0; None for no limit.

    Raises:
        UserError: a price or the limit is no such number, only one price is given, or a limit without prices.
    """

    def __init__(self, *, price_input: Any, price_output: Any, limit: Any) -> None:
        for name, value in (
            ("price_input", price_input),
            ("price_output", price_output),
            ("max_cost", limit),
        ):
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if value is not None and not is_number:
                raise UserError(f"captioner.{name}={value} must be a number of dollars, or null.")
        if limit is not None and limit <= 0:
            raise UserError(f"captioner.max_cost={limit} lets nothing be asked. Set a sum above 0, or null.")
        if (price_input is None) != (price_output is None):
            raise UserError("captioner.price_input and captioner.price_output go together. Set both or none.")
        if limit is not None and price_input is None:
            raise UserError(
                "captioner.max_cost needs captioner.price_input and captioner.price_output: what a million "
                "tokens of the model cost, as its provider's page says."
            )
        self._prices = None if price_input is None else (float(price_input), float(price_output))
        self._limit = limit
        self._num_requests = self._input_tokens = self._output_tokens = 0
        self._dearest = 0.0

    def require_first(self, input_tokens: int, output_tokens: int) -> None:
        """Refuses a first question that is expected to pass the limit alone; later ones are measured by it.

        Raises:
            UserError: it would.
        """
        price = self._price_of(input_tokens, output_tokens)
        if self._num_requests == 0 and self._limit is not None and price > self._limit:
            raise UserError(
                f"captioner.max_cost={self._limit}: the first question alone would cost about ${price:.4f}. "
                "Raise it, or lower captioner.batch_size or captioner.max_side."
            )

    def count(self, input_tokens: int, output_tokens: int) -> None:
        """Takes note of one answer."""
        self._num_requests += 1
        self._input_tokens += input_tokens
        self._output_tokens += output_tokens
        self._dearest = max(self._dearest, self._price_of(input_tokens, output_tokens))

    def _price_of(self, input_tokens: int, output_tokens: int) -> float:
        price_input, price_output = self._prices or (0.0, 0.0)
        return (input_tokens * price_input + output_tokens * price_output) / _MILLION

    @property
    def total(self) -> float:
        """Dollars so far; 0 where the prices are not known."""
        return self._price_of(self._input_tokens, self._output_tokens)

    def reason_to_stop(self) -> str | None:
        """The limit, if another question as dear as the dearest one would pass it."""
        if self._limit is None or self.total + self._dearest <= self._limit:
            return None
        return f"captioner.max_cost={self._limit}"

    def summary(self) -> str:
        """Requests, tokens and cost in one line."""
        tokens = f"{self._input_tokens:,} input and {self._output_tokens:,} output tokens"
        used = f"{self._num_requests} answers, {tokens}"
        if self._prices is None:
            return f"{used}; the cost is not known (captioner.price_input, captioner.price_output)"
        return f"{used}, ${self.total:.4f}"

    def figures(self) -> dict[str, float]:
        """The same in numbers."""
        tokens = {"input_tokens": self._input_tokens, "output_tokens": self._output_tokens}
        cost = {} if self._prices is None else {"cost": self.total}
        return {"answers": self._num_requests, **tokens, **cost}

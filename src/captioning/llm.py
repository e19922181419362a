"""Captions by a vision model over an API."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from src.captioning.base import Captioner, Failure, Subject
from src.captioning.examples import load_examples
from src.captioning.llm_answer import (
    WrongAnswerError,
    answer_schema,
    encode_image,
    example_turns,
    expected_tokens,
    question,
    read_answer,
    system_text,
)
from src.captioning.llm_client import KEY_VARIABLE, Answer, LlmClient
from src.captioning.llm_cost import Cost
from src.checks import require_web_address, require_whole_number
from src.data.fetch_http import Retries
from src.errors import UserError

_PAUSE = 2.0  # seconds before the second attempt; then twice as long each time
_TOKENS_PER_CAPTION = 250
_TOKENS_OF_THE_FORM = 250
# Of a sentence of forty words, with its number.
_USUAL_TOKENS_PER_CAPTION = 60


class LlmCaptioner(Captioner):
    """Describes images with a vision model that is asked over Anthropic's Messages API.

    Several images make one question. What is missing in the answer or wrong is asked again, alone.

    Args:
        subject: What the set teaches; None for a set of many motifs.
        instruction: How captions should be, in plain words.
        model: The model's name.
        base_url: The address of a gateway that speaks the same API; None takes Anthropic's own.
        examples: A folder of images with captions that show how it should be done.
        batch_size: Images in a question.
        max_side: Images are scaled down to this many pixels on the longer side.
        max_asks: How often an image is asked about before it is named as a problem.
        attempts: How often a question is sent while the API is busy, broken or silent.
        timeout_seconds: How long an answer may take.
        price_input: Of a million tokens, in dollars; None if not known.
        price_output: The same for tokens of answers.
        max_cost: Dollars that this run may cost, but for one question; needs both prices.
        max_images: See `Captioner`.

    Raises:
        UserError: a value out of its range, unusable examples, or no package or key.
    """

    def __init__(
        self,
        *,
        instruction: str,
        model: str,
        subject: Subject | None = None,
        base_url: str | None = None,
        examples: str | None = None,
        batch_size: int = 10,
        max_side: int = 768,
        max_asks: int = 3,
        attempts: int = 6,
        timeout_seconds: float = 120.0,
        price_input: float | None = None,
        price_output: float | None = None,
        max_cost: float | None = None,
        max_images: int | None = None,
    ) -> None:
        for name, text in (("instruction", instruction), ("model", model)):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"captioner.{name}={text!r} must be a text.")
        if base_url is not None:
            require_web_address("captioner.base_url", base_url)
            if urlsplit(base_url).username is not None:
                raise UserError(
                    f"captioner.base_url must not hold a password: addresses are logged. Set {KEY_VARIABLE}."
                )
        require_whole_number("captioner.batch_size", batch_size, least=1, most=20)
        require_whole_number("captioner.max_side", max_side, least=64, most=1568)
        require_whole_number("captioner.max_asks", max_asks, least=1)
        require_whole_number("captioner.attempts", attempts, least=1)
        if (
            isinstance(timeout_seconds, bool)
            or not isinstance(timeout_seconds, int | float)
            or timeout_seconds <= 0
        ):
            raise UserError(f"captioner.timeout_seconds={timeout_seconds} must be a positive number.")
        super().__init__(label=f"llm:{model}", batch_size=batch_size, max_images=max_images)
        self._subject, self._max_side, self._max_asks = subject, max_side, max_asks
        self._system = system_text(instruction, subject)
        self._cost = Cost(price_input=price_input, price_output=price_output, limit=max_cost)
        self._client = LlmClient(
            model=model,
            base_url=base_url,
            retries=Retries(attempts=attempts, pause=_PAUSE, read_timeout=timeout_seconds),
        )
        shown = load_examples(Path(examples).expanduser()) if examples is not None else []
        self._examples = example_turns([(self.prepare(image), caption) for image, caption in shown])

    def prepare(self, image: Image.Image) -> Any:
        """See `Captioner.prepare`."""
        return encode_image(image, max_side=self._max_side)

    def describe(self, prepared: Sequence[Any]) -> list[str | Failure]:
        """See `Captioner.describe`."""
        found: dict[int, str | Failure] = {}
        missing = list(range(len(prepared)))
        for num_asks in range(1, self._max_asks + 1):
            answers, fault = self._ask([prepared[index] for index in missing])
            failure = Failure(
                message=f"has no caption (asked {num_asks} times; {fault}). Write one, or start again."
            )
            found |= {
                index: failure if caption is None else caption
                for index, caption in zip(missing, answers, strict=True)
            }
            missing = [index for index in missing if isinstance(found[index], Failure)]
            if not missing or self.reason_to_stop():
                break
        return [found[index] for index in range(len(prepared))]

    def _ask(self, images: Sequence[Any]) -> tuple[list[str | None], str]:
        """A caption or None for each image, and what is wrong with those that are None."""
        messages = [*self._examples, question(images)]
        self._cost.require_first(
            expected_tokens(messages, system=self._system), _USUAL_TOKENS_PER_CAPTION * len(images)
        )
        answer = self._client.ask(
            messages,
            system=self._system,
            schema=answer_schema(len(images)),
            max_tokens=_TOKENS_OF_THE_FORM + _TOKENS_PER_CAPTION * len(images),
        )
        self._cost.count(answer.input_tokens, answer.output_tokens)
        try:
            found = read_answer(answer.text, num_images=len(images), subject=self._subject)
        except WrongAnswerError as error:
            return [None] * len(images), _with_cause(str(error), answer)
        return found, _with_cause(self._lacking(), answer)

    def _lacking(self) -> str:
        if self._subject is None:
            return "the answer had none for it"
        return f"the answer had none for it that says {self._subject.placeholder}"

    def reason_to_stop(self) -> str | None:
        """See `Captioner.reason_to_stop`."""
        return self._cost.reason_to_stop()

    def summary(self) -> str | None:
        """See `Captioner.summary`."""
        return self._cost.summary()

    def figures(self) -> dict[str, float]:
        """See `Captioner.figures`."""
        return self._cost.figures()


def _with_cause(fault: str, answer: Answer) -> str:
    """A model that was cut off or refused says so beside its words."""
    return fault if answer.cause == "end_turn" else f"{fault} (it ended with {answer.cause})"

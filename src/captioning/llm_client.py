"""The one door to the package anthropic: a question with images, and an answer that counts."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src.checks import require_web_address
from src.data.fetch_http import FetchError, PassingError, Retries, retry_after, with_retries
from src.data.fetch_http import shown as shown_address
from src.errors import UserError

KEY_VARIABLE = "ANTHROPIC_API_KEY"
_ADDRESS_VARIABLE = "ANTHROPIC_BASE_URL"
# Seconds. Who asks for more patience than this is better asked again by a person.
_LONGEST_WAIT = 300.0
_MAX_REASON = 300
_ON = "What was written stays; the same command goes on."


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said.

    Attributes:
        text: Its words.
        cause: Why it ended: "end_turn", or "max_tokens", "refusal" and others.
        input_tokens: Of the question, images included.
        output_tokens: Of the answer.
    """

    text: str
    cause: str
    input_tokens: int
    output_tokens: int


class LlmClient:
    """Asks a vision model through Anthropic's Messages API, or through a gateway that speaks it.

    Args:
        model: The model's name.
        base_url: Another address than Anthropic's own; None takes `ANTHROPIC_BASE_URL`, or theirs.
        retries: How often and how patiently a question is repeated.

    Raises:
        UserError: the package is not installed, the environment has no key, or the address is none.
    """

    def __init__(self, *, model: str, base_url: str | None, retries: Retries) -> None:
        if importlib.util.find_spec("anthropic") is None:
            raise UserError(
                "captioner=llm needs the package anthropic, which is optional. Install it by starting once "
                "with DARKROOM_EXTRAS=1, or with: pip install 'anthropic>=2.12,<3'. "
                "captioner=blip needs no package."
            )
        # Never an option of the configuration: that is printed, logged and kept.
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UserError(
                f"captioner=llm needs an API key in the environment: {KEY_VARIABLE} is "
                f"{'no key' if key else 'not set'}. Set it, or put it into .env."
            )
        if base_url is None and _ADDRESS_VARIABLE in os.environ:
            require_web_address(_ADDRESS_VARIABLE, os.environ[_ADDRESS_VARIABLE])
        import anthropic

        self._anthropic = anthropic
        self._model, self._retries = model, retries
        self._client: Any = anthropic.Anthropic(
            api_key=key,
            base_url=base_url,
            timeout=anthropic.Timeout(retries.read_timeout, connect=retries.connect_timeout),
            # Ours know when to give up: theirs wait for hours if a server asks for it.
            max_retries=0,
            # A redirect could carry the key to another host.
            http_client=anthropic.DefaultHttpxClient(follow_redirects=False),
        )
        self.address = shown_address(str(self._client.base_url)).rstrip("/")

    def ask(
        self, messages: Sequence[dict[str, Any]], *, system: str, schema: dict[str, Any], max_tokens: int
    ) -> Answer:
        """Asks one question, again and again while what hinders may pass.

        Args:
            messages: In the API's form.
            system: What holds for all questions.
            schema: The JSON schema of the answer.
            max_tokens: The longest answer.

        Raises:
            UserError: the API cannot be reached, does not answer, or refuses.
        """

        def attempt() -> Answer:
            try:
                return _read(
                    self._client.messages.create(
                        model=self._model,
                        max_tokens=max_tokens,
                        system=system,
                        messages=list(messages),
                        output_config={"format": {"type": "json_schema", "schema": schema}},
                    )
                )
            except self._anthropic.APIStatusError as error:
                raise self._sorted(error) from None
            except self._anthropic.APITimeoutError:
                raise PassingError(f"no answer within {self._retries.read_timeout:g} s") from None
            except self._anthropic.APIError as error:
                raise PassingError(_reason(error.__cause__ or error)) from None

        try:
            return with_retries(attempt, retries=self._retries, what=self.address)
        except FetchError as error:
            raise UserError(f"{error} {_ON}") from None

    def _sorted(self, error: Any) -> Exception:
        """A failure that may pass, or one that a person must see to."""
        status = error.status_code
        if status in (408, 409, 425, 429) or status >= 500:
            wait = retry_after(error.response.headers)
            if wait > _LONGEST_WAIT:
                return UserError(
                    f"{self.address} answered {status} and asks to wait {wait / 60:.0f} minutes. {_ON}"
                )
            return PassingError(f"the server answered {status} ({_reason(error)})", wait=wait)
        if status in (401, 403):
            remedy = f"Check {KEY_VARIABLE}, which is read from the environment or .env."
        elif status == 404:
            remedy = f"Check captioner.model={self._model} and captioner.base_url."
        else:
            remedy = "Check the captioner's options, and the account's credit."
        return UserError(f"{self.address} refused with {status} ({_reason(error)}). {remedy} {_ON}")


def _read(message: Any) -> Answer:
    """The library takes whatever JSON a server sends for a message, and text for text.

    Raises:
        PassingError: it is no message.
    """
    content, usage = getattr(message, "content", None), getattr(message, "usage", None)
    if not isinstance(content, list) or usage is None:
        raise PassingError("the answer is no message of the API")
    texts = [block.text for block in content if getattr(block, "type", None) == "text"]
    counts = [
        getattr(usage, name, None) or 0
        for name in (
            "input_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
            "output_tokens",
        )
    ]
    if not all(isinstance(text, str) for text in texts) or not all(
        isinstance(count, int) for count in counts
    ):
        raise PassingError("the answer is no message of the API")
    return Answer(
        text="".join(texts),
        cause=str(message.stop_reason),
        input_tokens=sum(counts[:3]),
        output_tokens=counts[3],
    )


def _reason(error: BaseException) -> str:
    """What the API says is wrong, or else the error's kind: a text of the network layer may hold headers."""
    body = getattr(error, "body", None)
    detail = body.get("error") if isinstance(body, dict) else None
    message = detail.get("message") if isinstance(detail, dict) else None
    return " ".join(str(message).split())[:_MAX_REASON] if message else type(error).__name__

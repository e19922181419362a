"""Templates of captions: which fields may stand in them, and filling them."""

from collections.abc import Mapping
from string import Formatter

from src.errors import UserError


def check_template(key: str, template: object, *, required: frozenset[str], allowed: frozenset[str]) -> None:
    """Refuses a template with other fields than the allowed ones, or without a required one.

    Args:
        key: The key of the configuration, for messages.
        template: Its value.
        required: Fields that must be there.
        allowed: Fields that may be there as well.

    Raises:
        UserError: with the fields there are.
    """
    known = required | allowed
    listed = ", ".join(f"{{{name}}}" for name in sorted(known))
    if not isinstance(template, str):
        raise UserError(f"{key}={template!r} must be a text. Fields there: {listed}.")
    try:
        parts = [
            (name, spec, conversion)
            for _, name, spec, conversion in Formatter().parse(template)
            if name is not None
        ]
    except ValueError as error:
        raise UserError(
            f"{key}={template!r} has a brace too many or too few. Fields there: {listed}."
        ) from error
    for name, spec, conversion in parts:
        if name not in known or spec or conversion:
            raise UserError(f"{key}={template!r} has the unknown field {{{name}}}. Fields there: {listed}.")
    if missing := sorted(required - {name for name, _, _ in parts}):
        raise UserError(f"{key}={template!r} lacks {{{missing[0]}}}. Fields there: {listed}.")


def fill(key: str, template: str, fields: Mapping[str, str]) -> str:
    """A checked template with its fields filled, on one line.

    Raises:
        UserError: nothing is left.
    """
    text = " ".join(template.format_map(fields).split())
    if not text:
        raise UserError(f"{key}={template!r} is empty. Write a caption.")
    return text


def require_placeholder(key: str, template: str, placeholder: str | None) -> str:
    """The placeholder that a template needs, or the empty text if it needs none.

    Raises:
        UserError: it needs one and none is configured.
    """
    if placeholder is None and "{placeholder}" in template:
        raise UserError(
            f"{key}={template!r} needs a placeholder. Set dataset.placeholder to a word such as sksToy."
        )
    return placeholder or ""

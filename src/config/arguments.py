"""The command line before Hydra reads it: flags may stand anywhere, prompts need no second quotes."""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

# Values that may be given as plain text, whatever signs are in it.
_TEXT_KEYS = ("prompts", "negative_prompt", "dataset.negative_prompt")


def parse_arguments() -> Namespace:
    """Reads the command line as Hydra does, and leaves `sys.argv` in the form that Hydra takes."""
    sys.argv[1:] = flags_first(sys.argv[1:])
    parser = get_args_parser()
    if not parser.parse_args().multirun:
        sys.argv[1:] = [as_text(argument) for argument in sys.argv[1:]]
    return parser.parse_args()


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Sorts flags before overrides, so that `a=1 --cfg job b=2` works; argparse alone refuses it."""
    is_override = re.compile(r"[~+]{0,2}[A-Za-z_][\w./@-]*=|~[A-Za-z_]").match
    overrides = [argument for argument in arguments if is_override(argument)]
    return [argument for argument in arguments if not is_override(argument)] + overrides


def as_text(argument: str) -> str:
    """Quotes a plain text given for a prompt, which the shell has unquoted and Hydra's grammar would refuse.

    Lists, texts in quotes of their own and null stay as they are. (In a sweep commas part the values.)

    >>> as_text("prompts=a photo of sksToy, on the moon")
    'prompts="a photo of sksToy, on the moon"'
    """
    key, equals, value = argument.partition("=")
    if not equals or key not in _TEXT_KEYS or value == "null" or value.startswith(("[", '"', "'", "${")):
        return argument
    # In Hydra's quotes a backslash escapes only a quote, or backslashes that stand before one.
    escaped = re.sub(r'(\\*)(?:"|$)', lambda found: found[1] * 2 + ('\\"' if '"' in found[0] else ""), value)
    return f'{key}="{escaped}"'

"""Words of a caption and their parts of speech.

The tagger is TextBlob's (MIT): Brill's lexicon of 94,000 words, learned from the Brown corpus and the Penn
Treebank, and suffix rules for other words. It gives a word the same tag in every sentence, so tags are kept;
what depends on the sentence is said by `rules.py`.
"""

import re
from enum import Enum, auto
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from src.errors import UserError

# Hyphenated compounds and words with an apostrophe are one word; a plural's genitive keeps its apostrophe.
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*(?:(?<=s)['\u2019](?!\w))?|[^\w\s]")


class Token(NamedTuple):
    """A word or a punctuation mark and where it stands."""

    start: int
    end: int
    text: str


class Tag(Enum):
    """The parts of speech that the rules tell apart."""

    NOUN = auto()
    ADJECTIVE = auto()
    COMPARATIVE = auto()
    ADVERB = auto()
    VERB = auto()
    PARTICIPLE = auto()  # past participle or past tense
    GERUND = auto()
    NUMBER = auto()
    PRONOUN = auto()
    OTHER = auto()


_PENN = {
    "JJ": Tag.ADJECTIVE,
    "JJS": Tag.ADJECTIVE,
    "JJR": Tag.COMPARATIVE,
    "VB": Tag.VERB,
    "VBP": Tag.VERB,
    "VBZ": Tag.VERB,
    "VBD": Tag.PARTICIPLE,
    "VBN": Tag.PARTICIPLE,
    "VBG": Tag.GERUND,
    "CD": Tag.NUMBER,
    "PRP": Tag.PRONOUN,
}


def tokenize(caption: str) -> list[Token]:
    """The words and punctuation marks of a caption."""
    return [Token(found.start(), found.end(), found.group()) for found in _TOKEN.finditer(caption)]


@cache
def tag_word(word: str) -> Tag:
    """The part of speech of a word in lower case."""
    return _tag_of(_textblob().tag(word, tokenize=False)[0][1])


@cache
def known_tag(word: str) -> Tag | None:
    """The part of speech of a word that is in the lexicon; None for another."""
    penn = _textblob().lexicon.get(word)
    return None if penn is None else _tag_of(penn)


def tagger_version() -> str:
    """Name and version of the tagger, for files that keep what it said.

    Raises:
        UserError: it is not installed.
    """
    try:
        return f"textblob {version('textblob')}"
    except PackageNotFoundError as error:
        raise _not_installed(error) from error


def _tag_of(penn: str) -> Tag:
    if penn.startswith("NN"):
        return Tag.NOUN
    if penn.startswith("RB"):
        return Tag.ADVERB
    return _PENN.get(penn, Tag.OTHER)


@cache
def _textblob() -> Any:
    # It imports NLTK (half a second), which only who removes adverbs has to wait for.
    try:
        import textblob.en
    except ImportError as error:
        raise _not_installed(error) from error
    return textblob.en


def _not_installed(error: ImportError) -> UserError:
    return UserError(
        f"Removing adverbs needs TextBlob, which cannot be imported ({error}). "
        "Install it (pip install textblob), or set dataset.reader.adverbs=keep."
    )

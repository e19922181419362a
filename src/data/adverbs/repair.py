"""Takes words out of a caption and mends what they leave: and, commas, spaces, a/an, capital letters.

Nothing is changed in places where nothing was taken out.
"""

import re
from collections.abc import Callable, Sequence

from src.data.adverbs.tagger import Tag, tag_word
from src.data.adverbs.vocabulary import AUXILIARIES, DETERMINERS, PREPOSITIONS
from src.words import starts_with_vowel_sound

Span = tuple[int, int]

_BETWEEN = re.compile(r"\s*(?P<comma>,?)\s*(?P<coordinator>(?:(?:and|or|but|&)\s+)?)", re.IGNORECASE)
_ARTICLE_BEFORE = re.compile(r"(?<![^\W_])(an?)\s+$", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_VERBS = (Tag.VERB, Tag.PARTICIPLE, Tag.GERUND)
_CLOSING = ",.;:!?)]}\u201d\u2019"
_QUOTES = "\"'"
_OPENING = _QUOTES + "\u201c\u2018(["
_SENTENCE_END = ".!?"
_SEPARATORS = ",.;:!?"
_PAIRS = ("()", "[]", '""', "\u201c\u201d", "''")


def delete_spans(caption: str, spans: Sequence[Span]) -> str:
    """Deletes words from a caption so that what remains reads well.

    Args:
        caption: the caption.
        spans: of words, in order, not touching each other.
    """
    for start, end in reversed(merge_coordinated(caption, spans)):
        caption = _delete_one(caption, start, end)
    return caption


def merge_coordinated(caption: str, spans: Sequence[Span]) -> list[Span]:
    """Makes one span of those that are coordinated, so that the comma or "and" between them goes, too."""
    phrases = _merge(spans, lambda first, second: not caption[first[1] : second[0]].strip())
    return _merge(phrases, lambda first, second: _are_coordinated(caption, first, second))


def _merge(spans: Sequence[Span], belong_together: Callable[[Span, Span], bool]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        if merged and belong_together(merged[-1], span):
            merged[-1] = (merged[-1][0], span[1])
        else:
            merged.append(span)
    return merged


def _are_coordinated(caption: str, first: Span, second: Span) -> bool:
    """Whether two adverbs describe the same: "dances slowly and gently", not "yawns widely and then eats"."""
    between = _BETWEEN.fullmatch(caption[first[1] : second[0]])
    if between is None:
        return False
    following = _FIRST_WORD.match(caption[second[1] :].lstrip())
    word = "" if following is None else following.group().lower()
    if between["coordinator"]:
        of_manner = all(caption[start:end].lower().endswith("ly") for start, end in (first, second))
        return of_manner or not word or word in PREPOSITIONS
    if between["comma"] and word and tag_word(word) in _VERBS:
        # "Sits quietly, happily eating", but "is quietly, happily eating".
        words = _FIRST_WORD.findall(caption[: first[0]])
        return not words or words[-1].lower() in AUXILIARIES | DETERMINERS
    return True


def _delete_one(caption: str, start: int, end: int) -> str:
    """Deletes one span and mends the place."""
    capital = caption[start].isupper() and opens_sentence(caption, start)
    before, after = caption[:start], caption[end:]
    before, after = drop_brackets(before, after)
    before, after = drop_punctuation(before, after)
    before = fit_article(before, after)
    before, after = join(before, after)
    return before + (capitalize(after) if capital else after)


def opens_sentence(caption: str, start: int) -> bool:
    """Whether a sentence or a quotation begins at a place."""
    before = caption[:start]
    return not before.strip() or before[-1] in _OPENING or before.rstrip()[-1] in _SENTENCE_END


def drop_brackets(before: str, after: str) -> tuple[str, str]:
    """Drops brackets or quotation marks that enclose nothing any more."""
    # Two words would become one: these marks enclose nothing, they stand within words.
    joins_words = before[-2:-1].isalnum() and after[1:2].isalnum()
    if before[-1:] + after[:1] in _PAIRS and not joins_words:
        return before[:-1], after[1:]
    return before, after


def drop_punctuation(before: str, after: str) -> tuple[str, str]:
    """Drops the commas that set off what was deleted, and the full stop of a sentence that was deleted."""
    left, right = before.rstrip(), after.lstrip()
    opens = not left or left[-1] in _SENTENCE_END
    if opens and right[:1] in tuple(_SEPARATORS):
        return before, right[1:]
    if left.endswith(",") and (not right or right[0] in _CLOSING):
        return left[:-1], right.removeprefix(",")
    return before, after


def fit_article(before: str, after: str) -> str:
    """Fits an article that now stands before another word: "a very old car" leaves "an old car"."""
    article, following = _ARTICLE_BEFORE.search(before), _FIRST_WORD.match(after.lstrip(" " + _OPENING))
    if article is None or following is None:
        return before
    found = article.group(1)
    shouted = following.group().isupper() and len(following.group()) > 1 and before.isupper()
    fitting = "an" if starts_with_vowel_sound(following.group(), spelled=not shouted) else "a"
    if found[0].isupper():
        fitting = fitting.upper() if shouted else fitting.capitalize()
    return before[: article.start(1)] + fitting + before[article.end(1) :]


def join(before: str, after: str) -> tuple[str, str]:
    """Leaves one space where words meet, and none before punctuation and at the edges."""
    left, right = before.rstrip(), after.lstrip()
    if not left:
        return before[: len(before) - len(before.lstrip())] if before.strip() else "", right
    closes = right[:1] in _CLOSING or (right[0] in _QUOTES and after == right)
    if closes or left[-1] in "([{\u201c\u2018" or (left[-1] in _QUOTES and before == left):
        return left, right
    spaced = before != left or after != right
    return left + (" " if spaced else ""), right


def capitalize(text: str) -> str:
    """Gives the first word a capital letter and leaves the rest."""
    first = _FIRST_WORD.search(text)
    if first is None:
        return text
    return text[: first.start()] + text[first.start()].upper() + text[first.start() + 1 :]

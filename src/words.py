"""What can be asked about words of captions and prompts: is one there, and does "an" stand before it."""

import re

_SPELLED_WITH_VOWEL = frozenset("AEFHILMNORSX")
_MAX_SPELLED = 3
_SILENT_H = ("hour", "honest", "honor", "honour", "heir")
# One, once; Europe, ewe; use, usual, utensil, ukulele, unit, uranium; not umbrella, uninteresting, untidy.
_CONSONANT_SOUND = re.compile(
    r"(?:one(?:s|'s)?(?![^\W_])|once|eu|ewe|u(?:se|su|sa|ten|til|top|k|ra|ri|ro|bi|fo|ga|ni(?![mn]|d(?!ir))))"
)


def has_word(text: str, word: str) -> bool:
    """Whether a word stands in a text, also beside punctuation.

    >>> has_word("a photo of sksToy, red", "sksToy"), has_word("a toyota", "toy")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def article(phrase: str) -> str:
    """ "a" or "an", as it stands before a phrase; "a" before what is no word."""
    first = re.match(r"[^\W_]", phrase)
    return "an" if first is not None and starts_with_vowel_sound(phrase.split(maxsplit=1)[0]) else "a"


def starts_with_vowel_sound(word: str, *, spelled: bool = True) -> bool:
    """Whether "an" stands before a word: an hour, an SUV, an 8, but a unit, a one-way street, a US flag.

    Args:
        word: the word, in its letter case.
        spelled: whether a short word in capitals is read letter by letter.
    """
    if word[0].isdecimal():
        return _number_starts_with_vowel_sound(word)
    first = re.split(r"['\u2019-]", word)[0]
    letters = first.isupper() and (len(first) <= _MAX_SPELLED or not re.search("[AEIOUY]", first))
    if len(first) == 1 or (spelled and letters):
        return first[0].upper() in _SPELLED_WITH_VOWEL
    lower = word.lower().replace("\u2019", "'")
    return lower.startswith(_SILENT_H) or (lower[0] in "aeiou" and not _CONSONANT_SOUND.match(lower))


def _number_starts_with_vowel_sound(word: str) -> bool:
    """Eight, eighty; eleven and eighteen, also as thousands and as the centuries of years."""
    digits = re.match(r"\d+", word)
    assert digits is not None
    number = digits.group()
    in_pairs = len(number) % 3 == 2 or len(number) == len("1800")
    return number.startswith("8") or (number.startswith(("11", "18")) and in_pairs)

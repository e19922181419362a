"""Where the adverbs of a caption are."""

from src.data.adverbs.rules import is_adverb
from src.data.adverbs.sentence import Sentence
from src.data.adverbs.tagger import tokenize
from src.data.adverbs.vocabulary import ARTICLES, COMPLEMENTS, COPULAS


def find_adverbs(caption: str) -> list[tuple[int, int]]:
    """The spans of the words of a caption that are adverbs and can be left out, in order.

    Kept are negations, particles of verbs (sits *down*), fixed phrases (*next* to, as *well* as), what only
    looks like an adverb (the *only* cat, a *still* life), an adverb without which "be" would have no
    complement (the dog is *outside*), and what `needed_rules.py` keeps (not *fully* cooked).

    Args:
        caption: in English.

    Raises:
        UserError: the tagger is not installed.
    """
    tokens = tokenize(caption)
    sentence = Sentence([token.text for token in tokens])
    found = [place for place in range(len(tokens)) if sentence.is_word(place) and is_adverb(sentence, place)]
    kept = _needed_complements(sentence, frozenset(found))
    return [(tokens[place].start, tokens[place].end) for place in found if place not in kept]


def _needed_complements(sentence: Sentence, found: frozenset[int]) -> frozenset[int]:
    """Runs of adverbs that are all that "be", "seem" or an article has after it."""
    kept: set[int] = set()
    for first in sorted(found):
        before = sentence.word(first - 1)
        if before not in COPULAS | ARTICLES:
            continue
        end = first
        while end in found:
            end += 1
        run = range(first, end)
        complements = [place for place in run if sentence.word(place) in COMPLEMENTS]
        if sentence.closes(end) and complements:
            kept.update(complements)
        elif sentence.ends(end):  # "a man is very"
            kept.update(run)
    return frozenset(kept)

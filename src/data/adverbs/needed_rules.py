"""Adverbs without which a caption would say something else, or nothing: they stay.

Each rule takes a sentence and the place of an adverb in it. The references are to Huddleston and Pullum, *The
Cambridge Grammar of the English Language*, 2002.
"""

from src.data.adverbs.sentence import Sentence
from src.data.adverbs.tagger import Tag
from src.data.adverbs.vocabulary import (
    BOOSTERS,
    COORDINATORS,
    DEGREE_ADVERBS,
    FLAT_ADVERBS,
    INDEFINITE_PRONOUNS,
    LINKING_VERBS,
    MAXIMIZERS,
    NEGATORS,
    QUANTITIES,
    SUBJECT_PRONOUNS,
)

_FOCUS = ("only", "just", "merely", "simply")


def is_needed(s: Sentence, i: int) -> bool:
    """Whether an adverb has to stay where it is."""
    return any(rule(s, i) for rule in (_negated, _but_also, _in_a_result, _alike))


def _negated(s: Sentence, i: int) -> bool:
    """What a negation governs: without it "not fully cooked" is "not cooked" (chapter 9, 3.1)."""
    before = i - 1
    if s.word(before) in COORDINATORS and s.is_adverb(i - 2):  # "not slowly and quietly"
        return _negated(s, i - 2)
    while not _is_negator(s, before) and (
        s.is_ly(before) or s.word(before) in DEGREE_ADVERBS | BOOSTERS | FLAT_ADVERBS
    ):
        before -= 1
    if not _is_negator(s, before):
        return _ends_negated_clause(s, i)
    head = i + 1
    while s.word(head) in BOOSTERS:
        head += 1
    if s.is_adjective(head):  # "not very tall" is "not tall", or nearly
        return s.word(i) not in BOOSTERS | MAXIMIZERS
    # "Not very well lit": the adverb stays, being negated, and its degree need not.
    graded = s.is_adverb(head) or s.tag(head) is Tag.PARTICIPLE
    return not (graded and s.word(i) in BOOSTERS)


def _is_negator(s: Sentence, i: int) -> bool:
    return s.word(i) in NEGATORS or s.word(i).endswith("n't")


def _ends_negated_clause(s: Sentence, i: int) -> bool:
    """ "Is not moving quickly": it is the last word of a clause whose only verb is negated."""
    if not (s.closes(i + 1) or s.is_preposition(i + 1)):
        return False
    num_verbs = 0
    for place in range(i - 1, -1, -1):
        if s.closes(place):
            return False
        if _is_negator(s, place):
            return num_verbs == 1
        num_verbs += s.is_verb(place) or s.word(place) == "have"
    return False


def _but_also(s: Sentence, i: int) -> bool:
    """The second half of "not only ... but also"."""
    if (s.word(i - 1), s.word(i)) != ("but", "also"):
        return False
    return any(_is_negator(s, place) and s.word(place + 1) in _FOCUS for place in range(i))


def _in_a_result(s: Sentence, i: int) -> bool:
    """ "So big that", "too tall to", "tall enough to", and the adverb in them: "so close that"."""
    degree = i if s.word(i) in ("so", "too") else i - 1
    if s.word(degree) == "so" and _has_result(s, degree):
        return True
    if s.word(degree) == "too" and _has_purpose(s, degree + 1):
        return True
    enough = i if s.word(i) == "enough" else i + 1
    return s.word(enough) == "enough" and _has_purpose(s, enough)


def _has_purpose(s: Sentence, i: int) -> bool:
    """Whether the clause goes on with what something is too much or enough for (chapter 6, 7.3)."""
    place = i + 1
    while not s.ends(place) and s.word(place) not in COORDINATORS:
        if s.word(place) in ("to", "for"):
            return True
        place += 1
    return False


def _has_result(s: Sentence, i: int) -> bool:
    """Whether a clause says what comes of it, with or without "that" (chapter 11, 4.6)."""
    place = i + 2
    while not s.ends(place):
        if s.word(place) == "that" or (s.word(place), s.word(place + 1)) == ("as", "to"):
            return True
        if _starts_clause(s, place) and not (s.closes(place - 1) or s.is_preposition(place - 1)):
            return True
        place += 1
    return False


def _starts_clause(s: Sentence, i: int) -> bool:
    """Whether a subject and its verb begin there."""
    if s.word(i) in SUBJECT_PRONOUNS | INDEFINITE_PRONOUNS:
        return s.has_finite_verb(i + 1)
    after_adjective = not s.is_noun(i - 1) and s.word(i - 1) not in QUANTITIES
    return after_adjective and s.is_determiner(i) and any(s.has_finite_verb(i + n) for n in (2, 3))


def _alike(s: Sentence, i: int) -> bool:
    """ "Look alike" is an adjective after its verb (chapter 6, 4.3); "dressed alike" is not."""
    head = s.before_degree(i)
    if s.word(head) == "much":
        head = s.before_degree(head)
    return s.word(i) == "alike" and s.word(head) in LINKING_VERBS

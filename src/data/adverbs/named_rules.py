"""Words with a grammar of their own: whether each is an adverb at its place.

Every rule takes a sentence and a place in it.
"""

from collections.abc import Callable

from src.data.adverbs.sentence import Sentence
from src.data.adverbs.tagger import Tag
from src.data.adverbs.vocabulary import (
    AUXILIARIES,
    BE,
    COLOURS,
    LINKING_VERBS,
    PARTICLES,
    POSTURE_VERBS,
    TOPIC_WORDS,
)

Rule = Callable[[Sentence, int], bool]

_MODIFIERS = (Tag.ADJECTIVE, Tag.PARTICIPLE)


def _only(s: Sentence, i: int) -> bool:
    return not s.is_determiner(i - 1)


def _then(s: Sentence, i: int) -> bool:
    # "Bigger then" is a slip for "bigger than".
    return s.tag(i - 1) is not Tag.COMPARATIVE and not s.is_object(i)


def _pretty(s: Sentence, i: int) -> bool:
    following = s.word(i + 1)
    if s.is_adverb(i + 1) or following in ("much", "well"):
        return following != "pretty"
    if s.tag(i + 1) is Tag.PARTICIPLE:
        return s.is_linking(i - 1)
    gradable = following not in COLOURS | {"little", "young"} and not following.endswith("en")
    return s.is_adjective(i + 1) and gradable and not s.is_name(i + 1)


def _well(s: Sentence, i: int) -> bool:
    if s.word(i - 1) == "as":
        return s.word(i + 1) != "as"
    if s.tag(i + 1) in _MODIFIERS or s.tag(i + 1) is Tag.ADVERB:
        return True
    noun = s.is_determiner(i - 1) or s.is_preposition(i - 1) or s.is_linking(s.before_degree(i))
    return not noun and s.has_verb_before(i) and not s.starts_noun_phrase(i + 1)


def _as(s: Sentence, i: int) -> bool:
    return i > 0 and s.word(i + 1) == "well" and s.word(i + 2) != "as"


def _still(s: Sentence, i: int) -> bool:
    following, head = s.word(i + 1), s.before_degree(i)
    noun_phrase = following in ("life", "lifes", "lives") or s.is_determiner(i - 1)
    before_noun = s.is_noun(i + 1) and (s.ends(i - 1) or s.is_preposition(i - 1) or s.is_adjective(i - 1))
    motionless = s.word(head) in POSTURE_VERBS or (s.is_linking(head) and s.ends(i + 1))
    # "Is perfectly still beside": what has a degree is an adjective.
    graded = head != i - 1 and s.is_linking(head) and s.is_preposition(i + 1)
    return not (noun_phrase or before_noun or motionless or graded)


def _even(s: Sentence, i: int) -> bool:
    return s.word(i + 1) not in ("though", "if") and not (s.is_determiner(i - 1) and s.is_noun(i + 1))


def _about(s: Sentence, i: int) -> bool:
    """About a dozen, around twenty."""
    number = i + 1 + (s.word(i + 1) in ("a", "an", "half"))
    if s.tag(number) is not Tag.NUMBER and s.word(number) not in ("dozen", "hundred", "half"):
        return False
    if s.word(i) == "about":
        return s.word(i - 1) not in TOPIC_WORDS
    counts = s.word(i - 1) in BE | {"with", "has", "have"} or s.ends(i - 1)
    return counts and s.word(number) not in ("one", "two", "three")


def _most(s: Sentence, i: int) -> bool:
    if s.word(i + 1) in ("of", "than"):
        return False
    superlative = s.is_determiner(i - 1) or s.is_linking(i - 1) or s.ends(i + 2)
    return s.is_adverb(i + 1) or (s.tag(i + 1) in (*_MODIFIERS, Tag.GERUND) and superlative)


def _more(s: Sentence, i: int) -> bool:
    counted = (
        s.word(i - 1) in ("some", "any", "no", "many", "few", "several", "much") or s.tag(i - 1) is Tag.NUMBER
    )
    if counted or s.word(i + 1) == "than":
        return False
    compared = (
        s.is_determiner(i - 1) or s.is_linking(i - 1) or s.word(i - 1) in ("much", "far", "even", "and", "or")
    )
    return s.is_adverb(i + 1) or (s.tag(i + 1) in _MODIFIERS and compared)


def _so(s: Sentence, i: int) -> bool:
    fixed = s.word(i + 1) in ("that", "far", "on", "called") or s.word(i - 1) in (
        "do",
        "does",
        "doing",
        "did",
        "done",
    )
    intense = s.is_adjective(i + 1) or s.is_adverb(i + 1) or s.word(i + 1) in ("many", "much")
    return not fixed and intense


def _there(s: Sentence, i: int) -> bool:
    """The place, not "there is"; before a noun it is a slip for "their"."""
    exists = s.word(i + 1) in AUXILIARIES | LINKING_VERBS or s.word(i - 1) in AUXILIARIES
    governed = s.is_preposition(i - 1) or s.word(i - 1) in PARTICLES
    return not (exists or governed or s.is_noun(i + 1) or s.ends(i - 1))


def _here(s: Sentence, i: int) -> bool:
    governed = s.is_preposition(i - 1) or s.word(i - 1) in PARTICLES
    presents = s.ends(i - 1) and (s.word(i + 1) in BE or s.is_verb(i + 1) or s.starts_noun_phrase(i + 1))
    return not (governed or presents)


def _once(s: Sentence, i: int) -> bool:
    conjunction = s.starts_noun_phrase(i + 1) and not s.is_adjective(i + 1)
    return s.word(i - 1) != "at" and not conjunction and not s.closes(i + 1)


def _yet(s: Sentence, i: int) -> bool:
    return s.word(i + 1) == "another" or (s.ends(i + 1) and not s.closes(i - 1))


def _upside(s: Sentence, i: int) -> bool:
    return s.word(i + 1) == "down" and not s.describes_in_pairs(i)


def _down(s: Sentence, i: int) -> bool:
    return s.word(i - 1) == "upside" and _upside(s, i - 1)


def _out(s: Sentence, i: int) -> bool:
    return s.word(i - 1) == "inside" and not s.describes_in_pairs(i - 1)


def _half(s: Sentence, i: int) -> bool:
    fraction = s.governs(i - 1) or s.word(i - 1) in ("in", "other") or s.word(i + 1) == "next"
    full = s.tag(i + 1) is Tag.ADJECTIVE and not s.is_noun(i + 2)
    return not fraction and (full or s.tag(i + 1) is Tag.PARTICIPLE)


def _enough(s: Sentence, i: int) -> bool:
    return s.is_adjective(i - 1) or s.is_adverb(i - 1)


def _much(s: Sentence, i: int) -> bool:
    compares = s.tag(i + 1) is Tag.COMPARATIVE or (
        s.word(i + 1) in ("more", "less") and s.word(i - 1) != "so"
    )
    return compares or (s.word(i - 1) in ("very", "so") and not s.starts_noun_phrase(i + 1))


NAMED_RULES: dict[str, Rule] = {
    "only": _only, "then": _then, "pretty": _pretty, "well": _well, "as": _as, "still": _still, "even": _even,
    "about": _about, "around": _about, "most": _most, "least": _most, "more": _more, "less": _more, "so": _so,
    "there": _there, "here": _here, "once": _once, "yet": _yet, "upside": _upside, "down": _down, "out": _out,
    "half": _half, "enough": _enough, "much": _much,
}  # fmt: skip

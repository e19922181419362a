"""Whether a word of a caption is an adverb there: rules of grammar on the tags and words around it.

A rule takes a sentence and a place in it. Words that can be nothing else, that can be something else by
their place, and that never count are classes of `vocabulary.py`; words with a grammar of their own have a
rule by name. What no rule speaks of is decided by its tag.
"""

from src.data.adverbs.named_rules import NAMED_RULES, Rule
from src.data.adverbs.needed_rules import is_needed
from src.data.adverbs.sentence import Sentence
from src.data.adverbs.tagger import Tag, known_tag
from src.data.adverbs.vocabulary import (
    ADVERBS_AFTER_NOUNS,
    ADVERBS_IN_LY,
    AFTER_FLAT_ADVERBS,
    AUXILIARIES,
    DIRECTION_ADVERBS,
    FLAT_ADVERBS,
    NEVER_ADVERBS,
    NOT_ADVERBS_IN_LY,
    PARTICLES,
    PLACE_WORDS,
    PLAIN_ADVERBS,
    PREPOSITIONS,
    SIDES,
    TURNING_VERBS,
    UNITS,
)

_ADJECTIVE_SUFFIXES = (
    "ous", "ful", "less", "ive", "al", "ic", "able", "ible", "ant", "ent", "ed", "ing", "ish",
)  # fmt: skip
_ADJECTIVE_TAGS = (Tag.ADJECTIVE, Tag.COMPARATIVE, Tag.PARTICIPLE, Tag.GERUND)
_BARE_STEM = 4


def is_adverb(s: Sentence, i: int) -> bool:
    """Whether the word at a place is an adverb that can be left out."""
    return _works_as_adverb(s, i) and not is_needed(s, i)


def _works_as_adverb(s: Sentence, i: int) -> bool:
    word = s.word(i)
    if word in NAMED_RULES:
        return NAMED_RULES[word](s, i)
    if word in NEVER_ADVERBS or "-" in word or _is_compared(s, i):
        return False
    for words, rule in _CLASSES:
        if word in words:
            return rule(s, i)
    if s.is_ly(i):
        return _in_ly(s, i)
    is_infinitive = s.word(i - 1) == "to" and s.starts_noun_phrase(i + 1)
    by_tag = s.tag(i) is Tag.ADVERB and word not in PREPOSITIONS | NOT_ADVERBS_IN_LY and not is_infinitive
    return by_tag and not s.is_attributive(i) and not s.is_object(i)


def _is_compared(s: Sentence, i: int) -> bool:
    """As fast as, faster than, how fast: without the adverb the rest would mean nothing."""
    return s.word(i - 1) in ("as", "how", "however") or s.word(i + 1) == "than"


def _plain(s: Sentence, i: int) -> bool:
    phrase = (s.word(i), s.word(i + 1))
    # "Two cows together with a calf", but "playing together with a ball".
    fixed = phrase in _FIXED or (phrase == ("together", "with") and not s.is_verb(i - 1))
    return not fixed and not s.is_object(i)


_FIXED = frozenset({("apart", "from"), ("instead", "of"), ("rather", "than")})


def _in_ly(s: Sentence, i: int) -> bool:
    """Adverbs are made of adjectives (slowly), adjectives of nouns and verbs (curly, wobbly)."""
    word = s.word(i)
    if s.is_name(i):
        return False
    listed = known_tag(word)
    if listed in (Tag.ADJECTIVE, Tag.ADVERB):
        return listed is Tag.ADVERB
    if listed in (Tag.NOUN, Tag.VERB):  # Family, apply; the lexicon is wrong about a few, such as "briefly".
        stem = word[:-2]
        return len(stem) >= _BARE_STEM and known_tag(stem) in _ADJECTIVE_TAGS
    from_adjective = _has_adjective_stem(word)
    if from_adjective or word in ADVERBS_IN_LY or s.tag(i + 1) is Tag.PARTICIPLE:
        return True
    if from_adjective is None:
        beside = any(s.is_verb(place) or s.is_adjective(place) for place in (i - 1, i + 1))
        return beside and not s.is_attributive(i)
    describes = s.is_determiner(i - 1) or s.is_adjective(i - 1) or s.is_linking(i - 1) or s.is_noun(i + 1)
    return not describes and not s.is_attributive(i)


def _has_adjective_stem(word: str) -> bool | None:
    """Whether a word in -ly is made of an adjective; None if its stem is unknown."""
    stem = word[:-2]
    happy = [stem[:-1] + "y"] if stem.endswith("i") else []
    tragic = [stem[:-2]] if stem.endswith("al") else []
    for candidate in [*happy, stem, stem + "e", stem + "le", stem + "l", *tragic]:
        tag = known_tag(candidate)
        if tag in _ADJECTIVE_TAGS or candidate.endswith(_ADJECTIVE_SUFFIXES):
            return True
        if tag is not None:
            return False
    return None


def _direction(s: Sentence, i: int) -> bool:
    looks_forward = s.word(i + 1) == "to" and s.word(i - 1).startswith("look")
    before_noun = s.is_noun(i + 1) and not s.is_determiner(i + 2)
    great_outdoors = s.is_adjective(i - 1) and s.is_determiner(i - 2)
    governed = s.is_determiner(i - 1) or s.governs(i - 1) or great_outdoors
    return not (looks_forward or before_noun or governed)


def _place(s: Sentence, i: int) -> bool:
    following = s.word(i + 1)
    if (s.word(i), following) == ("inside", "out"):
        return not s.describes_in_pairs(i)
    described = s.is_adjective(i - 1) and s.word(i - 1) not in FLAT_ADVERBS
    governed = s.is_determiner(i - 1) or s.governs(i - 1) or described
    before_noun = s.tag(i + 1) is Tag.ADJECTIVE and not (s.ends(i + 2) or s.is_preposition(i + 2))
    return not (governed or before_noun or following == "of" or s.starts_noun_phrase(i + 1))


def _side(s: Sentence, i: int) -> bool:
    free = not s.is_determiner(i - 1) and not s.governs(i - 1)
    following = s.word(i + 1)
    to_preposition = s.is_preposition(i + 1) or following in PARTICLES | {"now", "here", "there"}
    if s.word(i) == "right" and free and (to_preposition or (following, s.word(i + 2)) == ("next", "to")):
        return True
    turns = any(s.word(i - 1).startswith(verb) for verb in TURNING_VERBS) or (
        s.tag(i - 1) in (Tag.VERB, Tag.GERUND) and s.word(i - 1) not in AUXILIARIES
    )
    return turns and not s.starts_noun_phrase(i + 1)


def _flat(s: Sentence, i: int) -> bool:
    """Fast, hard, high: an adverb after a verb and its object, an adjective before a noun and after "be"."""
    word, following = s.word(i), s.word(i + 1)
    if word == "far" and (following in ("too", "more", "less") or s.tag(i + 1) is Tag.COMPARATIVE):
        return True
    fixed = (word in ("close", "closer") and following in ("to", "up")) or (
        word == "far" and following == "from"
    )
    up_close = (s.word(i - 1), word) == ("up", "close") and following not in AFTER_FLAT_ADVERBS
    if fixed or up_close or s.word(i - 1) == "to":
        return False
    if f"{s.word(i - 2)} {s.word(i - 1)}" in ("each other", "one another"):
        return not s.starts_noun_phrase(i + 1)
    head = s.before_degree(i)
    described = s.is_determiner(head) or s.is_adjective(head) or s.tag(head) is Tag.NUMBER
    if described or s.word(head) in UNITS or s.governs(head):
        return False
    if following in AFTER_FLAT_ADVERBS or (
        following in ("up", "down") and word in ("high", "low", "straight")
    ):
        return True
    return _follows_verb(s, i, head)


def _follows_verb(s: Sentence, i: int, head: int) -> bool:
    """Whether a flat adverb, with the word `head` before it, stands after a verb or its object."""
    if s.is_linking(head):
        return s.word(i + 1) in ("over", "up")
    if s.tag(head) is Tag.PRONOUN and s.word(i + 1) == "to":  # "makes it hard to tell"
        return False
    if s.ends(head):
        return s.is_preposition(i + 1) and s.word(i + 1) not in ("of", "up", "down", "off", "out")
    # "Arriving early sets his chairs": a noun before a determiner is a verb.
    sentence_goes_on = s.is_noun(i + 1) and s.is_determiner(i + 2) and s.is_verb(head)
    if (s.starts_noun_phrase(i + 1) and not sentence_goes_on) or s.tag(i + 1) is Tag.ADJECTIVE:
        return False
    after_noun = s.word(i) in ADVERBS_AFTER_NOUNS and s.is_noun(head)
    return after_noun or s.is_verb(head) or s.word(head) in PARTICLES or s.has_verb_before(i)


_CLASSES: tuple[tuple[frozenset[str], Rule], ...] = (
    (PLAIN_ADVERBS, _plain),
    (DIRECTION_ADVERBS, _direction),
    (PLACE_WORDS, _place),
    (SIDES, _side),
    (FLAT_ADVERBS, _flat),
)

"""A tagged caption and what can be asked about the place of a word in it."""

from collections.abc import Sequence

from src.data.adverbs.tagger import Tag, tag_word
from src.data.adverbs.vocabulary import (
    AUXILIARIES,
    BE,
    CONJUNCTIONS,
    DEGREE_ADVERBS,
    DETERMINERS,
    LINKING_VERBS,
    NOT_ADVERBS_IN_LY,
    PARTICLES,
    PLACE_WORDS,
    PLAIN_ADVERBS,
    PREPOSITIONS,
)

_VERBS = frozenset({Tag.VERB, Tag.PARTICIPLE, Tag.GERUND})
_ADJECTIVES = frozenset({Tag.ADJECTIVE, Tag.COMPARATIVE})
# What can only govern a noun phrase, so that an adjective comes next rather than an adverb.
_GOVERNING = PREPOSITIONS - PARTICLES - PLACE_WORDS
_NO_NOUN_PHRASE = PREPOSITIONS | CONJUNCTIONS | PARTICLES | AUXILIARIES
_FUNCTION_WORDS = (PREPOSITIONS - PLACE_WORDS) | CONJUNCTIONS | AUXILIARIES
_MIN_SHOUTED = 3


class Sentence:
    """The words of a caption in lower case and their tags; a place outside of it holds nothing.

    Args:
        texts: words and punctuation marks.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = [text.lower().replace("\u2019", "'") for text in texts]
        self._tags = [_tag(word) for word in self._words]
        self._capitals = [text[0].isupper() for text in texts]
        inner = [text for text in texts[1:] if len(text) >= _MIN_SHOUTED]
        # In headlines and in capitals a capital letter does not mark a name.
        self.shouted = 2 * sum(text[0].isupper() for text in inner) > len(inner)

    def __len__(self) -> int:
        return len(self._words)

    def word(self, index: int) -> str:
        """The word at a place; empty outside of the caption."""
        return self._words[index] if 0 <= index < len(self._words) else ""

    def tag(self, index: int) -> Tag | None:
        """The tag at a place; None for punctuation and outside of the caption."""
        return self._tags[index] if 0 <= index < len(self._words) else None

    def is_word(self, index: int) -> bool:
        """Whether a word stands there."""
        return self.tag(index) is not None

    def ends(self, index: int) -> bool:
        """Whether the clause is over there: punctuation, or the edge of the caption."""
        return not self.is_word(index) and self.word(index) != "&"

    def closes(self, index: int) -> bool:
        """Whether nothing there can belong to the phrase before it."""
        return self.ends(index) or self.word(index) in CONJUNCTIONS

    def is_name(self, index: int) -> bool:
        """Whether a capital letter within the sentence marks a name."""
        return self._capitals[index] and not self.shouted and not self.ends(index - 1)

    def is_determiner(self, index: int) -> bool:
        """Determiners and genitives."""
        word = self.word(index)
        return word in DETERMINERS or (word.endswith(("'s", "s'")) and word not in BE)

    def is_preposition(self, index: int) -> bool:
        """Prepositions, those that can be particles included."""
        return self.word(index) in PREPOSITIONS

    def governs(self, index: int) -> bool:
        """Prepositions that are nothing else."""
        return self.word(index) in _GOVERNING

    def is_noun(self, index: int) -> bool:
        """Nouns, as the tagger has it."""
        return self.tag(index) is Tag.NOUN

    def is_adjective(self, index: int) -> bool:
        """Adjectives and comparatives."""
        return self.tag(index) in _ADJECTIVES

    def is_verb(self, index: int) -> bool:
        """Verbs in any form, and the third person that the lexicon has as a plural: "a chef presses"."""
        if self.tag(index) in _VERBS:
            return True
        word = self.word(index)
        subject = self.is_noun(index - 1) and not self.word(index - 1).endswith("s")
        return (
            self.is_noun(index)
            and word.endswith("s")
            and (subject or self.word(index - 1) in ("who", "that"))
        )

    def has_finite_verb(self, index: int) -> bool:
        """Whether the verb of a subject stands there: "it covers", "they can", also after an adverb."""
        place = index + self.is_adverb(index)
        return self.word(place) in AUXILIARIES or self.tag(place) is Tag.VERB or self.is_verb(place)

    def is_linking(self, index: int) -> bool:
        """Verbs that take an adjective."""
        return self.word(index) in LINKING_VERBS

    def is_ly(self, index: int) -> bool:
        """Words in -ly that may be adverbs."""
        word = self.word(index)
        return word.endswith("ly") and len(word) > len("only") and word not in NOT_ADVERBS_IN_LY

    def is_adverb(self, index: int) -> bool:
        """Adverbs, seen from a neighbour: the tagger's, plain ones, and those in -ly."""
        return self.tag(index) is Tag.ADVERB or self.word(index) in PLAIN_ADVERBS or self.is_ly(index)

    def starts_noun_phrase(self, index: int) -> bool:
        """Whether a noun phrase begins there."""
        word, tag = self.word(index), self.tag(index)
        if self.is_determiner(index) or tag in (Tag.NUMBER, Tag.PRONOUN):
            return True
        if not self.is_word(index) or word in _NO_NOUN_PHRASE:
            return False
        if self.is_adjective(index):
            return self.is_noun(index + 1) or (self.is_adjective(index + 1) and self.is_noun(index + 2))
        if tag in (Tag.PARTICIPLE, Tag.GERUND):
            return self.is_noun(index + 1) and not self.is_determiner(index + 2)
        return self.is_noun(index)

    def before_degree(self, index: int) -> int:
        """The place before a word and the adverbs of degree that belong to it."""
        place = index - 1
        while self.word(place) in DEGREE_ADVERBS or self.is_ly(place):
            place -= 1
        return place

    def has_verb_before(self, index: int) -> bool:
        """Whether the clause has a full verb before a place."""
        for place in range(index - 1, -1, -1):
            if self.closes(place):
                return False
            if self.is_verb(place) and not self.is_linking(place):
                return True
        return False

    def is_attributive(self, index: int) -> bool:
        """Whether a word stands where an adjective does: before a noun, or alone after a determiner."""
        opens = self.is_determiner(index - 1) or self.is_preposition(index - 1) or self.ends(index - 1)
        if self.is_noun(index + 1) and (opens or self.is_adjective(index - 1)):
            return True
        follows = self.is_verb(index + 1) or self.is_adjective(index + 1) or self.is_adverb(index + 1)
        return self.is_determiner(index - 1) and not follows

    def is_object(self, index: int) -> bool:
        """Whether a word is itself what a preposition governs: "from above", "for now"."""
        after = index + 1
        if self.governs(index - 1):
            return not (self.starts_noun_phrase(after) or self.is_adverb(after) or self.is_adjective(after))
        return self.word(index - 1) in ("in", "by") and self.ends(after)

    def describes_in_pairs(self, index: int) -> bool:
        """Whether a word and the next describe a noun: "an upside down bowl", "an inside out shirt"."""
        noun_follows = not self.closes(index + 2) and not self.is_preposition(index + 2)
        return self.is_determiner(index - 1) and noun_follows


def _tag(word: str) -> Tag | None:
    if not word[0].isalnum():
        return None
    # Rare readings of prepositions ("the past") are left to their frequent one.
    return Tag.OTHER if word in _FUNCTION_WORDS else tag_word(word)

import pytest

from src.words import article, has_word, starts_with_vowel_sound

AFTER_AN = (
    "apple hour honest honor honour heir hourly umbrella uninteresting unidentified unmade under untidy onion oneself "
    "ugly 8 80 8th 800 11 18 11th 18-wheeler 1800s 1100 11,000 18000 SUV MRI X-ray S-shaped F16 LED HDTV NFL RV"
)
AFTER_A = (
    "dog house hot one one-way once one's European euro ewe unicycle unique uniform unidirectional unit union use used "
    "usual utensil utility ukulele Ukrainian uranium ubiquitous UFO U-turn USB TV PC NASA BMW 1 10 12 118 110 1,100 "
    "180 1900s 7 yellow"
)


def test_which_article_stands_before_a_word():
    assert [word for word in AFTER_AN.split() if not starts_with_vowel_sound(word)] == []
    assert [word for word in AFTER_A.split() if starts_with_vowel_sound(word)] == []


def test_words_in_capitals_can_be_read_as_words():
    assert starts_with_vowel_sound("OLD", spelled=False)
    assert not starts_with_vowel_sound("RED", spelled=False)


@pytest.mark.parametrize(
    ("phrase", "expected"), [("object", "an"), ("toy", "a"), ("old car", "an"), ("", "a"), (" ", "a")]
)
def test_the_article_of_a_phrase(phrase, expected):
    assert article(phrase) == expected


@pytest.mark.parametrize(
    "text", ["sksToy", "a photo of sksToy, red", "(sksToy)", "the sksToy's hat", "sksToy-like"]
)
def test_a_word_stands_there_also_beside_punctuation(text):
    assert has_word(text, "sksToy")


@pytest.mark.parametrize("text", ["", "sksToys", "my_sksToy", "skstoy"])
def test_a_part_of_another_word_is_none(text):
    assert not has_word(text, "sksToy")


def test_a_word_may_hold_signs():
    assert has_word("a photo of <sks>, red", "<sks>")

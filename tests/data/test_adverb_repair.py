import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.adverbs.repair import delete_spans, merge_coordinated
from tests.data.adverbs.labelled import load


def marked(text):
    """A caption and the spans of its words in braces."""
    spans = [
        (found.start() - 2 * n, found.end() - 2 * n - 2)
        for n, found in enumerate(re.finditer(r"{\w+}", text))
    ]
    return re.sub("[{}]", "", text), spans


def test_labelled_spans_leave_what_an_editor_leaves():
    same = [delete_spans(item.caption, sorted(item.adverbs)) == item.without for item in load()]
    assert sum(same) > 0.98 * len(same)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("A dog runs {fast}.", "A dog runs."),
        ("A dog {slowly} runs", "A dog runs"),
        ("A {very} {very} big dog", "A big dog"),
        ("  A dog  sits , {here} .", "  A dog  sits."),
        ("A dog  sits {here}  by a tree", "A dog  sits by a tree"),
        ("A dog sits {here}\n", "A dog sits"),
        ('Sign says "park {here}"', 'Sign says "park"'),
        ('Sign says "{Only} buses"', 'Sign says "Buses"'),
        ("A dog ({slowly}) runs", "A dog runs"),
        ("A dog ({very} big) runs", "A dog (big) runs"),
        ("{Slowly}, a dog runs.", "A dog runs."),
        ("Rain. {Slowly}, a dog runs.", "Rain. A dog runs."),
        ("Rain. {Slowly}. A dog runs. {Fast}!", "Rain. A dog runs."),
        ("{Slowly}. A dog runs.", "A dog runs."),
        ("A dog sits, {quietly}, by a door.", "A dog sits by a door."),
        ("A dog sits, {too}.", "A dog sits."),
        ("A dog sits {quietly}, and a cat runs.", "A dog sits, and a cat runs."),
        ("A red, {slightly} dented bus", "A red, dented bus"),
        ("A dog runs {slowly} and {gently} along", "A dog runs along"),
        ("A dog runs {slowly}, {gently} and {quietly}.", "A dog runs."),
        ("A dog yawns {widely} and {then} sleeps", "A dog yawns and sleeps"),
        ("A dog sits {quietly}, {happily} eating", "A dog sits, eating"),
        ("A dog is {quietly}, {happily} eating", "A dog is eating"),
        ("{slowly} a dog runs", "a dog runs"),
        ("{Only} McDonald signs", "McDonald signs"),
    ],
)
def test_spaces_punctuation_and_capitals(text, after):
    assert delete_spans(*marked(text)) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("A {very} old car", "An old car"),
        ("an {unusually} long car", "a long car"),
        ("AN {UNUSUALLY} LONG CAR AND A {VERY} OLD ONE", "A LONG CAR AND AN OLD ONE"),
        ("A {very} honest man and an {only} european", "An honest man and a european"),
        ("A {slightly} \u201codd\u201d car", "An \u201codd\u201d car"),
        ("The {very} old car", "The old car"),
        ("A an apple, a {very} red one", "A an apple, a red one"),
        ("Vitamin {very} and a {mostly} 8-sided box", "Vitamin and an 8-sided box"),
        ("A car, a {truly}, and a bus", "A car, a, and a bus"),
    ],
)
def test_articles(text, after):
    assert delete_spans(*marked(text)) == after


def test_marks_within_words_do_not_go_with_the_word_between():
    assert delete_spans("8'8'8", [(2, 3)]) == "8''8"


def test_coordinated_spans_are_one():
    text, spans = marked("He runs {slowly} and {very} {gently} in and {out}")
    assert [text[start:end] for start, end in merge_coordinated(text, spans)] == [
        "slowly and very gently",
        "out",
    ]


@given(st.text(alphabet="a bA,.()\"'&\n8é", max_size=30), st.data())
def test_words_that_are_not_deleted_stay(caption, data):
    spans = [found.span() for found in re.finditer(r"\w+", caption)]
    chosen = [span for span in spans if data.draw(st.booleans())]
    left = re.findall(r"\w+", delete_spans(caption, chosen))
    kept = [caption[start:end] for start, end in spans if (start, end) not in chosen]
    # An article may have been fitted, a first letter raised.
    assert len(left) == len(kept)
    assert [word.casefold() for word in left if word.casefold() not in ("a", "an")] == [
        word.casefold() for word in kept if word.casefold() not in ("a", "an")
    ]

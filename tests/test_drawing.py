"""Text in pictures."""

import pytest
from PIL import ImageFont

from src.drawing import font_for, wrap


def has_letter(font, letter):
    missing = font.getmask("\uffff")
    return (bytes(font.getmask(letter)), font.getmask(letter).size) != (bytes(missing), missing.size)


@pytest.mark.parametrize("text", ["a photo of a toy", "it\u2019s \u201cnew\u201d\u2026"])
def test_plain_text_is_in_the_font_that_comes_with_pillow(text):
    font = font_for(text, 20)
    assert font.getname() == ImageFont.load_default(20).getname()
    assert all(has_letter(font, letter) for letter in text.replace(" ", ""))


@pytest.mark.parametrize("letter", ["é", "ß", "Ж", "Ł"])
def test_other_letters_are_in_one_of_the_system(letter):
    font = font_for(letter, 20)
    if font.getname() == ImageFont.load_default(20).getname():
        pytest.skip("this system has no font with more letters")
    assert has_letter(font, letter)


def test_wrapping():
    font = ImageFont.load_default(17)
    lines = wrap("a photo of a toy on a wooden table", font, 120, max_lines=9)
    assert " ".join(lines) == "a photo of a toy on a wooden table"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 120 for line in lines)
    broken = wrap("x" * 80, font, 120, max_lines=99)
    assert "".join(broken) == "x" * 80
    assert all(font.getlength(line) <= 120 for line in broken)
    cut = wrap("word " * 50, font, 120, max_lines=3)
    assert len(cut) == 3
    assert cut[-1].endswith("…")
    assert font.getlength(cut[-1]) <= 120
    # Within moments: it was hours when every line was broken, and from the far end.
    endless = wrap("x" * 10_000, font, 120, max_lines=3)
    assert endless[:2] == broken[:2]
    assert endless[2].endswith("…")

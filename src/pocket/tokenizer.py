"""The pocket models' vocabulary: byte-level BPE in CLIP's form, small enough to learn on the spot.

CLIP's real vocabulary has 49,408 entries, more than a pocket model has parameters to spare for. This one
holds every byte, with and without the end-of-word mark, so that any text can be encoded, and the most useful
merges of the pocket world's captions and of a short list of other words (Sennrich et al. 2016, arXiv
1508.07909, algorithm 1).
"""

import functools
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from src.pocket.world.sampling import sample_scene
from src.pocket.world.world_set import TRAIN_SEED

START, END = "<|startoftext|>", "<|endoftext|>"
MODEL_MAX_LENGTH = 77

# Beside the world's own captions: words that people who try the models will use. What matters is that common
# words of captions become one token.
_OTHER_WORDS = """
a toy, a photo of a toy, the toy,
a photo of a toy on a wooden table in the grass near a window at sunset, a picture of the red ball beside a
blue box, an image of a small green car under a yellow chair, a drawing of a round orange cup over a white
shelf, a painting of one purple bear with a black hat and a pink scarf, two brown dogs and three grey cats
playing in the garden, a large square house behind the tall tree, a bird in the sky above the sea, the sun,
the moon and a star at night, a fish in the water, a boat on the lake, a close up of a flower, a person with
a book, a man, a woman, a boy and a girl standing on the street, a child sitting on a bed, a horse in a field,
a train at the station, a bus on the road, a bicycle against the wall, a cake on a plate, an apple and a
banana in a bowl, a bottle on the kitchen counter, a clock on the desk, a robot, a monster, a teddy, a duck,
a rabbit, a dragon, a cartoon character, a black and white pictogram of a house, a simple symbol, an icon with
thick lines on a plain background, bright colours, dark light, soft shadow, top view, side view, front, left,
right, centre, corner, beach, snow, sand, forest, mountain, city, carpet, floor, stone, metal, glass, paper,
plastic, wool, striped, dotted, checkered, circle, triangle, square, diamond, cross, ring, heart, small, big,
low quality, blurry, deformed, ugly, bad, cropped, noisy, watermark, text,
high quality, detailed, sharp, colourful, gradient, solid, texture
"""
_NUM_CAPTIONS, _NUM_MERGES = 1000, 640


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255, as GPT-2 and CLIP have it."""
    spans = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    printable = [byte for first, last in spans for byte in range(ord(first), ord(last) + 1)]
    characters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        characters.setdefault(byte, chr(256 + len(characters) - len(printable)))
    return [characters[byte] for byte in range(256)]


def learn_merges(corpus: str, num_merges: int) -> list[tuple[str, str]]:
    """The most frequent neighbouring pairs, in the order in which they are merged; ties go alphabetically."""
    counts = Counter(re.findall(r"[a-z]+", corpus.lower()))
    words = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < num_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _merge(pieces, best) for word, pieces in words.items()}
    return merges


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(pieces):
        if pieces[index : index + 2] == pair:
            merged.append(pieces[index] + pieces[index + 1])
            index += 2
        else:
            merged.append(pieces[index])
            index += 1
    return tuple(merged)


@functools.cache
def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to id, in CLIP's order (bytes, bytes that end a word, merges, start, end), and the merges."""
    characters = sorted(byte_characters(), key=lambda character: (ord(character) > 255, ord(character)))
    captions = (sample_scene(TRAIN_SEED, index).caption for index in range(_NUM_CAPTIONS))
    merges = learn_merges("\n".join([_OTHER_WORDS, *captions]), _NUM_MERGES)
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path, *, pad_token: str = END) -> None:
    """Writes a tokenizer folder in the form of Stable Diffusion's own.

    Args:
        folder: made if need be.
        pad_token: SDXL's second tokenizer pads with "!", all others with the end token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    settings = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": MODEL_MAX_LENGTH}
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, value in (("special_tokens_map.json", special), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

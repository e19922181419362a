"""Near duplicates: one picture stored, scaled, lightened or cropped anew, found by perceptual hashes.

An image that is held out says nothing if nearly the same image is trained on. So such images form groups, and
a group stays on one side of the split.
"""

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping

import imagehash
import numpy as np
from jaxtyping import Float32, UInt64
from PIL import Image

# Part of what is remembered of a file: raise it when the same image would give another fingerprint.
FINGERPRINT_VERSION = 1
# Two images are near duplicates if their colours on a coarse grid correlate by 0.99; or by 0.9, and their
# hashes of 256 bits differ in at most 40. Measured (docs/near_duplicates.md): copies of the 56 demo photos
# differ in up to 40 bits as long as no more than 4 % of their width is lost, two photos of the toy in one
# place in 78 or more, with colours that correlate by 0.77 at most. Of smooth and of flat pictures many
# frequencies are near zero and their signs are noise: for these there is the first rule.
MAX_DISTANCE = 40
# The hash sees shapes in grey only: by it alone 88 of 1,911 flat pictograms, flags, were one chain.
MIN_CORRELATION = 0.9
SURE_CORRELATION = 0.99

_HASH_SIDE = 16
_COLOUR_SIDE = 12
_SMALL = (128, 128)
_HASH_BYTES = _HASH_SIDE * _HASH_SIDE // 8
_BLOCK = 128
# In steps of 255; below, an image has one colour and its shapes are noise.
_FLAT = 1.0


def fingerprint(image: Image.Image) -> str:
    """What an RGB image looks like: a perceptual hash of 256 bits and its colours on a 12x12 grid, as text.

    The hash is ImageHash's `phash`: signs of the lowest frequencies of a discrete cosine transform.
    """
    small = image.resize(_SMALL, Image.Resampling.BOX)
    bits = imagehash.phash(small, hash_size=_HASH_SIDE).hash
    colours = small.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    return base64.b64encode(np.packbits(bits).tobytes() + np.asarray(colours).tobytes()).decode()


def group_near_duplicates(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """A key for each image, the same for near duplicates and for near duplicates of these.

    All pairs are compared: 1 s for 10,000 images, 7 s for 30,000. An image of a single colour is nobody's
    near duplicate.

    Args:
        fingerprints: Of different contents, by name; the empty one for an image that has none.

    Returns:
        For each name one name of its group, by itself if it has no near duplicates.
    """
    names = [name for name, value in fingerprints.items() if value]
    keys = {name: name for name in fingerprints}
    if not names:
        return keys
    words, colours = _decode([fingerprints[name] for name in names])
    labels = np.arange(len(names))
    for row, others in _neighbours(words, colours):
        # In a set of equal images most are of one group already.
        if (labels[others] != labels[row]).any():
            joined = np.unique(labels[np.append(others, row)])
            labels[np.isin(labels, joined)] = joined[0]
    keys.update({name: names[label] for name, label in zip(names, labels.tolist(), strict=True)})
    return keys


def _decode(values: list[str]) -> tuple[UInt64[np.ndarray, "n 4"], Float32[np.ndarray, "n c"]]:
    """Hashes as words, and colours as vectors whose products are correlations."""
    data = np.array([np.frombuffer(base64.b64decode(value), dtype=np.uint8) for value in values])
    words = np.ascontiguousarray(data[:, :_HASH_BYTES]).view(np.uint64)
    grids = data[:, _HASH_BYTES:].reshape(len(values), _COLOUR_SIDE**2, 3).astype(np.float32)
    # Of each channel by itself, or all reddish images would correlate.
    colours = (grids - grids.mean(axis=1, keepdims=True)).reshape(len(values), -1)
    spread = np.sqrt((colours**2).mean(axis=1, keepdims=True))
    colours /= np.sqrt(colours.shape[1]) * np.maximum(spread, _FLAT)
    colours[spread[:, 0] < _FLAT] = 0
    return words, colours


def _neighbours(
    words: UInt64[np.ndarray, "n 4"], colours: Float32[np.ndarray, "n c"]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each image that has near duplicates behind it, with these."""
    for start in range(0, len(words), _BLOCK):
        correlation = np.triu(colours[start : start + _BLOCK] @ colours[start:].T, 1)
        rows = np.flatnonzero((correlation >= MIN_CORRELATION).any(axis=1))
        distance = np.zeros((len(rows), len(words) - start), dtype=np.uint16)
        for word in range(words.shape[1]):
            distance += np.bitwise_count(words[start + rows, word, None] ^ words[None, start:, word])
        correlation = correlation[rows]
        close = (correlation >= MIN_CORRELATION) & (distance <= MAX_DISTANCE)
        for row, others in zip(rows.tolist(), close | (correlation >= SURE_CORRELATION), strict=True):
            if others.any():
                yield start + row, start + np.flatnonzero(others)


def groups_of(keys: Mapping[str, str]) -> list[list[str]]:
    """The names of each group of more than one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, key in keys.items():
        groups[key].append(name)
    return [names for names in groups.values() if len(names) > 1]

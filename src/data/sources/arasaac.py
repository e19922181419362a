"""Pictograms from ARASAAC's public API.

`GET <api>/pictograms/all/<language>` lists them with their keywords; the images are files,
`<static>/<id>/<id>_<width>.png` in colour and `<id>_nocolor_<width>.png` in black and white.
"""

from __future__ import annotations

import difflib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.checks import require_choice, require_flag, require_web_address, require_whole_number, require_words
from src.data.download import download
from src.data.fetch_http import FetchError, Retries, shown
from src.data.readers.arasaac import CREDIT, to_pictogram, words_of
from src.data.readers.common import first_by_hash
from src.data.sources.pace import Pace
from src.data.sources.png_files import fetch_pngs
from src.errors import UserError
from src.files import require_free_space, write_json_atomic, write_text_atomic

_LANGUAGES = (
    "an ar bg br ca cs da de el en es et eu fa fr gl he hi hr hu is it ko lt lv mk nb nl pl pt ro ru sk sq "
    "sr sv tr uk val zh"
)
LANGUAGES = tuple(_LANGUAGES.split())
# Width in pixels, and about how many bytes such a file has: generous, for the check of free space.
_BYTES_OF_SIZE = {300: 30_000, 500: 60_000, 2500: 500_000}
_MAX_LIST_BYTES = 1 << 28
# Seconds: an interrupted download goes on with the list that it began with, if that is of today.
_LIST_LASTS = 24 * 3600.0
_MAX_SHARE_GONE = 0.05
_MAX_PARALLEL = 16

_LICENCE = f"""# Licence of these pictograms

{CREDIT}

The licence is Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International
(https://creativecommons.org/licenses/by-nc-sa/4.0/): name author, origin and owner as above, make no
commercial use, and pass on what you make of them under the same licence.
ARASAAC's terms: https://arasaac.org/terms-of-use
"""

_log = logging.getLogger(__name__)


class ArasaacSource:
    """Brings pictograms with their keywords in one language, as `read_arasaac` reads them.

    Pictograms that are flagged violence or sex or have no keyword in the language are not brought.

    Args:
        language: of the keywords, one of `LANGUAGES`.
        colour: false for the black and white drawings.
        size: width of the images in pixels: 300, 500 or 2500.
        max_samples: bring no more than so many, always the same ones; see `first_by_hash`.
        categories: bring those only that have one of these categories or tags, in the words of the language.
        requests_per_second: the pace, of all requests together.
        num_parallel: requests under way at once, 1 to 16.
        api: address of the API.
        static: address of the image files.

    Raises:
        UserError: an option is not what it may be.
    """

    def __init__(
        self,
        *,
        language: str = "en",
        colour: bool = True,
        size: int = 500,
        max_samples: int | None = None,
        categories: Sequence[str] = (),
        requests_per_second: float = 5.0,
        num_parallel: int = 4,
        api: str = "https://api.arasaac.org/v1",
        static: str = "https://static.arasaac.org/pictograms",
    ) -> None:
        key = "dataset.source"
        require_choice(f"{key}.language", language, LANGUAGES)
        require_flag(f"{key}.colour", colour)
        require_choice(f"{key}.size", size, tuple(_BYTES_OF_SIZE))
        if max_samples is not None:
            require_whole_number(f"{key}.max_samples", max_samples, least=1)
        require_words(f"{key}.categories", categories)
        require_whole_number(f"{key}.num_parallel", num_parallel, least=1, most=_MAX_PARALLEL)
        is_number = isinstance(requests_per_second, int | float) and not isinstance(requests_per_second, bool)
        if not is_number or not 0 < requests_per_second <= 1000:
            raise UserError(f"{key}.requests_per_second={requests_per_second} must be a number above 0.")
        require_web_address(f"{key}.api", api)
        require_web_address(f"{key}.static", static)
        self._language, self._colour, self._size = language, colour, size
        self._max_samples, self._categories = max_samples, tuple(categories)
        self._requests_per_second, self._num_parallel = requests_per_second, num_parallel
        self._api, self._static = api.rstrip("/"), static.rstrip("/")

    @property
    def origin(self) -> str:
        """What it brings, in words."""
        parts = [f"language {self._language}", "colour" if self._colour else "black and white"]
        parts.append(f"{self._size} px")
        if self._categories:
            parts.append(f"categories {', '.join(sorted(self._categories))}")
        if self._max_samples is not None:
            parts.append(f"at most {self._max_samples}")
        return f"ARASAAC pictograms ({'; '.join(parts)})"

    def missing(self, path: Path) -> list[str]:
        """All or nothing: what the folder holds is not looked into."""
        return [] if path.is_dir() and any(path.iterdir()) else ["images and keywords"]

    def fetch(self, folder: Path, *, missing: Sequence[str], retries: Retries, progress: bool) -> Path:
        """Brings list and images; see `Source.fetch`.

        Raises:
            FetchError: ARASAAC cannot be reached or its answer not be used.
            UserError: no pictogram has the categories, or not enough disk space.
        """
        assert missing
        pace = Pace(per_second=self._requests_per_second)
        items = self._choose(self._list(folder, pace=pace, retries=retries, progress=progress))
        # Images of another kind, from an earlier try with other options, are not mixed with these.
        whole = folder / f"{'colour' if self._colour else 'nocolor'}_{self._size}"
        (whole / "images").mkdir(parents=True, exist_ok=True)
        places = {whole / "images" / f"{id}.png": id for id in items}
        num_new = sum(not place.exists() for place in places)
        require_free_space(folder, num_new * _BYTES_OF_SIZE[self._size], f"{num_new} pictograms")
        _log.info(
            "%d pictograms, %d of them to fetch, %g a second. Ctrl-C is safe: starting again goes on.",
            len(places),
            num_new,
            self._requests_per_second,
        )
        gone = fetch_pngs(
            {place: self._image_address(id) for place, id in places.items()},
            pace=pace,
            num_parallel=self._num_parallel,
            max_gone=max(1, int(_MAX_SHARE_GONE * len(places))),
            retries=retries,
            progress=progress,
            what="pictograms",
        )
        for place in gone:
            del items[places.pop(place)]
        if not items:
            raise FetchError(f"{shown(self._static)} has none of the pictograms. Check the address.")
        if gone:
            names = ", ".join(place.stem for place in gone)
            _log.warning("%d pictograms have no image at ARASAAC and were left out: %s.", len(gone), names)
        for file in (whole / "images").iterdir():
            if file not in places:
                file.unlink()  # of an earlier try that was to have more
        write_json_atomic(whole / "pictograms.json", list(items.values()))
        write_text_atomic(whole / "ATTRIBUTION.txt", CREDIT + "\n")
        write_text_atomic(whole / "LICENSE.md", _LICENCE)
        _log.info("The pictograms' licence is CC BY-NC-SA 4.0, not for commercial use. %s", CREDIT)
        return whole

    def _image_address(self, id: str) -> str:
        return f"{self._static}/{id}/{id}{'' if self._colour else '_nocolor'}_{self._size}.png"

    def _list(self, folder: Path, *, pace: Pace, retries: Retries, progress: bool) -> list[dict[str, Any]]:
        """The items of the API for the language."""
        url = f"{self._api}/pictograms/all/{self._language}"
        file = folder / f"list_{self._language}.json"
        if not (file.exists() and time.time() - file.stat().st_mtime < _LIST_LASTS):

            def resolve() -> str:
                pace.wait()
                return url

            download(resolve, file, source=url, max_bytes=_MAX_LIST_BYTES, retries=retries, progress=progress)
        data = file.read_bytes()
        try:
            items = json.loads(data)
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            file.unlink()
            raise FetchError(
                f"{shown(url)} answered with something else than a list of pictograms (it begins with "
                f"{data[:40]!r}). Is a sign-in page or a proxy between?"
            )
        return items

    def _choose(self, items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """The items to bring by id, in the order of their ids."""
        usable: dict[str, dict[str, Any]] = {}
        for item in items:
            pictogram = to_pictogram(item, where="")
            is_number = pictogram.id.isascii() and pictogram.id.isdecimal()
            if is_number and pictogram.title and not pictogram.is_flagged:
                usable.setdefault(pictogram.id, item)
        labels = {id: _labels(item) for id, item in usable.items()}
        wanted = {category.casefold() for category in self._categories}
        chosen = [id for id in usable if not wanted or labels[id] & wanted]
        _log.info(
            "ARASAAC lists %d pictograms; %d of them have keywords in %r and no flag%s.",
            len(items),
            len(usable),
            self._language,
            f", {len(chosen)} of them have the categories" if wanted else "",
        )
        if not usable:
            raise FetchError(f"ARASAAC's list has no pictogram with a keyword in {self._language!r}.")
        if not chosen:
            known = sorted(set().union(*labels.values()))
            near = [word for name in sorted(wanted) for word in difflib.get_close_matches(name, known, n=3)]
            raise UserError(
                f"No pictogram has one of dataset.source.categories={list(self._categories)}. "
                f"Near: {', '.join(near) or 'nothing'}. There are, for example: {', '.join(known[:10])}."
            )
        if self._max_samples is not None:
            chosen = list(first_by_hash(chosen, self._max_samples))
        return {id: usable[id] for id in sorted(chosen, key=int)}


def _labels(item: dict[str, Any]) -> set[str]:
    return {word.casefold() for key in ("categories", "tags") for word in words_of(item.get(key))}

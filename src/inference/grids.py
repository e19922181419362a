"""Pictures to look at: base beside adapted on the same prompts and seeds, and PNG files that say how."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from src.drawing import font_for, wrap
from src.files import write_bytes_atomic

Images = Sequence[Image.Image]

_MAX_WIDTH = 2400
_SMALLEST, _LARGEST = 176, 384
_GAP, _GROUP_GAP, _MARGIN, _LABEL_WIDTH = 6, 20, 24, 210
_HEADER_SIZE, _LABEL_SIZE = 20, 17
_BACKGROUND, _INK, _SOFT, _RULE = "#ffffff", "#1a1a1a", "#6b6b6b", "#dddddd"


def comparison_grid(
    *, prompts: Sequence[str], adapted: Sequence[Images], base: Sequence[Images] = (), photos: Images = ()
) -> Image.Image:
    """A table of images: a row for each prompt, columns for the base model and for the adapted one.

    Args:
        prompts: one for each row.
        adapted: each row's images, the same number everywhere.
        base: the same from the base model, or nothing.
        photos: held-out photos for a last row; as many as fit are shown.
    """
    assert len(adapted) == len(prompts), "a row of images for each prompt"
    assert len(base) in (0, len(prompts)), "a row of base images for each prompt, or none"
    groups = [("Base model", base)] if base else []
    groups.append(("With adapter", adapted))
    num_columns = len(groups) * len(adapted[0])
    layout = _Layout(
        cell=_cell_size(adapted[0][0], num_columns), per_group=len(adapted[0]), num_groups=len(groups)
    )
    width, height = layout.size(num_rows=len(prompts), has_photos=bool(photos))
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, (name, _) in enumerate(groups):
        layout.draw_header(draw, index, name)
    for row, prompt in enumerate(prompts):
        top = layout.row_top(row)
        _draw_label(draw, prompt, top=top, height=layout.cell[1], colour=_INK)
        for group, (_, rows) in enumerate(groups):
            for column, image in enumerate(rows[row]):
                canvas.paste(_fitted(image, layout.cell), (layout.left(group, column), top))
    if photos:
        top = layout.photos_top(len(prompts))
        draw.line([(_MARGIN, top - _GROUP_GAP), (width - _MARGIN, top - _GROUP_GAP)], fill=_RULE)
        _draw_label(draw, "Held-out photos\n(never trained on)", top=top, height=layout.cell[1], colour=_SOFT)
        for index, photo in enumerate(photos[:num_columns]):
            left = layout.left(index // layout.per_group, index % layout.per_group)
            canvas.paste(_fitted(photo, layout.cell), (left, top))
    return canvas


def save_png(image: Image.Image, path: Path, params: Mapping[str, Any] | None = None) -> None:
    """Writes a PNG, whole or not at all, with its parameters inside.

    Args:
        image: the picture.
        path: where to.
        params: see `png_bytes`.
    """
    write_bytes_atomic(path, png_bytes(image, params))


def png_bytes(image: Image.Image, params: Mapping[str, Any] | None = None) -> bytes:
    """The content of a PNG with its parameters inside.

    Args:
        image: the picture.
        params: kept twice: as JSON in the text chunk `darkroom`, and in the form of A1111's `parameters`,
            which most viewers of generated images show.
    """
    info = PngImagePlugin.PngInfo()
    if params is not None:
        info.add_text("darkroom", json.dumps(dict(params), sort_keys=True))
        info.add_text("parameters", a1111_text(params))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_params(path: Path) -> dict[str, Any] | None:
    """The parameters that `save_png` put into a PNG, or None."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        text = image.info.get("darkroom")
    return None if text is None else dict(json.loads(text))


_A1111_NAMES = {
    "num_steps": "Steps",
    "scheduler": "Sampler",
    "guidance_scale": "CFG scale",
    "noise_seed": "Seed",
    "model": "Model",
    "model_hash": "Model hash",
    "adapter": "Adapter",
    "adapter_scale": "Adapter scale",
}


def a1111_text(params: Mapping[str, Any]) -> str:
    """Parameters in A1111's form: the prompt, the negative prompt, then one line of `name: value` pairs."""
    lines = [str(params.get("prompt", ""))]
    if params.get("negative_prompt"):
        lines.append(f"Negative prompt: {params['negative_prompt']}")
    pairs = [f"{name}: {params[key]}" for key, name in _A1111_NAMES.items() if params.get(key) is not None]
    if "width" in params and "height" in params:
        pairs.append(f"Size: {params['width']}x{params['height']}")
    return "\n".join([*lines, ", ".join(pairs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where things stand. Groups of columns are set apart by a wider gap."""

    cell: tuple[int, int]
    per_group: int
    num_groups: int

    @property
    def _group_width(self) -> int:
        return self.per_group * (self.cell[0] + _GAP) - _GAP

    @property
    def _header_height(self) -> int:
        return _HEADER_SIZE + 18

    def size(self, *, num_rows: int, has_photos: bool) -> tuple[int, int]:
        """Width and height of the whole."""
        right = self.left(self.num_groups - 1, self.per_group - 1) + self.cell[0]
        last = self.photos_top(num_rows) if has_photos else self.row_top(num_rows - 1)
        return right + _MARGIN, last + self.cell[1] + _MARGIN

    def left(self, group: int, column: int) -> int:
        """Left edge of a cell."""
        start = _MARGIN + _LABEL_WIDTH + _GROUP_GAP + group * (self._group_width + _GROUP_GAP)
        return start + column * (self.cell[0] + _GAP)

    def row_top(self, row: int) -> int:
        """Upper edge of a prompt's row."""
        return _MARGIN + self._header_height + row * (self.cell[1] + _GAP)

    def photos_top(self, num_rows: int) -> int:
        """Upper edge of the photos, under a rule."""
        return self.row_top(num_rows) - _GAP + 2 * _GROUP_GAP

    def draw_header(self, draw: ImageDraw.ImageDraw, group: int, text: str) -> None:
        """The name above a group of columns, with a rule under it."""
        left = self.left(group, 0)
        middle = left + self._group_width / 2
        font = font_for(text, _HEADER_SIZE)
        draw.text((middle, _MARGIN + _HEADER_SIZE / 2), text, fill=_INK, font=font, anchor="mm")
        line = _MARGIN + _HEADER_SIZE + 8
        draw.line([(left, line), (left + self._group_width - 1, line)], fill=_RULE, width=2)


def _cell_size(image: Image.Image, num_columns: int) -> tuple[int, int]:
    """Small images are enlarged until they can be seen, large ones made smaller until the table fits."""
    room = (_MAX_WIDTH - 2 * _MARGIN - _LABEL_WIDTH - 2 * _GROUP_GAP) // num_columns - _GAP
    longest = max(image.size)
    side = max(_SMALLEST, min(longest, _LARGEST, room))
    if longest < side:
        # A whole factor keeps the pixels of small images even.
        side = -(-side // longest) * longest
    return max(1, round(image.width * side / longest)), max(1, round(image.height * side / longest))


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fills a cell; what is of another shape loses its edges."""
    return ImageOps.fit(image.convert("RGB"), size, method=Image.Resampling.BICUBIC)


def _draw_label(draw: ImageDraw.ImageDraw, text: str, *, top: int, height: int, colour: str) -> None:
    font = font_for(text, _LABEL_SIZE)
    line_height = _LABEL_SIZE + 6
    lines = wrap(text, font, _LABEL_WIDTH, max_lines=max(1, height // line_height))
    start = top + (height - len(lines) * line_height) // 2
    for index, line in enumerate(lines):
        draw.text((_MARGIN, start + index * line_height), line, fill=colour, font=font)

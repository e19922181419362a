"""A model card for each of the pocket's trained folders, written from the stages' own reports."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FRONT = """---
license: apache-2.0
library_name: {library}
---

# {title}

{purpose}

## Data

{data}

## Training

| Stage | Steps | Batch | Minutes | First losses | Last losses |
| --- | --- | --- | --- | --- | --- |
{rows}

{machine}. Made again by `dvc repro src/pocket/dvc.yaml`; the last digits depend on the machine.

## Limits

{limits}
"""
_DATA = (
    "{num:,} rendered pictures of 64 x 64 pixels with captions: 16 objects x 10 colours x 14 places x views "
    "and lights, and pictograms (`src/pocket/world`). {data} No photo, no person, no text from the web."
)
_WIDTH = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card says beside the stages' reports."""

    title: str
    library: str
    purpose: str
    data: str
    limits: str
    stages: Sequence[str]


CARDS: Mapping[str, Card] = {
    "sd15": Card(
        title="Darkroom pocket",
        library="diffusers",
        purpose=(
            "Stable Diffusion 1.5 in miniature: the same classes and layout, 64 x 64 pixels, latents of "
            "8 x 16 x 16.\nIt knows a small world of its own and nothing else.\n\n![Samples](samples.png)"
        ),
        data=(
            "18 of the 160 object-colour pairs and a tenth of the other object-colour-place triples were "
            "kept out; no object is teal. A quarter are toys of random parts, half of what the stages "
            "decoder and toys see; the demo subject is not among them, but all kinds of its parts are. The "
            "VAE also sees pictures with red, green and blue exchanged."
        ),
        limits=(
            "Words that no caption of its world holds mean nothing to it. Two objects in one picture, "
            "counting and text are\nbeyond it. Small parts blur: the VAE leaves 2,048 numbers of a picture."
        ),
        stages=("vae", "decoder", "denoiser", "toys"),
    ),
    "clip": Card(
        title="Darkroom pocket CLIP",
        library="open_clip",
        purpose="Judges whether a picture of the pocket world shows what a caption says.",
        data="It has seen the combinations that the generator never saw: it is there to judge them.",
        limits=(
            "Its scores say something about pictures of the pocket world only, and cannot be compared with "
            "scores of other CLIP\nmodels. It reads 40 tokens."
        ),
        stages=("clip",),
    ),
    "dino": Card(
        title="Darkroom pocket DINO",
        library="timm",
        purpose="Judges whether two pictures show the same object. Trained without labels.",
        data="Crops of two pictures of one object in two places are one pair.",
        limits=(
            "Its scores cannot be compared with those of other DINO models. It has never seen a real photo, "
            "nor the demo subject."
        ),
        stages=("dino",),
    ),
}


def write_card(name: str, folder: Path, work: Path, plans: Mapping[str, Mapping[str, Any]], num: int) -> None:
    """Writes README.md.

    Args:
        name: of the model, a key of `CARDS`.
        folder: the model's.
        work: where the stages left their reports.
        plans: each stage's steps and batch size.
        num: pictures that it was trained on.
    """
    card = CARDS[name]
    reports = {stage: _report(work / stage) for stage in card.stages}
    rows = "\n".join(_row(stage, plans[stage], report) for stage, report in reports.items())
    machine = "; ".join(sorted({_machine(report) for report in reports.values()}))
    text = _FRONT.format(
        title=card.title,
        library=card.library,
        purpose=card.purpose,
        data=textwrap.fill(_DATA.format(num=num, data=card.data), _WIDTH),
        rows=rows,
        machine=machine,
        limits=card.limits,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def _row(stage: str, plan: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    first, last = report["history"][0], report["history"][-1]
    cells = [
        stage,
        f"{plan['steps']:,}",
        str(plan["batch_size"]),
        f"{report['seconds'] / 60:.0f}",
        f"{_losses(first)} (step {first['step']:,})",
        _losses(last),
    ]
    return f"| {' | '.join(cells)} |"


def _losses(line: Mapping[str, float]) -> str:
    parts = {name: value for name, value in line.items() if name not in ("step", "seconds")}
    return ", ".join(f"{name} {value:.3g}" for name, value in parts.items())


def _machine(report: Mapping[str, Any]) -> str:
    return f"Trained on {report['device']}, {report['threads']} threads, torch {report['torch']}"

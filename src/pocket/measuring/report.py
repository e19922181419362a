"""The measured figures as the tables of docs/pocket.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.files import sha256_file

_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
Row = tuple[str, str, str]


def tables(figures: Mapping[str, Any]) -> str:
    """Markdown: one table for each part that was measured, with what was aimed for."""
    makers = {"base": _base, "finetune": _finetune, "judges": _judges}
    titles = {"base": "Base model", "finetune": "Fine-tune on the demo toy", "judges": "Judges"}
    parts = []
    for name, rows in makers.items():
        if name in figures:
            machine = figures[name]["machine"]
            lines = [
                f"| {titles[name]} | Measured | Aim |",
                "| --- | --- | --- |",
                *(f"| {' | '.join(row)} |" for row in rows(figures[name])),
            ]
            on = f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}"
            parts.append("\n".join(lines) + f"\n\nOn {on}.\n")
    return "\n".join(parts)


def weights_digest(models: Path) -> str:
    """What the figures belong to: a digest of the weights of model and judges."""
    digest = hashlib.sha256()
    for name in ("sd15", "clip", "dino"):
        for file in sorted((models / name).rglob("*.safetensors")):
            digest.update(f"{file.relative_to(models)} {sha256_file(file)}".encode())
    return digest.hexdigest()


def put_into(page: Path, figures: Mapping[str, Any]) -> None:
    """Replaces the tables of a page between its two marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    page.write_text(f"{before}{_BEGIN}{tables(figures)}{_END}{after}", encoding="utf-8")


def _base(part: Mapping[str, Any]) -> Sequence[Row]:
    return [
        ("the right prompt is ranked first among 16", _percent(part["ranked_first"]), "85 %"),
        (
            "the same, combinations never seen in training",
            _percent(part["ranked_first_held_out"]),
            "60 %",
        ),
        ("a classifier finds object and colour", _percent(part["object_and_colour"]), "85 %"),
        (
            "the same, combinations never seen in training",
            _percent(part["object_and_colour_held_out"]),
            "",
        ),
        (
            f"4 images of {part['sampling']['steps']} steps, {part['sampling']['threads']} threads",
            f"{part['sampling']['seconds']:.1f} s",
            "5 s",
        ),
    ]


def _finetune(part: Mapping[str, Any]) -> Sequence[Row]:
    low, high = (_percent(part[f"gap_closed_{end}"]) for end in ("low", "high"))
    fall = part["object_and_colour_before"] - part["object_and_colour_after"]
    return [
        (
            f"share of the DINO gap closed, mean of {part['seeds']} seeds (95 % interval)",
            f"{_percent(part['gap_closed'])} ({low} to {high})",
            "50 % (33 %)",
        ),
        ("DINO floor and ceiling", f"{part['dino_floor']:.2f}, {part['dino_ceiling']:.2f}", ""),
        (
            "images nearer to the toy's photos than to any world object or other toys; the base model's",
            f"{_percent(part['nearer_to_subject'])}; {_percent(part['nearer_to_subject_before'])}",
            "80 %",
        ),
        (
            "object and colour on other prompts, before and after",
            f"{_percent(part['object_and_colour_before'])}, {_percent(part['object_and_colour_after'])}"
            f" ({-100 * fall:+.1f} points)",
            "-5 points",
        ),
        (
            "seconds of one training run, without sample images",
            ", ".join(f"{each:.0f}" for each in part["train_seconds"]),
            "",
        ),
    ]


def _judges(part: Mapping[str, Any]) -> Sequence[Row]:
    clip, dino = part["clip_retrieval"], part["dino_subject"]
    return [
        (
            f"CLIP: an unseen picture's caption is the nearest among {clip['among']}",
            _percent(clip["top_1"]),
            "95 %",
        ),
        (
            "DINO: ROC AUC, the toy's photos against other objects'",
            f"{dino['roc_auc']:.3f}",
            "0.95",
        ),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

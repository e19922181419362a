"""What an adapter says of its origin."""

from src.config.build import PROJECT_ROOT
from src.lineage import collect_lineage, short_form

CONFIG = {
    "run": {"name": "my_toy"},
    "model": {"path": "owner/base"},
    # Left open: the base model decides.
    "dataset": {"name": "subject", "placeholder": "sksToy", "resolution": None, "split_seed": 0},
    "trainer": {"seed": 7},
}


def test_the_header_says_the_size_that_was_trained_at():
    lineage = collect_lineage(
        root=PROJECT_ROOT,
        config=CONFIG,
        content_hashes={"a.png": "00", "b.png": "01"},
        captions={"a.png": "a", "b.png": "b"},
        split={"train": ["a.png"], "validation": ["b.png"]},
        held_out_files={},
        base_hash="02",
        architecture="sd15",
        resolution=(512, 768),
    )
    header = short_form(lineage, CONFIG)
    assert header["darkroom.resolution"] == "512x768"
    assert (header["darkroom.run"], header["darkroom.seed"]) == ("my_toy", "7")
    assert all(isinstance(value, str) for value in header.values())

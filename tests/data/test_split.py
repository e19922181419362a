import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.records import Record
from src.data.split import Split, num_validation_groups, split_file_path, split_records
from src.errors import UserError


def dataset(contents: list[str]) -> tuple[list[Record], dict[str, str]]:
    records = [Record(path=Path(f"{n}.png"), caption="x", id=f"{n}") for n in range(len(contents))]
    return records, {f"{n}": content for n, content in enumerate(contents)}


def split(
    contents: list[str], *, split_file: Path | None = None, seed: int = 0, fraction: float = 0.2
) -> Split:
    records, hashes = dataset(contents)
    return split_records(
        records, hashes, split_seed=seed, validation_fraction=fraction, split_file=split_file
    )


def sides(contents: list[str], result: Split) -> dict[str, str]:
    found = {contents[int(record.id)]: "train" for record in result.train}
    held_out = {contents[int(record.id)]: "validation" for record in result.validation}
    assert not found.keys() & held_out.keys()
    return {**found, **held_out}


def test_eighty_twenty_exactly():
    result = split([f"content {n}" for n in range(50)])
    assert (len(result.train), len(result.validation)) == (40, 10)


def test_order_names_and_copies_do_not_matter():
    contents = [f"{n}" for n in range(20)]
    first = sides(contents, split(contents))
    assert sides(contents[::-1], split(contents[::-1])) == first
    assert sides(contents + contents[:7], split(contents + contents[:7])) == first
    other = sides(contents, split(contents, seed=1))
    assert other != first


@pytest.mark.parametrize(("num_groups", "expected"), [(2, 1), (3, 1), (5, 1), (8, 2), (10, 2), (13, 3)])
def test_rounding_leaves_no_side_empty(num_groups, expected):
    assert num_validation_groups(num_groups, 0.2) == expected
    assert num_validation_groups(num_groups, 0.9) < num_groups


def test_too_small_to_split():
    for contents in ([], ["a"], ["a", "a"]):
        with pytest.raises(UserError, match="at least 2"):
            split(contents)


@settings(max_examples=100, deadline=None)
@given(
    additions=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    fraction=st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.8]),
    seed=st.integers(0, 5),
)
def test_added_images_keep_the_ratio_and_move_none(tmp_path_factory, additions, fraction, seed):
    file = tmp_path_factory.mktemp("split") / "split.json"
    contents = ["first", "second"]
    before: dict[str, str] = {}
    for number in additions:
        contents = contents + [f"content {seed} {len(contents) + n}" for n in range(number)]
        result = split(contents, split_file=file, seed=seed, fraction=fraction)
        after = sides(contents, result)
        assert {content: after[content] for content in before} == before
        assert len(result.validation) == num_validation_groups(len(contents), fraction)
        before = after


def test_images_taken_away_return_to_their_side(tmp_path):
    contents = [f"{n}" for n in range(10)]
    file = tmp_path / "split.json"
    before = sides(contents, split(contents, split_file=file))
    split(contents[:6], split_file=file)
    assert sides(contents, split(contents, split_file=file)) == before


def test_another_seed_or_fraction_is_another_file(tmp_path):
    paths = {
        split_file_path(tmp_path, split_seed=seed, validation_fraction=fraction)
        for seed in (0, 1)
        for fraction in (0.2, 0.25)
    }
    assert len(paths) == 4
    file = next(iter(paths))
    split(["a", "b", "c"], split_file=file, seed=0)
    with pytest.raises(UserError, match="split_seed=0"):
        split(["a", "b", "c"], split_file=file, seed=1)


def test_a_damaged_file_is_no_silent_new_split(tmp_path):
    file = tmp_path / "split.json"
    split(["a", "b", "c"], split_file=file)
    whole = json.loads(file.read_text())
    for content in ("", "[]", "{", json.dumps({**whole, "images": 3})):
        file.write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            split(["a", "b", "c"], split_file=file)


def test_a_side_that_lost_all_its_images(tmp_path):
    file = tmp_path / "split.json"
    contents = ["a", "b", "c", "d"]
    train = [
        content
        for content, side in sides(contents, split(contents, split_file=file)).items()
        if side == "train"
    ]
    with pytest.raises(UserError, match="no image is left for validation"):
        split(train, split_file=file)


def test_groups_of_near_duplicates(tmp_path):
    file = tmp_path / "split.json"
    contents = [f"{n}" for n in range(10)]
    before = sides(contents, split(contents, split_file=file))
    train = next(content for content in contents if before[content] == "train")
    held_out = next(content for content in contents if before[content] == "validation")
    records, hashes = dataset([*contents, "joins one", "joins both"])
    groups = {**hashes, "10": "near train", hashes_id(hashes, train): "near train"}
    result = split_records(
        records, hashes, split_seed=0, validation_fraction=0.2, split_file=None, group_keys=groups
    )
    assert len({("10" in [r.id for r in side]) for side in (result.train, result.validation)}) == 2
    groups = {
        **groups,
        "11": "bridge",
        hashes_id(hashes, held_out): "bridge",
        hashes_id(hashes, train): "bridge",
    }
    result = split_records(
        records, hashes, split_seed=0, validation_fraction=0.2, split_file=file, group_keys=groups
    )
    assert [record.id for record in result.left_out] == ["11"]
    assert train in {hashes[record.id] for record in result.train}
    assert held_out in {hashes[record.id] for record in result.validation}


def hashes_id(hashes: dict[str, str], content: str) -> str:
    return next(id for id, other in hashes.items() if other == content)


def _split_often(folder: Path) -> None:
    for seed in range(30):
        split([f"{n}" for n in range(40)], split_file=folder / f"{seed}.json", seed=seed)


def test_two_jobs_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_split_often, args=(tmp_path,)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    for seed in range(30):
        contents = [f"{n}" for n in range(40)]
        kept = split(contents, split_file=tmp_path / f"{seed}.json", seed=seed)
        assert kept == split(contents, seed=seed)

from collections import Counter
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.class_order import class_draws, with_class_images
from src.data.order import Position, micro_batches, rank_share

IDS = st.integers(1, 17).map(lambda number: [f"id {n}" for n in range(number)])
CLASS_IDS = st.integers(1, 9).map(lambda number: [f"class:{n}" for n in range(number)])


def plan(ids, class_ids, *, size, start=None, seed=3):
    buckets = {id: number % 2 for number, id in enumerate(ids)}
    batches = micro_batches(
        ids, seed=seed, global_batch_size=size, start=start or Position(), bucket_of=buckets
    )
    return with_class_images(batches, ids, class_ids, seed=seed)


def pairs(ids, class_ids, *, size, num_passes, **more):
    """(training draw, class draw) of some passes."""
    found = []
    for micro_batch in plan(ids, class_ids, size=size, **more):
        if micro_batch.position.pass_number == num_passes:
            return found
        found += zip(micro_batch.draws, micro_batch.class_draws, strict=True)


@settings(max_examples=100, deadline=None)
@given(ids=IDS, class_ids=CLASS_IDS, sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_batches_and_the_order_of_ids_do_not_matter(ids, class_ids, sizes):
    one, other = (pairs(ids, class_ids, size=size, num_passes=3) for size in sizes)
    assert set(one) == set(other)
    assert set(pairs(ids, class_ids[::-1], size=sizes[0], num_passes=3)) == set(one)


@settings(max_examples=100, deadline=None)
@given(ids=IDS, class_ids=CLASS_IDS, num_passes=st.integers(1, 5))
def test_all_class_images_are_used_equally_often_and_no_draw_comes_twice(ids, class_ids, num_passes):
    draws = [draw for _, draw in pairs(ids, class_ids, size=4, num_passes=num_passes)]
    counts = Counter(draw.id for draw in draws)
    uses = [counts[id] for id in class_ids]
    assert max(uses) - min(uses) <= 1
    assert len(set(draws)) == len(draws) == num_passes * len(ids), "noise and timestep of each are its own"


@settings(max_examples=50, deadline=None)
@given(ids=IDS, class_ids=CLASS_IDS, size=st.integers(1, 5), stop=st.integers(0, 30))
def test_a_position_is_all_a_resumed_run_needs(ids, class_ids, size, stop):
    unbroken = list(islice(plan(ids, class_ids, size=size), stop + 6))
    resumed = plan(ids, class_ids, size=size, start=unbroken[stop].position)
    assert list(islice(resumed, 6)) == unbroken[stop:]


def test_ranks_share_the_pairs():
    ids, class_ids = [f"id {n}" for n in range(13)], ["class:0", "class:1", "class:2"]
    for micro_batch in islice(plan(ids, class_ids, size=6), 9):
        trained = []
        for rank in range(2):
            shares = [
                rank_share(draws, rank=rank, world_size=2, batch_size=3)
                for draws in (micro_batch.draws, micro_batch.class_draws)
            ]
            assert shares[0][1] == shares[1][1], "the same padding"
            trained += zip(shares[0][0], *shares[1], strict=True)
        real = [(draw, class_draw) for draw, class_draw, weight in trained if weight]
        assert Counter(real) == Counter(zip(micro_batch.draws, micro_batch.class_draws, strict=True))


def test_passes_and_seeds_differ():
    ids, class_ids = [f"id {n}" for n in range(8)], [f"class:{n}" for n in range(30)]

    def chosen(seed, pass_number):
        drawn = class_draws(ids, class_ids, seed=seed, pass_number=pass_number)
        return [drawn[id].id for id in ids]

    assert chosen(0, 0) == chosen(0, 0)
    assert not set(chosen(0, 0)) & set(chosen(0, 1)), "30 class images last for three passes of 8"
    assert chosen(0, 0) != chosen(1, 0)

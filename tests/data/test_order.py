from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.order import Position, micro_batches, num_micro_batches, pass_order, rank_share
from src.randomness import address_seed, address_seeds

IDS = st.integers(1, 23).map(lambda number: [f"id {n}" for n in range(number)])


def draws_of_passes(ids, *, seed, global_batch_size, num_passes, start=None):
    found = []
    for micro_batch in micro_batches(
        ids, seed=seed, global_batch_size=global_batch_size, start=start or Position()
    ):
        if micro_batch.position.pass_number == num_passes:
            return found
        found.extend(micro_batch.draws)


def test_order_is_a_function_of_seed_pass_and_ids():
    ids = [f"{n}" for n in range(50)]
    order = pass_order(ids, seed=0, pass_number=0)
    assert sorted(order) == sorted(ids)
    assert pass_order(ids[::-1], seed=0, pass_number=0) == order
    assert pass_order(ids, seed=0, pass_number=1) != order
    assert pass_order(ids, seed=1, pass_number=0) != order


def test_taking_ids_away_keeps_the_order_of_the_others():
    ids = [f"{n}" for n in range(20)]
    order = pass_order(ids, seed=0, pass_number=3)
    assert pass_order(ids[:10], seed=0, pass_number=3) == [id for id in order if id in ids[:10]]


@settings(max_examples=100, deadline=None)
@given(ids=IDS, sizes=st.lists(st.integers(1, 9), min_size=2, max_size=3), seed=st.integers(0, 3))
def test_samples_do_not_depend_on_the_batch_size(ids, sizes, seed):
    found = [draws_of_passes(ids, seed=seed, global_batch_size=size, num_passes=2) for size in sizes]
    assert found[0] == found[1] == found[-1]
    assert [draw.id for draw in found[0]] == [
        *pass_order(ids, seed=seed, pass_number=0),
        *pass_order(ids, seed=seed, pass_number=1),
    ]


@settings(max_examples=100, deadline=None)
@given(
    ids=IDS,
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 5),
    num_buckets=st.integers(1, 3),
)
def test_ranks_share_every_sample_once_and_none_is_empty(ids, batch_size, world_size, num_buckets):
    buckets = {id: number % num_buckets for number, id in enumerate(ids)}
    plan = micro_batches(
        ids, seed=0, global_batch_size=batch_size * world_size, start=Position(), bucket_of=buckets
    )
    num = num_micro_batches(ids, global_batch_size=batch_size * world_size, bucket_of=buckets)
    trained = []
    for micro_batch in islice(plan, num):
        assert len({buckets[draw.id] for draw in micro_batch.draws}) == 1
        shares = [
            rank_share(micro_batch.draws, rank=rank, world_size=world_size, batch_size=batch_size)
            for rank in range(world_size)
        ]
        assert len({len(draws) for draws, _ in shares}) == 1
        for draws, weights in shares:
            assert 1 <= len(draws) == len(weights) <= batch_size
            trained += [draw.id for draw, weight in zip(draws, weights, strict=True) if weight]
    assert sorted(trained) == sorted(ids)
    assert next(plan).position == Position(pass_number=1)


@settings(max_examples=50, deadline=None)
@given(ids=IDS, size=st.integers(1, 5), stop=st.integers(0, 30), num_buckets=st.integers(1, 3))
def test_a_position_is_all_a_resumed_run_needs(ids, size, stop, num_buckets):
    buckets = {id: number % num_buckets for number, id in enumerate(ids)}

    def plan(start):
        return micro_batches(ids, seed=4, global_batch_size=size, start=start, bucket_of=buckets)

    unbroken = list(islice(plan(Position()), stop + 6))
    position = unbroken[stop].position
    assert list(islice(plan(position), 6)) == unbroken[stop : stop + 6]
    assert unbroken[stop].next_position == unbroken[stop + 1].position


def test_one_bucket_is_the_same_as_none():
    ids = [f"{n}" for n in range(11)]
    with_bucket = micro_batches(
        ids, seed=0, global_batch_size=4, start=Position(), bucket_of=dict.fromkeys(ids, (64, 64))
    )
    without = micro_batches(ids, seed=0, global_batch_size=4, start=Position())
    assert list(islice(with_bucket, 7)) == list(islice(without, 7))


def test_an_empty_dataset_is_our_own_mistake():
    with pytest.raises(AssertionError):
        next(micro_batches([], seed=0, global_batch_size=1, start=Position()))


def test_many_addresses_have_the_seeds_of_each():
    ids = ["a", "b c", "", "1"]
    assert address_seeds(3, "order", 1, each=ids) == [address_seed(3, "order", 1, id) for id in ids]


@pytest.mark.parametrize("bucket_of", [None, {str(n): n % 3 for n in range(20)}])
def test_batches_are_counted_without_making_them(bucket_of):
    ids = [str(n) for n in range(20)]
    plan = micro_batches(ids, seed=0, global_batch_size=4, start=Position(), bucket_of=bucket_of)
    in_first_pass = [batch for batch in islice(plan, 20) if batch.position.pass_number == 0]
    assert num_micro_batches(ids, global_batch_size=4, bucket_of=bucket_of) == len(in_first_pass)

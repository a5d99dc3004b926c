"""Work side by side: results in order, bounded, and the first error ends it."""

import threading
import time

import pytest
import torch

from bench.execute.lanes import side_by_side


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(lanes: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (5 - item))
        return item * item

    assert list(side_by_side(work, range(5), lanes)) == [0, 1, 4, 9, 16]


def test_lanes_really_meet_and_share_the_threads() -> None:
    meeting, before = threading.Barrier(2, timeout=20), torch.get_num_threads()

    def work(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    assert list(side_by_side(work, range(4), 2)) == [max(1, before // 2)] * 4
    assert torch.get_num_threads() == before


def test_the_first_error_ends_it_and_what_has_not_begun_is_left() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("broken")
        return item

    results = side_by_side(work, range(100), 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="broken"):
        list(results)
    assert len(begun) < 10

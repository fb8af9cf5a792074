"""The order in which a budget hands images on."""

from __future__ import annotations

from stage2_bridge.calibration.record import GainTable
from stage2_bridge.calibration.recorded_order import RecordedOrder
from stage2_bridge.protection.budget.gain_order import UncertaintyOrder

TABLE = GainTable(probability=(0.0, 0.5, 1.0), expected=(-0.1, 0.3, -0.4), levels=(0.3, 0.1, -0.2))


def test_a_record_says_what_gains_most_and_without_one_it_is_how_uncertain_stage_1_is() -> None:
    known: list[GainTable | None] = [None]
    order, usual = RecordedOrder(lambda: known[0]), UncertaintyOrder()
    assert [order.gain(p) for p in (0.1, 0.4, 0.9)] == [usual.gain(p) for p in (0.1, 0.4, 0.9)]
    assert order.threshold(0.5) == usual.threshold(0.5)
    known[0] = TABLE
    # The two sides differ: this server is right about less of the roadwork than of the rest.
    assert order.gain(0.25) == TABLE.gain(0.25) > order.gain(0.75)
    assert order.threshold(0.5) == 0.1
    known[0] = None
    assert order.gain(0.25) == 0.25


def test_of_another_bundle_the_order_stays_and_the_latest_images_say_which_share_gains_so_much() -> None:
    live = [True]
    order = RecordedOrder(lambda: TABLE, lambda: live[0])
    gains = [order.gain(0.3 + 0.4 * number / 99) for number in range(100)]
    assert order.threshold(0.5) == TABLE.threshold(0.5)
    live[0] = False
    assert sum(gain >= order.threshold(0.25) for gain in gains) == 25
    assert (order.threshold(0.0), order.threshold(1.0)) == (TABLE.threshold(0.0), TABLE.threshold(1.0))


def test_of_another_bundle_and_few_images_the_record_is_the_best_guess() -> None:
    order = RecordedOrder(lambda: TABLE, lambda: False)
    order.gain(0.5)
    assert order.threshold(0.5) == TABLE.threshold(0.5)

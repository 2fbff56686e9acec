from __future__ import annotations

import pytest
from bench.conflicts import applied, width_ms, written_here, written_there


def test_the_window_ends_where_writes_stop_to_clash() -> None:
    samples = [(1.0, True), (3.0, True), (5.0, False), (9.0, False)]
    assert width_ms(samples) == 4.0


def test_one_sample_on_the_wrong_side_does_not_move_it() -> None:
    samples = [(1.0, True), (2.0, False), (3.0, True), (4.0, True), (6.0, False), (7.0, False), (8.0, False)]
    assert width_ms(samples) == 5.0


@pytest.mark.parametrize(("clashed", "width"), [(False, 0.5), (True, 2.0)])
def test_it_may_lie_before_all_samples_or_behind_them(clashed: bool, width: float) -> None:
    assert width_ms([(1.0, clashed), (2.0, clashed)]) == width


@pytest.mark.parametrize("strategy", ["lww", "fww", "merge", "own", "manual"])
async def test_documents_that_both_wrote_are_conflicts(strategy: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    chunks = await written_there(strategy, 20)
    await written_here(tmp_path / "here", strategy, 20)
    # It raises when there were fewer conflicts than asked for.
    assert await applied(tmp_path / "here", strategy, chunks, 20, 20) > 0
    await written_here(tmp_path / "untouched", strategy, 0)
    with pytest.raises(AssertionError, match="0 conflicts, not 20"):
        await applied(tmp_path / "untouched", strategy, chunks, 20, 20)

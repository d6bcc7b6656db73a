"""Figures are drawn again, and by several processes, with the same bytes."""

from __future__ import annotations

import pytest
from conftest import fabricate

from ablations.report.frames import load
from ablations.report.plotting import drawing
from ablations.report.plotting.figures import write_figures
from ablations.report.results import analyse
from ablations.storage.files import StorageError


@pytest.mark.slow
def test_processes_draw_changed_figures_with_the_bytes_of_new_ones(results, tiny, tmp_path, monkeypatch):
    other, shown = tmp_path / "other", analyse(load(results))
    fabricate(other, tiny, skip=("growth_rate 8, seed 1",))
    assert len(write_figures(analyse(load(other)))) == 9
    fabricate(other, tiny)
    monkeypatch.setattr(drawing, "FEWEST", 1)
    paths = write_figures(analyse(load(other)), cores=2)
    assert [path.name for path in paths] == [path.name for path in write_figures(shown)]
    for path in sorted((results / "figures").iterdir()):
        assert (other / "figures" / path.name).read_bytes() == path.read_bytes(), path.name

    for path in paths:
        path.unlink()
    paths[0].mkdir()
    with pytest.raises(StorageError, match=paths[0].name):
        write_figures(analyse(load(other)), cores=2)


def test_a_process_that_dies_is_done_without_and_few_figures_start_none(results, tmp_path, monkeypatch):
    started, drawn = [], []

    def die(function, parts, *_):
        started.append([list(drawings) for drawings, _ in parts])
        raise drawing.Killed("its process was killed by SIGKILL")

    monkeypatch.setattr(drawing, "call_all_fresh", die)
    monkeypatch.setattr(drawing, "_draw_here", lambda drawings, folder: drawn.append(len(drawings)))
    drawings = [drawing.Drawing(str(number), kind, None, None) for number in range(4) for kind in drawing.DRAWN]
    for number, cores in ((7, 64), (20, 1), (8, 2), (20, 64)):
        drawing.draw(drawings[:number], tmp_path, cores)
    assert drawn == [7, 20, 8, 20]
    assert [[len(part) for part in parts] for parts in started] == [[4, 4], [4, 4, 4, 4, 4]]
    assert all(len({each.kind for each in part}) >= 4 for part in started[1])

from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from bench.plots import PLOTS, draw_all, drawn, latency, scale, throughput
from bench.report import RESULTS
from bench.svg import Panel, Picture, amount, decades, ticks_to
from tests.unit.bench_figures import LATENCY, PEERS, SCALE

FIGURES: dict[str, Any] = {"throughput.svg": PEERS, "latency.svg": LATENCY, "scale.svg": SCALE}


def texts(picture: Picture | str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.fromstring(str(picture)).iter("{http://www.w3.org/2000/svg}text")]


def test_committed_plots_are_those_of_the_committed_figures() -> None:
    plots = drawn()
    assert {file.name for file in RESULTS.glob("*.svg")} == {file.name for file in plots}
    for file, picture in plots.items():
        assert file.read_text(encoding="utf-8") == picture, f"{file.name} is out of date: run `python -m bench plots`"


@pytest.mark.parametrize("name", PLOTS)
def test_same_figures_same_bytes_and_other_figures_others(name: str, tmp_path: Path) -> None:
    source, _ = PLOTS[name]
    (tmp_path / source).write_bytes(orjson.dumps(FIGURES[name]))
    assert [file.name for file in draw_all(tmp_path)] == [name]
    first = (tmp_path / name).read_bytes()
    assert draw_all(tmp_path)
    assert (tmp_path / name).read_bytes() == first
    (tmp_path / source).write_bytes(orjson.dumps(FIGURES[name]).replace(b"2025-06-02", b"2025-06-03"))
    draw_all(tmp_path)
    assert (tmp_path / name).read_bytes() != first


def test_figures_that_are_no_curve_are_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_bytes(b"[]")
    assert drawn(tmp_path) == {}


def test_every_engine_is_shown_with_its_figures_the_fastest_first() -> None:
    found = texts(throughput(PEERS))
    for each in PEERS:
        assert f"{each['events_per_second']:,}" in found
        assert f"{each['stale_delivered'] + each['unknown']:,}" in found
    names = ["confluent-loop-aligned", "tidegate", "kafka-streams-warm", "faust (at-least-once)"]
    assert [each for each in found if each in names] == names


def test_every_plot_says_machine_and_date_and_has_units() -> None:
    for picture, unit in (
        (throughput(PEERS), "events per second"),
        (latency(LATENCY), "milliseconds"),
        (scale(SCALE), "CPU µs per event"),
    ):
        found = texts(picture)
        assert unit in found
        assert any("Abacus, 2 cores" in each and "2025-06-02" in each for each in found)


def test_all_that_is_drawn_lies_on_the_card() -> None:
    for picture in (throughput(PEERS), latency(LATENCY), scale(SCALE)):
        for shape in ET.fromstring(str(picture)).iter():
            for axis, bound in (("x", picture.width), ("cx", picture.width), ("y", picture.height)):
                if axis in shape.attrib:
                    assert 0 <= float(shape.attrib[axis]) <= bound


def test_labels_of_curves_do_not_cover_each_other() -> None:
    root = ET.fromstring(str(latency(LATENCY)))
    labels = [
        float(each.attrib["y"])
        for each in root.iter("{http://www.w3.org/2000/svg}text")
        if "".join(each.itertext()).startswith(("gate p", "echo p"))
    ]
    assert len(labels) == 6
    ordered = sorted(labels)
    assert all(below - above >= 14.9 for above, below in pairwise(ordered))


def test_axes() -> None:
    assert ticks_to(83_000) == [0, 20_000, 40_000, 60_000, 80_000, 100_000]
    assert ticks_to(100) == [0, 20, 40, 60, 80, 100]
    assert decades(4.2, 230) == [1, 10, 100, 1000]
    assert [amount(value) for value in (0.5, 20, 50_000, 2_000_000, 2_500)] == ["0.5", "20", "50k", "2M", "2.5k"]
    panel = Panel(Picture(100, 100, "", ""), 10, 10, 80, 80)
    linear, logarithmic = panel.up([0, 50, 100], ""), panel.up([1, 10, 100], "", logarithmic=True)
    assert (linear(0), linear(50), linear(100)) == (90, 50, 10)
    assert logarithmic(10) == pytest.approx(50)
    assert logarithmic(0.1) == 90  # below the axis it lies on it

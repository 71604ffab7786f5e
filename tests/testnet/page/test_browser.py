"""`report.html` in a real browser, on a desk and on a phone: it is drawn, it fits, and it runs nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testnet.page.page import write_page
from tests.support.browser import PROGRAM, Browser, browse
from tests.support.runs import (
    SCRIPT,
    STORY,
    add_nodes,
    tell_state,
    write_events,
    write_long_run,
    write_network,
    write_story,
)

pytestmark = pytest.mark.skipif(
    PROGRAM is None,
    reason="NO PAGE OPENED IN A BROWSER: apt-get install --no-install-recommends chromium fonts-dejavu-core",
)
FIGURES = ("Faults", "Requests a second", "Latency, from request", "Latency by role", "Heads", "Fees", "Memory")
# Of each drawing: what it is, its box on the screen, and how many marks with an extent are in it.
DRAWINGS = """[...document.querySelectorAll("svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("rect:not(.hover rect), polyline, polygon, circle")].filter(mark => {
    const {width, height} = mark.getBoundingClientRect(); return width > 0.4 || height > 0.4; });
  return [svg.getAttribute("aria-label"), box.width, box.height, marks.length]; })"""
# Words beside plots that lie over one another, or beyond the edge of the screen.
CLASHES = """[...document.querySelectorAll(".y, .ticks, .key, .tiles")].flatMap(group => {
  const parts = [...group.querySelectorAll("span:not(.key), div")].map(part => [part, part.getBoundingClientRect()]);
  return parts.flatMap(([part, one], index) => [
    ...(one.left < -1 || one.right > innerWidth + 1 ? [part.textContent] : []),
    ...(part.scrollWidth > part.clientWidth + 1 && part.tagName == "DIV" ? [part.textContent] : []),
    ...parts.slice(index + 1).filter(([other, two]) => !part.contains(other) && one.left < two.right - 1
      && two.left < one.right - 1 && one.top < two.bottom - 2 && two.top < one.bottom - 2)
      .map(([other]) => part.textContent + " / " + other.textContent)]); })"""


def write_hostile(home: Path) -> Path:
    """Every name and text of the run is an attempt to become code."""
    name = f"client-{SCRIPT[1:7]}"
    story = [*((at, name, what, fields) for at, _, what, fields in STORY), *tell_state([name], 1)]
    add_nodes(write_network(home), story, request_id=SCRIPT, code=SCRIPT, peers=[SCRIPT])
    fault = {"time_ms": 1_500, "name": "fault.started", "fault": SCRIPT, "kind": SCRIPT, "nodes": [SCRIPT]}
    write_events(home, [fault])
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browse() as opened:
        yield opened


@pytest.mark.parametrize("width", [1_280, 390])
@pytest.mark.parametrize("write", [write_story, write_long_run, write_hostile])
def test_a_page_is_drawn_whole_and_fits_the_screen(
    browser: Browser, tmp_path: Path, write: Callable[[Path], Path], width: int
) -> None:
    page = write_page(write(tmp_path)).path
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")

    assert browser.console == []
    assert browser.evaluate("document.title") == "rolemesh run, seed 7"
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    drawings = browser.evaluate(DRAWINGS)
    names = [name for name, *_ in drawings]
    assert "Topology" in names
    assert all(any(name.startswith(figure) for name in (*names, *list_charts(browser))) for figure in FIGURES)
    assert [drawing for drawing in drawings if drawing[1] < width / 3 or drawing[2] < 10 or not drawing[3]] == []
    assert browser.evaluate(CLASHES) == []


def list_charts(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate("[...document.querySelectorAll('figcaption b')].map(name => name.textContent)")
    return found


def test_what_is_missing_of_a_long_run_is_said_and_shown(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_page(write_long_run(tmp_path)).path, 1_280)

    assert "inference-0 before 1:00:00" in browser.evaluate("document.querySelector('.warn').textContent")
    widths = browser.evaluate(
        "[...document.querySelectorAll('rect.gap')].map(gap => gap.getBoundingClientRect().width"
        " / gap.closest('svg').getBoundingClientRect().width)"
    )
    assert widths
    assert all(width == pytest.approx(1 / 5, abs=0.02) for width in widths)

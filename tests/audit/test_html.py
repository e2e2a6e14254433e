# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The HTML report in a browser: nothing is asked of the network, nothing runs, the filters work, and it can be printed."""

from __future__ import annotations

import json
import shutil

import pytest
from browser import PROGRAM, Browser
from reports import build

from ansible_collections.vllm_mindspore.hardening.plugins.plugin_utils.report_html import render_html
from ansible_collections.vllm_mindspore.hardening.tests.unit.plugins.plugin_utils.audit_example import every_status

MARKUP = "<img src=https://203.0.113.1/x.png onerror=alert(1)><script>alert(2)</script>"
VISIBLE = "[...document.querySelectorAll('.findings tbody tr')].filter(row => row.offsetParent !== null).map(row => row.className)"
PAPER = 1047  # A4, landscape, less the margins: 277 mm at 96 pixels an inch


@pytest.fixture(name="browser", scope="module")
def a_browser():
    if shutil.which(PROGRAM) is None:
        pytest.fail(f"there is no {PROGRAM} on this machine; `make reports` installs it")
    with Browser() as running:
        yield running


@pytest.fixture(name="page")
def a_page(browser, tmp_path):
    """The report of a run with a finding of every status, of which one host tells markup."""
    document = every_status(MARKUP)
    document["history"] = [{"generated": "2026-05-01T00:00:00+00:00", "verdict": "compliant", "counts": document["counts"], "leaks": 0, "broken": 0}]
    (tmp_path / "report.html").write_text("".join(render_html(document)), encoding="utf-8")
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.call("Emulation.setDeviceMetricsOverride", **browser.size)
    browser.open(tmp_path / "report.html")
    return document


def test_nothing_is_requested_and_nothing_is_wrong(browser, page):
    assert MARKUP in browser.value("document.body.innerText")
    assert [url for url in browser.requests if not url.startswith("file:")] == []
    assert len(browser.requests) == 1
    assert browser.messages == []
    assert browser.value("document.scripts.length + document.images.length") == 0


def test_what_would_be_requested_is_seen(browser, tmp_path):
    (tmp_path / "bad.html").write_text("<!DOCTYPE html><script>console.error('x')</script><img src='other.png'>", encoding="utf-8")
    browser.open(tmp_path / "bad.html")
    browser.wait(lambda: len(browser.requests) >= 2 and browser.messages)
    assert len(browser.requests) == 2


def test_the_policy_would_stop_markup_that_got_through(browser, page, tmp_path):
    text = "".join(render_html(page)).replace("<h1>", f"{MARKUP}<h1>", 1)
    (tmp_path / "through.html").write_text(text, encoding="utf-8")
    browser.open(tmp_path / "through.html")
    browser.wait(lambda: any("Content Security Policy" in json.dumps(message) for message in browser.messages))
    assert "Page.javascriptDialogOpening" not in browser.events


@pytest.mark.parametrize("status", ["pass", "fail", "waived", "not applicable", "unknown"])
def test_a_box_hides_its_status_and_shows_it_again(browser, page, status):
    name, before = status.replace(" ", "-"), browser.value(VISIBLE)
    assert len(before) == len(page["findings"])
    browser.click(f"#s-{name}")
    assert len(browser.value(VISIBLE)) == len(page["findings"]) - page["counts"][status]
    browser.click(f"#s-{name}")
    assert browser.value(VISIBLE) == before


def test_a_severity_is_hidden(browser, page):
    browser.click("#v-critical")
    assert len(browser.value(VISIBLE)) == sum(finding["severity"] != "critical" for finding in page["findings"])


def test_the_keyboard_works_the_filters(browser, page):
    browser.value("document.querySelector('#s-pass').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", windowsVirtualKeyCode=32, text=" " if kind == "keyDown" else "")
    assert len(browser.value(VISIBLE)) == len(page["findings"]) - page["counts"]["pass"]


def test_it_fits_on_paper(browser, page):
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.call("Emulation.setDeviceMetricsOverride", **{**browser.size, "width": PAPER})
    assert page["findings"]
    assert browser.value("getComputedStyle(document.querySelector('.filter')).display") == "none"
    wide = "[...document.querySelectorAll('table, svg')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    assert browser.value(wide) == []
    assert browser.value("document.documentElement.scrollWidth") <= PAPER
    assert browser.printed().startswith(b"%PDF-")


def test_a_thousand_hosts_stay_readable(browser, tmp_path):
    document = build(1000, 50)
    (tmp_path / "report.html").write_text("".join(render_html(document)), encoding="utf-8")
    assert (tmp_path / "report.html").stat().st_size < 20e6
    browser.open(tmp_path / "report.html")
    wrong = {finding["host"] for finding in document["findings"] if finding["status"] in ("fail", "waived", "unknown")}
    assert browser.value("document.querySelectorAll('.heat tbody tr').length") == len(wrong)
    assert browser.value("document.querySelectorAll('.findings tbody tr').length") < 50000
    assert browser.value(VISIBLE)[0].startswith("fail critical")
    for status, count in document["counts"].items():
        assert f"{count}\n{status}" in browser.value("document.querySelector('.counts').innerText") or f"{count}{status}" in browser.value(
            "document.querySelector('.counts').textContent")
    assert browser.messages == []

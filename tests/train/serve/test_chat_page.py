"""The chat page in a real browser."""

from __future__ import annotations

import pytest
from browser import CHROMIUM, Browser
from served import served

SAID = "[...document.querySelectorAll('.assistant .said')].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    tab = Browser()
    yield tab
    tab.close()


def say(browser: Browser, text: str) -> None:
    browser.evaluate("document.getElementById('text').focus()")
    browser.call("Input.insertText", text=text)
    browser.press("Enter")


def test_an_answer_streams_is_stopped_retried_edited_and_the_servers_death_is_shown(browser, checkpoint):
    with served(checkpoint, "slots=2", "context=8000", "api_key=sesame") as server:
        browser.open(f"{server.url}/", 1280)
        say(browser, "<img src=x onerror='window.taken=1'>")
        browser.wait_until(
            "document.querySelector('.assistant .error') && !document.querySelector('.assistant .error').hidden"
        )
        assert "API key" in browser.evaluate("document.querySelector('.assistant .error').textContent")
        browser.evaluate("document.getElementById('key').value = 'sesame'")
        browser.evaluate("document.getElementById('max_tokens').value = 6000")
        click(browser, "Retry")
        browser.wait_until(f"({SAID})[0].length > 40")
        assert browser.evaluate("document.getElementById('send').textContent") == "Stop"
        first = browser.evaluate(f"({SAID})[0].length")
        browser.wait_until(f"({SAID})[0].length > {first}")
        browser.press("Escape")
        browser.wait_until("document.getElementById('send').textContent === 'Send'")
        server.wait_idle(3)
        assert "stopped" in browser.evaluate("document.querySelector('.assistant .acts').textContent")
        assert browser.evaluate("window.taken === undefined && !document.querySelector('main img')")
        assert browser.evaluate("document.querySelector('.user .said').textContent").startswith("<img")

        browser.evaluate("document.getElementById('max_tokens').value = 20")
        click(browser, "Retry")
        browser.wait_until("document.querySelector('.assistant .acts').textContent.includes('tokens')")
        assert browser.evaluate(f"({SAID}).length") == 1
        click(browser, "Edit")
        browser.evaluate("document.querySelector('.rewrite').value = 'Other words'")
        click(browser, "Send again")
        browser.wait_until("document.querySelector('.assistant .acts').textContent.includes('tokens')")
        assert browser.evaluate("document.querySelector('.user .said').textContent") == "Other words"

        browser.evaluate("document.getElementById('strategy').value = 'zero_shot'")
        say(browser, "What is 7 + 5?")
        browser.wait_until("document.querySelectorAll('.assistant .acts')[1].textContent.includes('tokens')")
        folded = "document.querySelectorAll('.assistant details')[1]"
        assert browser.evaluate(f"!{folded}.hidden && !{folded}.open && {folded}.textContent.includes('Therefore')")

        browser.evaluate(
            "document.getElementById('strategy').value = ''; document.getElementById('max_tokens').value = 6000"
        )
        say(browser, "And on?")
        browser.wait_until(f"({SAID})[2] && ({SAID})[2].length > 40")
        server.process.kill()
        browser.wait_until("[...document.querySelectorAll('.assistant .error')].some((each) => !each.hidden)")
        assert "can't be reached" in browser.evaluate("document.querySelectorAll('.assistant .error')[2].textContent")
        click(browser, "Retry")
        browser.wait_until(
            "!running && document.querySelectorAll('.assistant .error')[2].textContent.includes('reached')"
        )
    violations = [each for each in browser.complaints() if "Content Security" in str(each)]
    assert violations == []


def click(browser: Browser, name: str) -> None:
    browser.evaluate(
        f"[...document.querySelectorAll('main button')].find((each) => each.textContent === '{name}').click()"
    )


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_loads_nothing_else(browser, server, width, scheme):
    browser.open(f"{server.url}/", width, scheme=scheme)
    browser.evaluate("document.getElementById('open').click()")
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requests == [f"{server.url}/"]
    colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(21, 22, 26)") == (scheme == "dark")

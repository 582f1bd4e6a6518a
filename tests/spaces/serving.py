"""What tests of the Spaces share: loading one from its folder, serving it, and Debian's Chromium."""

import importlib.util
import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest


SPACES = Path(__file__).resolve().parents[2] / "spaces"
CHROMIUM = Path("/usr/bin/chromium")


def load_app(folder: str):
    """`app.py` of a Space, as a module of its own (all of them have that name)."""
    name = f"space_{re.sub(r'[^a-z]', '_', folder)}"
    spec = importlib.util.spec_from_file_location(name, SPACES / folder / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(build: Callable, temporary: Path, **launch):
    """The address of the page that `build()` gives, served from here; Gradio's files go to `temporary`."""
    with pytest.MonkeyPatch.context() as patch:
        # Components read it when they are made.
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        demo = build()
        _, url, _ = demo.launch(prevent_thread_lock=True, show_error=True, quiet=True, **launch)
        yield url
        demo.close()


@contextmanager
def chromium():
    """A browser; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"browser tests need Debian's package chromium: there is no {CHROMIUM}")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


def open_page(browser, url: str, width: int = 1280, dark: bool = False):
    """A page in a context of its own; errors of its scripts are collected in `page.script_errors`."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.script_errors = []
    page.on("pageerror", lambda error: page.script_errors.append(str(error)))
    page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
    return page


def fits(page) -> bool:
    """Whether nothing makes the page scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def unnamed_controls(page, selector: str = "body") -> list[str]:
    """Visible controls that a screen reader has no name for."""
    return page.locator(selector).evaluate(
        """root => [...root.querySelectorAll('button, input, select, textarea, audio')]
        .filter(node => node.checkVisibility() && node.type !== 'file' && !node.closest('[aria-hidden="true"]'))
        .filter(node => !(node.ariaLabel || node.title || node.innerText?.trim() || node.labels?.length
                          || node.getAttribute('aria-labelledby') || node.placeholder))
        .map(node => node.outerHTML.slice(0, 160))"""
    )

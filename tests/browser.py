"""A headless Chromium driven over chromedriver's HTTP protocol, with the standard library alone."""

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Tab": "\ue004"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window. Elements are named by CSS selectors."""

    def __init__(self, address: str):
        self.address = address

    def call(self, method: str, path: str, **body: Any) -> Any:
        """A WebDriver command and its value."""
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {json.load(error)['value']['message'].splitlines()[0]}") from None

    def open(self, page: Path) -> None:
        """Load a local page and wait until it says that it is ready."""
        self.call("POST", "/url", url=page.resolve().as_uri())
        wait = """const done = arguments[0]; const look = () =>
            "ready" in document.documentElement.dataset ? requestAnimationFrame(done) : setTimeout(look, 20);
            look();"""
        self.call("POST", "/execute/async", script=wait, args=[])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("POST", "/execute/sync", script=f"return ({expression})", args=[])

    def text(self, selector: str) -> str:
        """The text content of an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def click(self, selector: str) -> None:
        """Click an element, scrolled into view, as a person would."""
        found = self.call("POST", "/element", using="css selector", value=selector)
        self.call("POST", f"/element/{found[ELEMENT]}/click")

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def point(self, selector: str, across: float, down: float, click: bool = False) -> None:
        """Move the mouse to a place of an element, in fractions of its width and height."""
        script = f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.left, b.top, b.width, b.height]; }})()"""
        left, top, width, height = self.evaluate(script)
        place = {"x": round(left + across * width), "y": round(top + down * height)}
        moves: list[dict] = [{"type": "pointerMove", "duration": 0, "origin": "viewport", **place}]
        if click:
            moves += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self.call("POST", "/actions", actions=[mouse])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A Chrome DevTools command."""
        return self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def theme(self, name: str) -> None:
        """Prefer "dark" or "light"."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> None:
        """Show the page in a window, or on a phone, of this many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def complaints(self) -> list[str]:
        """What the console holds of warnings and errors since it was last asked."""
        entries = self.call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]


def chromedriver() -> str | None:
    """The path of chromedriver, if there is one."""
    return shutil.which("chromedriver")


@contextmanager
def browsing(chromium: str, profile: Path) -> Iterator[Browser]:
    """A browser without network for the length of a ``with`` block."""
    driver = subprocess.Popen([str(chromedriver()), "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}", "--window-size=1280,900"]  # fmt: skip
        options = {"binary": chromium, "args": arguments}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        server = Browser(f"http://127.0.0.1:{port}")
        session = server.call("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]
        browser = Browser(f"{server.address}/session/{session}")
        try:
            yield browser
        finally:
            browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()

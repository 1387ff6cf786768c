"""A headless Chromium, controlled through its debugging port: open a page, wait, run a script, take a screenshot."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


def executable() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser with one page.

    Parameters
    ----------
    profile : Path
        Folder for the browser's data.
    size : (int, int)
        Width and height of the window in pixels.

    Attributes
    ----------
    errors : list of str
        Exceptions of the page and failed requests.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1200, 900)) -> None:
        program = executable()
        assert program is not None
        profile.mkdir(parents=True, exist_ok=True)
        words = [program, *FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.errors: list[str] = []
        self._profile = profile

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def open(
        self,
        url: str,
        picture: Path,
        ready: str = "true",
        script: str = "document.title",
        seconds: float = 90.0,
        settle: float = 1.0,
    ) -> Any:
        """Open a page, wait until it is ready, take a screenshot and run a script.

        Parameters
        ----------
        url : str
            The page.
        picture : Path
            The screenshot to write, a PNG.
        ready : str
            JavaScript that is true once the page is ready. Default: at once.
        script : str
            JavaScript to evaluate. Default: the title.
        seconds : float
            Longest time to wait for `ready`.
        settle : float
            Seconds to wait afterwards.

        Returns
        -------
        Any
            The script's value.
        """
        return asyncio.run(self._open(url, picture, ready, script, seconds, settle))

    def _debugger_url(self) -> str:
        """Wait for the browser to start; return the address of its page's debugger."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                port = (self._profile / "DevToolsActivePort").read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as response:
                    pages = [page for page in json.loads(response.read()) if page["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            except (OSError, ValueError, IndexError):
                pass
            time.sleep(0.2)
        raise TimeoutError("the browser did not start")

    async def _open(self, url: str, picture: Path, ready: str, script: str, seconds: float, settle: float) -> Any:
        from tornado.websocket import websocket_connect

        socket = await websocket_connect(self._debugger_url(), max_message_size=256 * 1024**2)
        responses: dict[int, asyncio.Future[Any]] = {}

        async def listen() -> None:
            while (message := await socket.read_message()) is not None:
                content = json.loads(message)
                if content.get("id") in responses:
                    responses[content["id"]].set_result(content.get("result"))
                elif content.get("method") in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                    self.errors.append(json.dumps(content["params"])[:500])

        listening = asyncio.create_task(listen())

        async def send(method: str, **parameters: Any) -> Any:
            number = len(responses) + 1
            responses[number] = asyncio.get_running_loop().create_future()
            await socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
            return await asyncio.wait_for(responses[number], 60)

        async def evaluate(expression: str) -> Any:
            response = await send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
            return response["result"].get("value")

        for domain in ("Page", "Runtime", "Network"):
            await send(f"{domain}.enable")
        await send("Page.navigate", url=url)
        end = time.monotonic() + seconds
        await asyncio.sleep(0.5)
        while await evaluate(ready) is not True and time.monotonic() < end:
            await asyncio.sleep(0.3)
        await asyncio.sleep(settle)
        value = await evaluate(script)
        shot = await send("Page.captureScreenshot", format="png")
        picture.write_bytes(base64.b64decode(shot["data"]))
        socket.close()
        await asyncio.wait_for(listening, 10)  # until the browser has closed the socket too
        return value

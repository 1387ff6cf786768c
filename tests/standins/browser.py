"""A headless Chromium, driven through its debugging port: open a page, wait, look, take a picture."""

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
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page. `errors` holds what its console complained about and which requests failed."""

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

    def look(
        self,
        url: str,
        picture: Path,
        ready: str = "true",
        script: str = "document.title",
        seconds: float = 90.0,
        settle: float = 1.0,
    ) -> Any:
        """Open `url`, wait until `ready` is true there (at most `seconds`), then `settle`; what `script` gives.

        The page as it looks then is written to `picture`, a PNG. `ready` and `script` are JavaScript.
        """
        return asyncio.run(self._look(url, picture, ready, script, seconds, settle))

    def _page(self) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                port = (self._profile / "DevToolsActivePort").read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                    pages = [page for page in json.loads(answer.read()) if page["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            except (OSError, ValueError, IndexError):
                pass
            time.sleep(0.2)
        raise TimeoutError("the browser did not start")

    async def _look(self, url: str, picture: Path, ready: str, script: str, seconds: float, settle: float) -> Any:
        from tornado.websocket import websocket_connect

        socket = await websocket_connect(self._page(), max_message_size=256 * 1024**2)
        answers: dict[int, asyncio.Future[Any]] = {}

        async def listen() -> None:
            while (message := await socket.read_message()) is not None:
                content = json.loads(message)
                if content.get("id") in answers:
                    answers[content["id"]].set_result(content.get("result"))
                elif content.get("method") in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                    self.errors.append(json.dumps(content["params"])[:500])

        listening = asyncio.create_task(listen())

        async def ask(method: str, **parameters: Any) -> Any:
            number = len(answers) + 1
            answers[number] = asyncio.get_running_loop().create_future()
            await socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
            return await asyncio.wait_for(answers[number], 60)

        async def evaluate(expression: str) -> Any:
            answer = await ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
            return answer["result"].get("value")

        for domain in ("Page", "Runtime", "Network"):
            await ask(f"{domain}.enable")
        await ask("Page.navigate", url=url)
        end = time.monotonic() + seconds
        await asyncio.sleep(0.5)
        while await evaluate(ready) is not True and time.monotonic() < end:
            await asyncio.sleep(0.3)
        await asyncio.sleep(settle)
        value = await evaluate(script)
        shot = await ask("Page.captureScreenshot", format="png")
        picture.write_bytes(base64.b64decode(shot["data"]))
        socket.close()
        await asyncio.wait_for(listening, 10)  # until the other side has closed too: no socket is left behind
        return value

"""A browser that watches runs of this process: the host's real server here, and in a process of its own who listens.

    python -m benchmarks.watcher http://127.0.0.1:8188 256     # who listens: a line for every run it was shown
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from tools.process import spawn
from tools.provision import CHECKOUT

EVENT, CLIENT = "sag.live", "watcher"
TIMEOUT = 60.0


@dataclass(frozen=True)
class Shown:
    """What arrived of one run.

    Args:
        frames: steps that were shown.
        size: characters of their messages, JSON.
        dropped: steps that were left out: the encoder was behind, or showing them would have slowed the run.
    """

    frames: int
    size: int
    dropped: int


class Watcher:
    """Runs the host's server, and a client that has asked to be shown runs, for the length of a `with` block.

    Args:
        side: longest side of the pictures it asks for, pixels.
    """

    def __init__(self, side: int):
        from server import PromptServer

        self.side, self.server = side, PromptServer.instance
        self._thread = threading.Thread(target=self.server.loop.run_forever, name="host-server", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        url = asyncio.run_coroutine_threadsafe(self._serve(), self.server.loop).result(TIMEOUT)
        command = [sys.executable, "-m", "benchmarks.watcher", url, str(self.side)]
        self._process = spawn(command, cwd=CHECKOUT, output=subprocess.PIPE)
        self._heard()
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.communicate()
        self.server.loop.call_soon_threadsafe(self.server.loop.stop)
        self._thread.join(TIMEOUT)

    def queues(self, watched: bool) -> None:
        """Who queued the next run, as the host's executor notes it: this client, or a script that shows nothing."""
        self.server.client_id = CLIENT if watched else None

    def shown(self) -> Shown:
        """Wait until everything of a run that was watched has arrived: what did."""
        return Shown(**self._heard())

    def _heard(self) -> dict:
        late = threading.Timer(TIMEOUT, self._process.kill)  # which ends the line that is waited for
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        try:
            return json.loads(line)
        except ValueError:
            rest = (line + self._process.stdout.read()).decode("utf-8", "replace")
            raise RuntimeError(f"the client that was to watch ended: {rest}") from None

    async def _serve(self) -> str:
        self.server.add_routes()
        runner = web.AppRunner(self.server.app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._publishing = asyncio.ensure_future(self.server.publish_loop())
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


async def watch(url: str, side: int) -> None:
    """Ask a server for the runs of this client, and print what arrives of each."""
    frames = size = 0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId={CLIENT}") as socket:
        async with session.post(f"{url}/sag/live", json={"client": CLIENT, "side": side}) as answer:
            print(json.dumps(await answer.json()), flush=True)
        async for message in socket:
            event = json.loads(message.data)
            if event["type"] != EVENT:
                continue
            kind = event["data"]["kind"]
            if kind == "frame":
                frames, size = frames + 1, size + len(message.data)
            elif kind == "end":
                print(json.dumps({"frames": frames, "size": size, "dropped": event["data"]["dropped"]}), flush=True)
                frames = size = 0


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], int(sys.argv[2])))

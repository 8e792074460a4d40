"""Messages to the browser while a graph runs: the only file that names the server.

A browser asks to be shown runs, for as long as its connection lasts; it alone is told of what it queued. For everyone
else, scripts above all, nothing is prepared and nothing is sent.
"""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from comfy_api.latest import io
from server import PromptServer

from .files import live_folder

EVENT = "sag.live"
WIDEST = 1024
# Files of runs that are kept; the oldest go first. The host clears their folder, as it forgets its history, at its end.
KEPT = 64
_ASKED = "sag_live"  # in the host's notes on a connection


@dataclass(frozen=True)
class Client:
    """A browser that watches a node.

    Args:
        side: longest side of the pictures it wants; 0 for none.
        sid: of its connection.
        workflow, prompt, node: what runs.
        run: its id; the next run of a node may begin before all of this one is sent.
    """

    side: int
    sid: str
    workflow: str
    prompt: str
    node: str
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def send(self, kind: str, data: dict) -> None:
        """Tell it something, from any thread."""
        about = {"kind": kind, "workflow": self.workflow, "prompt": self.prompt, "node": self.node, "run": self.run}
        PromptServer.instance.send_sync(EVENT, data | about, self.sid)

    def keep(self, film: dict) -> str | None:
        """Keep a run in a file of the host's temporary folder; its name."""
        name = "_".join([*map(_part, (self.workflow, self.prompt, self.node)), self.run]) + ".json"
        path = live_folder() / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(film | {"run": self.run}, allow_nan=False), encoding="utf-8")
            os.replace(unfinished, path)
            for old in _kept("*")[KEPT:]:
                old.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            logging.warning("SAG: the pictures of a run could not be kept in %s: %s", path, error)
            return None
        return name


def node_id_of(cls: type[io.ComfyNode]) -> str | None:
    """The id of the node that runs; None where another pack calls it from Python, outside of a graph."""
    return getattr(cls.hidden, "unique_id", None)


def watching(node_id: str | None) -> Callable[[], Client | None]:
    """A function that says, when a run starts, who wants to see what this node does in it."""
    def audience() -> Client | None:
        client = _client(node_id)
        return client if client is not None and client.side > 0 else None

    return audience


def reporter(node_id: str | None) -> Callable[[str], None]:
    """A function that shows a text on a node, to the client that queued the run; without one it does nothing."""
    return _teller(node_id, "note")


def instead(node_id: str | None) -> Callable[[str], None]:
    """As `reporter`, for a text that a node shows in the place of a run."""
    return _teller(node_id, "instead")


def _teller(node_id: str | None, kind: str) -> Callable[[str], None]:
    def report(text: str) -> None:
        server = getattr(PromptServer, "instance", None)
        client = _client(node_id)
        if client is not None:
            client.send(kind, {"text": text})
        elif server is not None and server.client_id is not None and node_id is not None:
            server.send_progress_text(text, node_id, server.client_id)

    return report


def _client(node_id: str | None) -> Client | None:
    """The browser that queued what runs now, where it has asked to be told."""
    server = getattr(PromptServer, "instance", None)
    if server is None or server.client_id is None or node_id is None:
        return None
    side = server.sockets_metadata.get(server.client_id, {}).get(_ASKED)
    if side is None:
        return None
    prompt, workflow = _running(server)
    return Client(side, server.client_id, workflow, prompt, node_id)


def _running(server: PromptServer) -> tuple[str, str]:
    """The prompt that runs, and the workflow it was made from."""
    prompt = getattr(server, "last_prompt_id", "")
    for _, queued, _, extra, *_ in list(server.prompt_queue.currently_running.values()):
        if queued == prompt:
            workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
            return prompt, str(workflow.get("id", ""))
    return prompt, ""


def _part(name: str) -> str:
    """An id as a part of a file's name; ids of nodes inside subgraphs look like 12:7."""
    return re.sub(r"[^0-9A-Za-z.~-]", "-", name.replace(":", "~")) or "-"


def _kept(pattern: str) -> list[Path]:
    """Files of runs, newest first."""
    def age(path: Path) -> float:
        try:
            return -path.stat().st_mtime_ns
        except OSError:  # gone since it was listed
            return 0

    return sorted(live_folder().glob(f"{pattern}.json"), key=age)


async def watch(request: web.Request) -> web.Response:
    """POST {"client": connection, "side": pixels}: show this browser its runs, or only tell it, with 0."""
    try:
        asked: Any = await request.json()
        sid, side = str(asked["client"]), int(asked["side"])
    except (KeyError, TypeError, ValueError) as error:
        return web.json_response({"error": f"expected client and side: {error}"}, status=400)
    connection = PromptServer.instance.sockets_metadata.get(sid)
    if connection is not None:
        connection[_ASKED] = min(max(side, 0), WIDEST)
    return web.json_response({"watching": connection is not None})


async def kept_runs(request: web.Request) -> web.Response:
    """GET ?workflow=id: the runs that are kept of a workflow, newest first."""
    workflow = _part(request.rel_url.query.get("workflow", ""))
    runs = []
    for path in _kept(f"{workflow}_*"):
        _, prompt, node, _ = path.stem.split("_")
        runs.append({"prompt": prompt, "node": node.replace("~", ":"), "file": path.name})
    return web.json_response(runs)


if getattr(PromptServer, "instance", None) is not None:
    PromptServer.instance.routes.post("/sag/live")(watch)
    PromptServer.instance.routes.get("/sag/runs")(kept_runs)

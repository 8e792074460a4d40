"""A small synchronous client of ComfyUI's HTTP and websocket interface."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

Prompt = Mapping[str, Mapping[str, Any]]
OnProgress = Callable[[str, int, int], None]

REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60)


class PromptRejected(RuntimeError):
    """The server refused a prompt. error: what is wrong with it as a whole; node_errors: by node id."""

    def __init__(self, error: Any, node_errors: dict[str, Any]) -> None:
        self.error, self.node_errors = error, node_errors
        lines = [error.get("message", "") if isinstance(error, dict) else str(error)]
        for node_id, node in node_errors.items():
            found = [f"{item['message']}: {item['details']}" for item in node["errors"]]
            lines.append(f"  node {node_id} ({node['class_type']}): {'; '.join(found)}")
        super().__init__("ComfyUI rejected the prompt: " + "\n".join(lines))


class ExecutionFailed(RuntimeError):
    """A node raised, or the run was interrupted. data: the server's message, with the traceback."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        reason = data.get("exception_message", "the run was interrupted").strip()
        super().__init__(f"node {data['node_id']} ({data['node_type']}): {reason}")


@dataclass(frozen=True)
class History:
    """A finished run.

    outputs: what each output node put into its `ui` dictionary, by node id
    events: every (type, data) that the websocket delivered during the run, in order; binary previews left out
    node_errors: why output nodes were left out as not valid while others ran, by node id; empty where all ran
    """

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    events: tuple[tuple[str, dict[str, Any]], ...]
    node_errors: dict[str, Any]

    def images(self, node_id: str) -> list[dict[str, str]]:
        """The images a node saved or previewed, each an entry that ComfyClient.image() fetches."""
        return self.outputs.get(node_id, {}).get("images", [])


class ComfyClient:
    """Talks to the server at `url`; each call is complete in itself, so that any thread may make it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get_json(self, path: str) -> Any:
        return asyncio.run(self._get(path, lambda response: response.json()))

    def object_info(self, node_id: str) -> dict[str, Any]:
        """A node's inputs and outputs, as the frontend is told.

        Raises:
            KeyError: the server has no such node.
        """
        found = self.get_json(f"/object_info/{node_id}")
        if node_id not in found:
            raise KeyError(f"the server has no node {node_id!r}")
        return found[node_id]

    def image(self, entry: Mapping[str, str]) -> bytes:
        """The file of an image entry of a History, as it was saved."""
        params = {key: entry[key] for key in ("filename", "subfolder", "type")}
        return asyncio.run(self._get("/view", lambda response: response.read(), params))

    def run(
        self,
        prompt: Prompt,
        client_id: str | None = None,
        on_progress: OnProgress | None = None,
        timeout: float = 600.0,
        workflow: Mapping[str, Any] | None = None,
    ) -> History:
        """Queue a prompt (API form) and follow it to its end.

        Args:
            client_id: name of the websocket session; a fresh one where None
            on_progress: called with (node id, value, maximum) at each step that a node reports
            timeout: seconds after which the wait is given up (the run is not interrupted)
            workflow: the same graph as the frontend opens it, to be kept in the images that are saved

        Raises:
            PromptRejected: the prompt is not valid.
            ExecutionFailed: a node raised, or the run was interrupted.
            ConnectionError: the server closed the connection before the run ended.
            TimeoutError: it did not end in time.
        """
        body = {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        followed = self._run(body, on_progress or (lambda *_: None))
        try:
            return asyncio.run(asyncio.wait_for(followed, timeout))
        except asyncio.TimeoutError:
            raise TimeoutError(f"the run did not end within timeout={timeout:g} s") from None

    async def _get(self, path: str, read: Callable, params: Mapping[str, str] | None = None) -> Any:
        async with (
            aiohttp.ClientSession(timeout=REQUEST_TIMEOUT) as session,
            session.get(self.url + path, params=params) as response,
        ):
            response.raise_for_status()
            return await read(response)

    async def _run(self, body: Mapping[str, Any], on_progress: OnProgress) -> History:
        address = f"{self.url}/ws?clientId={body['client_id']}"
        # No size limit: custom nodes may send large events.
        async with (
            aiohttp.ClientSession(timeout=REQUEST_TIMEOUT) as session,
            session.ws_connect(address, max_msg_size=0) as websocket,
        ):
            async with session.post(f"{self.url}/prompt", json=body) as response:
                answer = await response.json()
                if response.status != 200:
                    raise PromptRejected(answer["error"], answer["node_errors"])
            prompt_id = answer["prompt_id"]
            events = await _follow(websocket, prompt_id, on_progress)
            async with session.get(f"{self.url}/history/{prompt_id}") as response:
                entry = (await response.json())[prompt_id]
        return History(prompt_id, entry["outputs"], tuple(events), answer["node_errors"])


async def _follow(
    websocket: aiohttp.ClientWebSocketResponse, prompt_id: str, on_progress: OnProgress
) -> list[tuple[str, dict[str, Any]]]:
    """Collect events until the run ends. Its last message is "executing" without a node, sent once it is in history."""
    events = []
    async for message in websocket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        event = message.json()
        kind, data = event["type"], event.get("data") or {}
        events.append((kind, data))
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            on_progress(data["node"], data["value"], data["max"])
        elif kind in ("execution_error", "execution_interrupted"):
            raise ExecutionFailed(data)
        elif kind == "executing" and data["node"] is None:
            return events
    raise ConnectionError(f"ComfyUI closed the connection before prompt {prompt_id} ended")

"""What the user sees while a graph runs; the only file that names the server."""

from __future__ import annotations

from collections.abc import Callable

from server import PromptServer


def reporter(node_id: str | None) -> Callable[[str], None]:
    """A function that shows a text on a node, to the client that queued the run; without one it does nothing."""
    def report(text: str) -> None:
        server = getattr(PromptServer, "instance", None)
        if server is not None and server.client_id is not None and node_id is not None:
            server.send_progress_text(text, node_id, server.client_id)

    return report

"""Building prompts (workflows in API form) node by node."""

from dataclasses import dataclass
from typing import Any

from tools.prompt import Prompt

Link = list[str | int]


@dataclass(frozen=True)
class Node:
    """A node of a graph; `node[1]` is the link of its second output, and the node itself stands for its first."""

    node_id: str

    def __getitem__(self, index: int) -> Link:
        return [self.node_id, index]


class Graph:
    """`graph("KSampler", model=model, ...)` adds a node; `graph.prompt` is what a server runs."""

    def __init__(self) -> None:
        self.prompt: Prompt = {}

    def __call__(self, class_type: str, /, **inputs: Any) -> Node:
        node = Node(str(len(self.prompt) + 1))
        wired = {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self.prompt[node.node_id] = {"class_type": class_type, "inputs": wired}
        return node

    def save(self, name: str, image: Node | Link) -> None:
        """Have images saved under a name."""
        self("SaveImage", images=image, filename_prefix=name)

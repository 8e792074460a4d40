"""Edits of prompts (workflows in API form): a new prompt comes back, the given one is left as it is."""

from collections.abc import Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]


def links(node: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The inputs of a node that are wired: input name -> (source node id, output index)."""
    return {name: (value[0], value[1]) for name, value in node["inputs"].items() if _is_link(value)}


def find_node(prompt: Prompt, class_type: str, **inputs: Any) -> str:
    """The id of the only node of a class that has these input values.

    Raises:
        LookupError: there is none, or more than one.
    """
    found = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] == class_type and inputs.items() <= node["inputs"].items()
    ]
    if len(found) != 1:
        raise LookupError(f"the workflow has {len(found)} {class_type} nodes with {inputs}, expected one")
    return found[0]


def with_input(prompt: Prompt, node_id: str, name: str, value: Any) -> Prompt:
    """The prompt with one input of one node set to `value`."""
    node = prompt[node_id]
    return {**prompt, node_id: {**node, "inputs": {**node["inputs"], name: value}}}


def without_node(prompt: Prompt, node_id: str, passes: Mapping[int, str]) -> Prompt:
    """The prompt with a node taken out, as if it were bypassed.

    Args:
        passes: output index -> the input it stands for: consumers of the output are linked to that input's source.
            Nodes that depend on any other output of the node are dropped, and what depends on those too.
    """
    sources = links(prompt[node_id])
    rewired = {}
    dropped = set()
    for other_id, node in prompt.items():
        if other_id == node_id:
            continue
        inputs = dict(node["inputs"])
        for name, (source, index) in links(node).items():
            if source == node_id and index in passes:
                inputs[name] = list(sources[passes[index]])
            elif source == node_id:
                dropped.add(other_id)
        rewired[other_id] = {**node, "inputs": inputs}
    return {key: node for key, node in rewired.items() if not _depends(rewired, key, dropped)}


def _depends(prompt: Prompt, node_id: str, targets: set[str]) -> bool:
    """Whether a node is one of `targets` or takes anything from one, over any number of nodes."""
    return node_id in targets or any(_depends(prompt, source, targets) for source, _ in links(prompt[node_id]).values())


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)

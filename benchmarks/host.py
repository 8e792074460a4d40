"""A real ComfyUI inside this process: starting it, and calling its nodes as its executor does."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.provision import CHECKOUT, provision

EXTRAS = ("custom_sampler", "pag", "sag")


@contextmanager
def running(device: str, served: bool = False) -> Iterator[None]:
    """`boot` with folders that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sag-bench-") as base:
        boot(device, Path(base), served)
        yield


def boot(device: str, base: Path, served: bool = False) -> None:
    """Start the host with its folders under `base`, and load what is measured of it and this pack.

    Attention is PyTorch's, which is what the host takes on a CUDA device. What it takes on a CPU cuts its work by the
    memory that happens to be free, so that no two runs would use the same amount.

    Args:
        served: with its server, `server.PromptServer.instance`, which then waits to be run.
    """
    # The profiler, which counts memory on a CPU, writes a line for every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    sys.dont_write_bytecode = True  # the user's own ComfyUI, where there is one, is not ours to write to
    tree = provision().comfyui
    import_host(tree, base, "--use-pytorch-cross-attention", *(["--cpu"] if device == "cpu" else []))
    if served:
        from server import PromptServer

        PromptServer(asyncio.new_event_loop())  # before the nodes, which add their routes to it
    load_nodes(tree, EXTRAS, CHECKOUT)


def import_host(tree: Path, base: Path, *options: str) -> None:
    """Import the host as `main.py` does with these options, all of its folders under `base`."""
    sys.path.insert(0, str(tree))
    arguments, sys.argv = sys.argv, ["main.py", "--base-directory", str(base), *options]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401, reads the arguments

    sys.argv = arguments
    # As main.py does, and before `nodes`, which puts comfy/, where there is another `utils`, in front of the tree.
    importlib.import_module("utils.extra_config")
    import comfy.utils

    import nodes  # noqa: F401, has to be the host's

    comfy.utils.set_progress_bar_enabled(False)
    # From here on `tests` and `tools` are the checkout's.
    sys.path.remove(str(tree))
    sys.path.append(str(tree))


def load_nodes(tree: Path, extras: Sequence[str], pack: Path) -> None:
    """Load some of the host's extra nodes and a pack, as the host does.

    Raises:
        RuntimeError: one could not be loaded.
    """
    import nodes

    async def load() -> list[bool]:
        files = [tree / "comfy_extras" / f"nodes_{name}.py" for name in extras]
        loaded = [await nodes.load_custom_node(str(path), module_parent="comfy_extras") for path in files]
        return [*loaded, await nodes.load_custom_node(str(pack))]

    if not all(asyncio.run(load())):
        raise RuntimeError("the host could not load its own nodes or this pack; its log says why")


def call(node_id: str, **inputs) -> tuple:
    """Run a node of the host or of this pack; its outputs."""
    from comfy_api.latest import io

    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[node_id]
    if issubclass(node, io.ComfyNode):
        clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
        return getattr(clone, node.FUNCTION)(**inputs).result
    return getattr(node(), node.FUNCTION)(**inputs)


def first_option(node_id: str) -> str:
    """The first of a loader's files, which is the one that comes with this pack."""
    import nodes

    return nodes.NODE_CLASS_MAPPINGS[node_id].define_schema().inputs[0].options[0]


def pack_module(name: str):
    """A module of the pack's `nodes/`, as the host has loaded it."""
    import nodes

    package = nodes.NODE_CLASS_MAPPINGS["SAGGuidance"].__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}")


def environment(device: str) -> str:
    """What was measured on, in one line."""
    import comfy.ldm.modules.attention
    import comfyui_version
    import torch

    if device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        machine = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    attention = comfy.ldm.modules.attention.optimized_attention.__name__
    return f"{machine}; PyTorch {torch.__version__}; ComfyUI {comfyui_version.__version__}, {attention}"


def _processor() -> str:
    import platform

    known = Path("/proc/cpuinfo")
    lines = known.read_text("utf-8").splitlines() if known.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

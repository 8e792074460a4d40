"""Starting a real ComfyUI inside the test process, on the CPU, with the checkout as one of its custom nodes."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# Nobody can choose what users call the folder: dots, spaces, dashes and brackets must all work.
FOLDER = "ComfyUI SAG-1.0 (copy)"
EXTRAS = ("apg", "cfg", "context_windows", "custom_sampler", "differential_diffusion", "easycache",
          "edit_model", "eps", "freelunch", "fresca", "hooks", "hypertile", "mahiro", "model_advanced",
          "model_downscale", "nag", "pag", "perpneg", "sag", "sd3", "slg", "tcfg", "tomesd", "torch_compile")


def comfyui_tree() -> Path:
    if os.environ.get("COMFYUI_PATH"):
        return Path(os.environ["COMFYUI_PATH"]).expanduser().absolute()
    from tools.provision import provision

    return provision().comfyui


def boot(tree: Path, base: Path) -> None:
    """Import the host as `main.py --cpu` does, with all of its folders under `base`, and load the nodes."""
    sys.path.insert(0, str(tree))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401, reads the arguments

    sys.argv = arguments
    # As main.py does, and before `nodes`, which puts comfy/, where there is another `utils`, in front of the tree.
    importlib.import_module("utils.extra_config")
    import comfy.utils
    import folder_paths

    import nodes

    comfy.utils.set_progress_bar_enabled(False)
    for folder in ("checkpoints", "custom_nodes"):
        Path(folder_paths.get_folder_paths(folder)[0]).mkdir(parents=True)
    for folder in (folder_paths.get_output_directory(), folder_paths.get_input_directory()):
        Path(folder).mkdir(exist_ok=True)
    pack = base / "custom_nodes" / FOLDER
    pack.symlink_to(CHECKOUT, target_is_directory=True)

    async def load() -> list[bool]:
        extras = [tree / "comfy_extras" / f"nodes_{name}.py" for name in EXTRAS]
        loaded = [await nodes.load_custom_node(str(path), module_parent="comfy_extras") for path in extras]
        return [*loaded, await nodes.load_custom_node(str(pack))]

    if not all(asyncio.run(load())):
        raise RuntimeError("the host could not load its own nodes or this pack; its log says why")
    # `nodes` had to be the host's; from here on `tests` and `tools` are the checkout's.
    sys.path.remove(str(tree))
    sys.path.append(str(tree))

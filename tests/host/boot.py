"""Starting a real ComfyUI inside the test process, on the CPU, with the checkout as one of its custom nodes."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.host import import_host, load_nodes

CHECKOUT = Path(__file__).resolve().parents[2]
# Nobody can choose what users call the folder: all that is Python must work with dots, spaces, dashes and brackets.
# What browsers miss under such a name is tested in tests/server/test_folder.py.
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
    """Start the host on the CPU with all of its folders under `base`, the checkout as one of its custom nodes."""
    import_host(tree, base, "--cpu")
    import folder_paths

    for folder in ("checkpoints", "custom_nodes"):
        Path(folder_paths.get_folder_paths(folder)[0]).mkdir(parents=True)
    for folder in (folder_paths.get_output_directory(), folder_paths.get_input_directory()):
        Path(folder).mkdir(exist_ok=True)
    pack = base / "custom_nodes" / FOLDER
    pack.symlink_to(CHECKOUT, target_is_directory=True)
    load_nodes(tree, EXTRAS, pack)

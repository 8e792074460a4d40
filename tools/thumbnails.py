"""Pictures of the example workflows for the template browser: what they save, or, without the model, their graph."""

import json
from collections.abc import Sequence

from PIL import Image

from tools.diagram import diagram
from tools.prompt import Prompt, find_node
from tools.provision import CHECKOUT
from tools.quickstart import run_images
from tools.server import ComfyServer
from tools.sheet import GAP, grid, labelled_rows

EXAMPLES = CHECKOUT / "example_workflows"
LARGEST = (1200, 1000)

# Rows of what an example saves, by filename prefix; where there is one, it needs no label.
RUNS: dict[str, Sequence[tuple[str, str]]] = {
    "quickstart": [("", "SAG_quickstart")],
    "inpaint_sag": [("picture", "SAG_inpaint_picture"), ("inpainted", "SAG_inpaint"),
                    ("blurred, only inside the mask", "SAG_inpaint_mask")],
    "schedule_sag": [("samples", "SAG_schedule"), ("attention, step after step", "SAG_schedule_steps")],
    "blur_guidance_or_sag": [("blur guidance", "SAG_blur_guidance"), ("self-attention guidance", "SAG_self_attention")],
    "economical_sag": [("no guidance", "SAG_none"), ("every step", "SAG_every_step"),
                       ("the first fifth of the steps", "SAG_first_fifth")],
    "sampler_custom_advanced_sag": [("CFG alone", "SAG_custom_plain"), ("CFG and SAG", "SAG_custom"),
                                    ("what SAG blurred", "SAG_custom_mask")],
    "cg_and_sag": [("no guidance", "SAG_cg_none"), ("classifier guidance: star", "SAG_cg_cg"), ("SAG", "SAG_cg_sag"),
                   ("both", "SAG_cg_both")],
    "analysis_sag": [("", "SAG_analysis")],
}
# Models that are not here: their samples are not shown.
DIAGRAMS: dict[str, str] = {
    "sd15_sag": "Stable Diffusion 1.5: prompt and empty prompt",
    "sdxl_sag": "SDXL: prompt and empty prompt",
    "flux_sag": "FLUX.1 dev",
    "wan_video_sag": "Wan 2.1: text to video",
    "pag_and_sag": "PAG, SAG, and both",
    "adm_sag": "ADM 256, the paper's settings",
    "iddpm_sag": "IDDPM 64",
}


def photographed(server: ComfyServer, name: str) -> Image.Image:
    """The images an example saves, run as it is."""
    prompt = _saving(json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8")))
    images = run_images(server, prompt, name)
    rows = RUNS[name]
    if len(rows) == 1:
        picture = grid(images[rows[0][1]], columns=min(4, len(images[rows[0][1]])))
    else:
        across = 4 * images[rows[0][1]][0].width + 3 * GAP
        picture = labelled_rows([(label, _row(images[prefix], across)) for label, prefix in rows])
    picture.thumbnail(LARGEST)
    return picture


def diagrammed(name: str) -> Image.Image:
    """The graph of an example under its title."""
    return diagram(json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")), DIAGRAMS[name])


def _saving(prompt: Prompt) -> Prompt:
    """The prompt, with what its nodes only show saved as well where it saves nothing itself."""
    if any(node["class_type"] == "SaveImage" for node in prompt.values()):
        return prompt
    shown = find_node(prompt, "SAGVisualize", style="side by side")
    return prompt | {"saved": {"class_type": "SaveImage", "inputs": {
        "images": [shown, 0], "filename_prefix": "SAG_analysis"}}}


def _row(images: Sequence[Image.Image], width: int) -> list[Image.Image]:
    """The first four images, or the one there is, as wide as they."""
    if len(images) > 1:
        return list(images[:4])
    height = round(images[0].height * width / images[0].width)
    return [images[0].resize((width, height), Image.Resampling.BOX)]

"""The example workflows, in the form that users open and in the one that scripts queue, and the files they need."""

from __future__ import annotations

import json

from tools.prompt import with_input
from tools.provision import CHECKOUT

FOLDER = CHECKOUT / "example_workflows"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# Where the file that a loader asks for lies, and the input that names it.
LOADERS = {"CheckpointLoaderSimple": ("checkpoints", "ckpt_name"), "UNETLoader": ("diffusion_models", "unet_name"),
           "CLIPLoader": ("text_encoders", "clip_name"), "VAELoader": ("vae", "vae_name"),
           "SAGLoadADM": ("checkpoints", "ckpt_name"), "SAGLoadClassifier": ("checkpoints", "classifier_name")}
SHORT = {"batch_size": 2, "steps": 4, "respacing": "4", "x_values": "0, 2"}


def opened(name):
    """The form that the frontend opens."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def queued(name):
    """The form that scripts queue."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


def note(name):
    """What an example says of itself."""
    (found,) = (node for node in opened(name)["nodes"] if node["type"] in NOTES)
    return found["widgets_values"][0]


def short(prompt):
    """The same with two images and four steps."""
    for key, node in list(prompt.items()):
        for name, value in SHORT.items():
            if name in node["inputs"]:
                prompt = with_input(prompt, key, name, value)
    return prompt


def files(name):
    """What has to be downloaded for an example: (folder of models, file) of each."""
    found = [(folder, node["inputs"][named]) for node in queued(name).values()
             for folder, named in [LOADERS.get(node["class_type"], (None, None))] if folder]
    return [(folder, file) for folder, file in found if file != "pixel_space" and not file.endswith("(embedded)")]


def put_empty_files(server, name):
    """Files of the names an example needs and nothing in them: enough for the host to accept the graph."""
    for folder, file in files(name):
        path = server.base / "models" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def widgets(info):
    """The widgets a node has in the frontend, in their order: (name, default), and (None, None) for one it adds."""
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            of_type, *options = info["input"][kind][name]
            options = options[0] if options else {}
            if isinstance(of_type, str) and not set(of_type.split(",")) & WIDGETS or options.get("forceInput"):
                continue
            choices = of_type if isinstance(of_type, list) else options.get("options", [])
            yield name, options.get("default", next(iter(choices), None))
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                yield None, None


RUNNABLE = [name for name in EXAMPLES if not files(name)]
OF_OTHER_MODELS = [name for name in EXAMPLES if files(name)]

"""A node that samples the same seed with many settings and lays the images out beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..sag_core.render import colour
from ..sag_core.settings import SAGSettings
from .host.compare import SAMPLERS, SCHEDULERS, Sampling, Series, decode
from .host.patch import guide_model
from .host.server import node_id_of, reporter
from .settings import check_settings, settings_inputs, settings_of
from .sheets import labelled, scaled, tile, to_image, to_pictures
from .show import shown
from .types import CATEGORY
from .vary import NONE, VARIED, Grid, grid_of, values_of

UNGUIDED = "unguided"
REFERENCES = (UNGUIDED, "first cell")


class SAGCompareGrid(io.ComfyNode):
    """The same seed over values of one or two settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        values = "Values, separated by commas; by semicolons where a value has commas of its own."
        as_ksampler = "As of KSampler, in every cell."
        return io.Schema(
            node_id="SAGCompareGrid",
            display_name="SAG Compare Grid",
            category=CATEGORY,
            description="Samples the same seed with every value of one or two settings of the guidance and lays the "
                        "images out in a grid, with how they differ. It runs the sampler itself.",
            search_aliases=["XY plot", "compare settings", "SAG grid", "scale sweep"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model, without guidance; this node guides it."),
                io.Conditioning.Input("positive", tooltip=as_ksampler),
                io.Conditioning.Input("negative", tooltip=as_ksampler),
                io.Latent.Input("latent_image", tooltip="As of KSampler; every cell shows the whole batch."),
                io.Vae.Input("vae", tooltip="Decodes the images; for pixel-space models Load VAE, pixel_space."),
                io.Combo.Input("x_setting", options=list(VARIED), default="scale",
                               tooltip="The setting that goes from left to right."),
                io.String.Input("x_values", default="0, 0.5, 1, 2", tooltip=values),
                io.Combo.Input("y_setting", options=[NONE, *VARIED], default=NONE,
                               tooltip="The setting that goes from top to bottom."),
                io.String.Input("y_values", default="", tooltip=values),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the noise, the same in every cell."),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip=as_ksampler),
                io.Float.Input("cfg", default=8.0, min=0, max=100, step=0.1, tooltip=as_ksampler),
                io.Combo.Input("sampler_name", options=SAMPLERS, tooltip=as_ksampler),
                io.Combo.Input("scheduler", options=SCHEDULERS, tooltip=as_ksampler),
                io.Float.Input("denoise", default=1.0, min=0, max=1, step=0.01, tooltip=as_ksampler),
                *settings_inputs(),
                io.Combo.Input("difference_to", options=list(REFERENCES), default=UNGUIDED, optional=True,
                               tooltip="What the differences are to: the image without guidance, which may take a run "
                                       "of its own, or the first of the grid."),
                io.Int.Input("cell_size", default=256, min=32, max=4096, optional=True, advanced=True,
                             tooltip="Longer side of a cell, in pixels; the images themselves stay as they are."),
            ],
            outputs=[io.Image.Output(display_name="grid"), io.Image.Output(display_name="images"),
                     io.Image.Output(display_name="differences"), io.String.Output(display_name="text")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, x_setting=None, x_values=None, y_setting=None, y_values=None, scale=None, blur_sigma=None,
                        threshold=None, start_percent=None, end_percent=None, blur_kernel=None, rescale=None,
                        projection=None):
        """Refuse bad values when the graph is queued; linked ones are checked before the first run."""
        try:
            if x_setting is not None and x_values is not None:
                values_of("x", x_setting, x_values)
            if y_setting not in (None, NONE) and y_values is not None:
                values_of("y", y_setting, y_values)
        except ValueError as error:
            return str(error)
        return check_settings(cls, scale, blur_sigma, threshold, start_percent, end_percent, blur_kernel, rescale,
                              projection)

    @classmethod
    def execute(cls, model, positive, negative, latent_image, vae, x_setting="scale", x_values="0, 0.5, 1, 2",
                y_setting=NONE, y_values="", seed=0, steps=20, cfg=8.0, sampler_name=SAMPLERS[0],
                scheduler=SCHEDULERS[0], denoise=1.0, difference_to=UNGUIDED, cell_size=256, **inputs) -> io.NodeOutput:
        grid = grid_of(settings_of(**inputs), x_setting, x_values, y_setting, y_values)
        sampling = Sampling(seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise)
        latents = sample_all(model, grid.settings, sampling, difference_to == UNGUIDED, reporter(node_id_of(cls)))
        *images, reference = (decode(vae, latent) for latent in latents)
        title = f"seed {seed}, {steps} steps of {sampler_name}, cfg {cfg:g}"
        cells = grid.laid_out([_cell(image, cell_size) for image in images])
        sheet = to_image([labelled(cells, grid.columns, grid.rows, title=title)])
        differences, text = _differences(grid, images, reference, difference_to, cell_size)
        return io.NodeOutput(sheet, torch.cat(images), differences, text, ui=shown(cls, sheet, text))


def sample_all(model, cells: Sequence[SAGSettings], sampling: Sampling, unguided: bool, report) -> list[dict]:
    """The LATENT of every cell, and last that of the model without guidance, or else the first cell's again.

    What is not guided, because its scale is 0, is sampled once.

    Raises:
        ValueError: the model has no such layer; before the first run.
    """
    for settings in cells:
        guide_model(model, settings, report)
    guided = sum(settings.scale != 0 for settings in cells)
    series = Series(sampling, guided + (unguided or guided < len(cells)))
    plain = series(model) if unguided or guided < len(cells) else None
    latents = [plain if settings.scale == 0 else series(guide_model(model, settings, report)[0]) for settings in cells]
    return [*latents, plain if unguided else latents[0]]


def _differences(grid: Grid, images: Sequence[Tensor], reference: Tensor, name: str, side: int) -> tuple[Tensor, str]:
    """Returns the distance of every cell from a reference: as a picture of one brightness scale, and as text."""
    apart = [(image - reference)[..., :3] for image in images]
    rms = [one.square().mean().sqrt().item() for one in apart]
    sizes = [one.abs().mean(dim=-1)[:, None] for one in apart]
    most = max(size.max().item() for size in sizes)
    pictures = [_cell(colour(size / most if most else size), side) for size in sizes]
    captions = grid.laid_out([f"RMS {value:.4f}" for value in rms])
    title = f"Difference to {name}, 0 to {most:.2g}"
    sheet = labelled(grid.laid_out(pictures), grid.columns, grid.rows, captions, title)
    lines = [f"{cell}: RMS {value:.4f}" for cell, value in zip(grid.names, rms, strict=True)]
    return to_image([sheet]), "\n".join([f"difference to {name}, of values from 0 to 1", *lines])


def _cell(images: Tensor, side: int) -> Image.Image:
    """A batch as one picture whose longer side has about so many pixels."""
    across = math.ceil(math.sqrt(len(images)))
    return tile([scaled(picture, side // across) for picture in to_pictures(images)], across)

"""Scenes for pictures: graphs around the embedded model, run by a real ComfyUI."""

from PIL import Image

from sag_core.trace import AttentionTrace
from tools.figure import enlarge
from tools.graph import Graph, Link, Node
from tools.quickstart import run_images
from tools.server import ComfyServer

MODEL = "shapes32 (embedded)"
# What the examples use: the preset of the embedded model.
SETTINGS = {"scale": 2.0, "blur_sigma": 1.0, "threshold": 1.0, "layer": "input.3"}
STEPS, ENLARGED = 25, 4


class Scene(Graph):
    """A graph around the embedded model, that saves its images under names."""

    def __init__(self, seed: int, images: int) -> None:
        super().__init__()
        self.seed = seed
        self.model = self("SAGLoadADM", ckpt_name=MODEL)
        self.no_class = self("SAGClassLabel", label=-1)
        self.latent = self("EmptyChromaRadianceLatentImage", width=32, height=32, batch_size=images)
        self.vae = self("VAELoader", vae_name="pixel_space")

    def guided(self, **inputs: object) -> Node:
        """The model, guided as in the examples but for these inputs."""
        return self("SAGGuidance", model=self.model, **{**SETTINGS, **inputs})

    def sampled(self, model: Node, label: Node | None = None, cfg: float = 1.0, denoise: float = 1.0) -> Node:
        """The LATENT of a run."""
        return self(
            "KSampler", model=model, positive=label or self.no_class, negative=self.no_class,
            latent_image=self.latent, seed=self.seed, steps=STEPS, cfg=cfg, sampler_name="euler_ancestral",
            scheduler="simple", denoise=denoise)

    def decoded(self, name: str, latent: Node) -> Node:
        """The images of a LATENT, saved under a name."""
        image = self("VAEDecode", samples=latent, vae=self.vae)
        self.save(name, image)
        return image

    def attended(self, name: str, trace: Link, latent: Node, style: str, step: int = -1, **inputs: object) -> Node:
        """What a trace shows, saved under a name."""
        shown = self("SAGMaskPreview", trace=trace, latent=latent, step=step, style=style, **inputs)
        self.save(name, shown)
        return shown


class Studio:
    """Runs scenes on a server; images of the samples' size come back enlarged."""

    def __init__(self, server: ComfyServer, name: str) -> None:
        self.server, self.name = server, name

    def run(self, scene: Graph) -> dict[str, list[Image.Image]]:
        images = run_images(self.server, scene.prompt, self.name)
        return {name: [_fitted(image) for image in some] for name, some in images.items()}

    def trace(self, name: str) -> AttentionTrace:
        """The trace that was saved first under a name."""
        return AttentionTrace.load(self.server.base / "output" / f"{name}_00001_.sag.safetensors")[0]


def _fitted(image: Image.Image) -> Image.Image:
    """Samples enlarged, and what is legible already brought to the same size."""
    if image.width != image.height:
        return image
    side = 32 * ENLARGED
    return enlarge(image, ENLARGED) if image.width < side else image.resize((side, side), Image.Resampling.NEAREST)

"""Pictures for the help pages of the nodes for OpenAI's models, their sampler and their classifiers."""

from PIL import Image

from tools.figure import chain, columns, stack
from tools.graph import Node
from tools.sheet import grid
from tools.studio import Scene, Studio
from training.scenes import SHAPES

CLASSIFIER = "shapes32_classifier (embedded)"
STAR, HEART = 3, 7


def load_adm(studio: Studio) -> Image.Image:
    """What the embedded model draws."""
    scene = Scene(seed=0, images=8)
    scene.decoded("samples", scene.sampled(scene.model))
    return grid(studio.run(scene)["samples"], columns=4)


def class_label(studio: Studio) -> Image.Image:
    """Samples of every class of the embedded model, with classifier-free guidance."""
    scene = Scene(seed=3, images=2)
    names = [f"{label} {name}" for label, name in enumerate(SHAPES)]
    for label, name in enumerate(names):
        scene.decoded(name, scene.sampled(scene.model, scene("SAGClassLabel", label=label), cfg=2.0))
    return columns(list(studio.run(scene).items()), across=4)


def adm_sampler(studio: Studio) -> Image.Image:
    """The same noise in fewer and more steps, ancestral and DDIM."""
    scene, shown = Scene(seed=5, images=3), ("10", "25", "100", "ddim25")
    for respacing in shown:
        scene.decoded(respacing, _sampled(scene, scene.model, respacing))
    images = studio.run(scene)
    return columns([(f'respacing "{respacing}"', images[respacing]) for respacing in shown], across=4)


def classifier_guidance(studio: Studio) -> Image.Image:
    """Two classes that the model is not told, at several scales."""
    scene, scales = Scene(seed=3, images=1), (0.0, 2.0, 4.0, 8.0)
    classifier = scene("SAGLoadClassifier", classifier_name=CLASSIFIER)
    for scale in scales:
        for label in (STAR, HEART):
            model = _steered(scene, classifier, label, scale)
            scene.decoded(f"{scale:g} {label}", _sampled(scene, model, "25"))
    images = studio.run(scene)
    return columns([(f"scale {scale:g}", images[f"{scale:g} {STAR}"] + images[f"{scale:g} {HEART}"])
                    for scale in scales], across=len(scales))


def load_classifier(studio: Studio) -> Image.Image:
    """Where the classifier goes, and the samples of a model that is told nothing else."""
    scene = Scene(seed=0, images=4)
    classifier = scene("SAGLoadClassifier", classifier_name=CLASSIFIER)
    scene.decoded("steered", _sampled(scene, _steered(scene, classifier, STAR, 4.0), "25"))
    row = grid(studio.run(scene)["steered"], columns=4)
    title = "Load Noisy Classifier"
    return stack([chain([title, "Classifier Guidance", "sampler"], title, row.width), row])


def low_res_image(_: Studio) -> Image.Image:
    """Where the node goes; the pack has no upsampler to show samples of."""
    title = "Low-Resolution Image"
    return chain(["Load Image", title, "KSampler"], title, 552)


def _sampled(scene: Scene, model: Node, respacing: str) -> Node:
    """The LATENT of a run of the authors' sampler, without a class."""
    sampler = scene("SAGADMSampler", model=scene.model, respacing=respacing, method="auto", eta=0.0)
    return scene("SamplerCustomAdvanced", noise=scene("RandomNoise", noise_seed=scene.seed), sampler=sampler,
                 guider=scene("BasicGuider", model=model, conditioning=scene.no_class), sigmas=sampler[1],
                 latent_image=scene.latent)


def _steered(scene: Scene, classifier: Node, label: int, scale: float) -> Node:
    return scene("SAGClassifierGuidance", classifier=classifier, scale=scale, labels="fixed", label=label, seed=0,
                 model=scene.model)

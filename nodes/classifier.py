"""Nodes for guidance by a classifier of noisy images."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.adm.classifier_checkpoint import describe_classifier, load_classifier
from ..sag_core.adm.config import NOISE_SCHEDULES
from .host.classifier import load_classifier_model
from .host.classifier_guidance import LABELS, ClassifierGuidance, guide_model, guide_sampler, missing
from .host.files import checkpoint_path, classifier_names
from .host.server import node_id_of, reporter
from .types import AUTO, CATEGORY, Classifier


class SAGLoadClassifier(io.ComfyNode):
    """Load a classifier of noisy images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGLoadClassifier",
            display_name="Load Noisy Classifier",
            category=CATEGORY,
            description="Loads a classifier of noisy images of OpenAI's guided-diffusion (64x64_classifier.pt to "
                        "512x512_classifier.pt) for classifier guidance, and says what it recognised.",
            search_aliases=["classifier guidance", "guided diffusion classifier", "CG", "noisy classifier"],
            inputs=[
                io.Combo.Input("classifier_name", options=classifier_names(),
                               tooltip="A file in the checkpoints folders, or the small classifier of this pack."),
                io.Combo.Input("noise_schedule", options=[AUTO, *NOISE_SCHEDULES], default=AUTO, optional=True,
                               advanced=True, tooltip="Schedule the classifier was trained with. auto goes by the "
                                                      "published ones: cosine for 64 pixels, linear for others."),
                io.Int.Input("timesteps", default=0, min=0, max=100_000, optional=True, advanced=True,
                             tooltip="Length of the process the classifier was trained on (diffusion_steps). 0 is that "
                                     "of the published ones, 1000."),
            ],
            outputs=[Classifier.Output(display_name="classifier"), io.String.Output(display_name="recognised")],
        )

    @classmethod
    def execute(cls, classifier_name, noise_schedule=AUTO, timesteps=0) -> io.NodeOutput:
        tensors, config = load_classifier(checkpoint_path(classifier_name),
                                          None if noise_schedule == AUTO else noise_schedule, timesteps or None)
        recognised = describe_classifier(config, sum(tensor.numel() for tensor in tensors.values()))
        return io.NodeOutput(load_classifier_model(tensors, config), recognised, ui={"text": [recognised]})


class SAGClassifierGuidance(io.ComfyNode):
    """Classifier guidance on a model, or on a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGClassifierGuidance",
            display_name="Classifier Guidance",
            category=CATEGORY,
            description="Steers samples to what a classifier of noisy images takes for a class. Connect a model or a "
                        "sampler; after Self-Attention Guidance on the same one, the two add up.",
            search_aliases=["CG", "classifier guidance", "guided diffusion", "class guidance"],
            inputs=[
                Classifier.Input("classifier", tooltip="From Load Noisy Classifier, of the model's image size."),
                io.Float.Input("scale", default=1.0, min=-100, max=100, step=0.1,
                               tooltip="Strength; 0 is off. The authors use 0.5 to 10, more for unconditional models "
                                       "than for class-conditional ones."),
                io.Combo.Input("labels", options=list(LABELS), default="from conditioning",
                               tooltip="Class to steer to: that of the positive's Class Label node, the one below, or "
                                       "another for each image of the batch, drawn by the seed."),
                io.Int.Input("label", default=0, min=0, max=999_999, tooltip="Number of the class, for fixed."),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=True,
                             tooltip="Draws the classes, for random."),
                io.Model.Input("model", optional=True,
                               tooltip="The model to guide, or connect a sampler. It is not changed; connect this "
                                       "node's MODEL to the sampler."),
                io.Sampler.Input("sampler", optional=True,
                                 tooltip="The sampler to guide, instead of a model; connect this node's SAMPLER in its "
                                         "place."),
            ],
            outputs=[io.Model.Output(), io.Sampler.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, classifier, scale=1.0, labels=LABELS[0], label=0, seed=0, model=None,
                sampler=None) -> io.NodeOutput:
        if (model is None) == (sampler is None):
            found = "both are" if sampler is not None else "neither is"
            raise ValueError(f"connect a model or a sampler; {found} connected, and guidance is wanted once")
        guidance = ClassifierGuidance(classifier, scale, labels, label, seed, reporter(node_id_of(cls)))
        if sampler is None:
            return io.NodeOutput(guide_model(model, guidance), missing("sampler"))
        return io.NodeOutput(missing("model"), guide_sampler(sampler, guidance))

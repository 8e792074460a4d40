"""Nodes for a human study: blinded pairs to be judged, and the score of the judgements (SAG, human evaluation)."""

from __future__ import annotations

from comfy_api.latest import io

from ..sag_core.preference import Answers, Key, score, wilson
from .host.files import file_names, file_path, new_output_path, output_name
from .plots import Estimate, intervals
from .sheets import to_image, to_pictures
from .show import shown
from .study_files import ANSWERS, KEYS, collect, load_answers, load_key, write_study
from .types import CATEGORY

ALL = "all to this study"
MOST_ROWS = 30


class SAGABPairs(io.ComfyNode):
    """Export blinded pairs of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGABPairs",
            display_name="Export Blinded Pairs",
            category=CATEGORY,
            description="Saves images without and with guidance as pairs in random order, with a page to judge them on "
                        "in any browser. Which is which stays in a key beside the folder.",
            search_aliases=["A/B test", "human study", "user study", "blind comparison"],
            is_output_node=True,
            inputs=[
                io.Image.Input("plain", tooltip="The images without guidance."),
                io.Image.Input("guided", tooltip="Those with guidance, of the same seeds, in the same order."),
                io.String.Input("filename_prefix", default="sag_pairs",
                                tooltip="Start of the folder's name in the output folder. Nothing is overwritten."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1,
                             control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the order in the pairs. Whoever judges should not know it."),
                io.String.Input("question", default="Which image looks better?", optional=True,
                                tooltip="What people are asked."),
            ],
            outputs=[io.String.Output(display_name="folder"), io.String.Output(display_name="key")],
        )

    @classmethod
    def execute(cls, plain, guided, filename_prefix="sag_pairs", seed=0,
                question="Which image looks better?") -> io.NodeOutput:
        if plain.shape[:3] != guided.shape[:3]:
            raise ValueError(f"plain holds {_described(plain)}, guided {_described(guided)}; every pair needs two "
                             "images of one size")
        if plain[..., :3].equal(guided[..., :3]):
            raise ValueError("plain and guided are the same images; there is nothing to prefer")
        base = new_output_path(filename_prefix)
        key = write_study(base, to_pictures(plain), to_pictures(guided), seed, question)
        text = f"{len(plain)} pairs: open {base / 'index.html'}. Keep {key.name} from those who judge."
        return io.NodeOutput(str(base), output_name(key), ui={"text": (text,)})


class SAGABScore(io.ComfyNode):
    """Score the answers to blinded pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGABScore",
            display_name="Score Blinded Pairs",
            category=CATEGORY,
            description="How often people preferred the guided image, with a 95 % interval, from the key of a study "
                        "and the answers that its page saved.",
            search_aliases=["A/B score", "preference", "human study"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("key", options=file_names(*KEYS),
                               tooltip="The key that Export Blinded Pairs wrote into the output folder."),
                io.Combo.Input("answers", options=[ALL, *file_names(*ANSWERS)], default=ALL,
                               tooltip="A file of answers in the output or input folder, or all to the study."),
            ],
            outputs=[io.Image.Output(display_name="plot"), io.String.Output(display_name="text"),
                     io.Float.Output(display_name="share"), io.Float.Output(display_name="low"),
                     io.Float.Output(display_name="high")],
        )

    @classmethod
    def validate_inputs(cls, key=None, answers=None):
        """Naming the inputs here lets the host accept files that came after it listed the folders."""
        try:
            if key is not None:
                file_path("key", key, *KEYS)
            if answers not in (None, ALL):
                file_path("answers", answers, *ANSWERS)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, key=None, answers=None):
        """Files that changed or came are read again."""
        names = [name for name in file_names(*KEYS, *ANSWERS) if answers == ALL or name in (key, answers)]
        return [(name, file_path("file", name, *KEYS, *ANSWERS).stat().st_mtime_ns) for name in names]

    @classmethod
    def execute(cls, key, answers=ALL) -> io.NodeOutput:
        known = load_key(file_path("key", key, *KEYS))
        if answers == ALL:
            found, unread = collect(known, [file_path("answers", name, *ANSWERS) for name in file_names(*ANSWERS)])
        else:
            found, unread = [load_answers(file_path("answers", answers, *ANSWERS))], []
        if not found:
            raise ValueError(f"there are no answers to study {known.study} in the output and input folders; put the "
                             "files that its page saved into one of them" + "".join(f"\n{text}" for text in unread))
        total = score(known, found)
        if not total.decided:
            raise ValueError(f"no answer to study {known.study} is for either image, so there is nothing to score")
        plot = to_image([intervals(_estimates(known, found), "Guided image preferred",
                                   "share of the answers for either image, 95 % interval", 0.5, (0, 1))])
        low, high = wilson(total.preferred, total.decided)
        text = "\n".join([_told(known, found), *(f"not counted: {text}" for text in unread)])
        return io.NodeOutput(plot, text, total.share, low, high, ui=shown(cls, plot, text))


def _estimates(key: Key, answers: list[Answers]) -> list[Estimate]:
    """Of all together, then of each person where there are several."""
    rows = [("all" if len(answers) > 1 else answers[0].rater, answers)]
    if len(answers) > 1:
        rows += [(one.rater, [one]) for one in answers[:MOST_ROWS]]
    estimates = []
    for name, some in rows:
        found = score(key, some)
        if found.decided:
            low, high = wilson(found.preferred, found.decided)
            estimates.append(Estimate(name, found.share, low, high, f"{found.preferred} of {found.decided}"))
    return estimates


def _told(key: Key, answers: list[Answers]) -> str:
    lines = []
    for one in _estimates(key, answers):
        lines.append(f"{one.name}: guided preferred in {one.note} answers, {one.value:.1%}, 95 % interval "
                     f"{one.low:.1%} to {one.high:.1%}")
    total = score(key, answers)
    given = total.decided + total.undecided
    lines.append(f"sign test against chance: p = {total.p_value:.2g}; {total.undecided} without a preference, "
                 f"{len(key.guided) * len(answers) - given} not answered")
    return "\n".join(lines)


def _described(image) -> str:
    return f"{len(image)} images of {image.shape[2]} x {image.shape[1]}"

"""The analysis nodes in a graph that a real server runs: what the frontend is told, progress, and stopping."""

import io
import json
import threading
import urllib.request

import pytest
from PIL import Image

from tools.client import ExecutionFailed
from tools.graph import Graph

MODEL = "shapes32 (embedded)"


class Study(Graph):
    """A graph around the embedded model."""

    def __init__(self):
        super().__init__()
        self.model = self("SAGLoadADM", ckpt_name=MODEL)
        label = self("SAGClassLabel", label=-1)
        self.vae = self("VAELoader", vae_name="pixel_space")
        self.sampling = {
            "positive": label, "negative": label, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
            "latent_image": self("EmptyChromaRadianceLatentImage", width=32, height=32, batch_size=2), "denoise": 1.0,
            "seed": 3}

    def compare(self, x_values, steps):
        return self("SAGCompareGrid", model=self.model, vae=self.vae, **self.sampling, steps=steps, x_setting="scale",
                    x_values=x_values, y_setting="none", y_values="", scale=1.0, blur_sigma=1.0, threshold=1.0)


def test_a_study_of_one_run(server):
    graph = Study()
    guided = graph("SAGGuidance", model=graph.model, scale=2.0, blur_sigma=1.0, threshold=1.0, layer="input.3")
    latent = graph("KSampler", model=guided, steps=2, **graph.sampling)
    image = graph("VAEDecode", samples=latent, vae=graph.vae)
    plain = graph("VAEDecode", samples=graph("KSampler", model=graph.model, steps=2, **graph.sampling), vae=graph.vae)
    run = {"trace": guided[1], "latent": latent}
    mask = graph("MaskComposite", destination=graph("SolidMask", value=0.0, width=32, height=32), x=8, y=8,
                 source=graph("SolidMask", value=1.0, width=16, height=16), operation="add")
    frequency = graph("SAGFrequencyAnalysis", **run, image=image, thresholds="1.0")
    overlap = graph("SAGMaskOverlap", **run, mask=mask, thresholds="1.0")
    film = graph("SAGVisualize", **run, image=image, style="animation", threshold=1.0)
    grid = graph.compare("0, 1", steps=2)
    pairs = graph("SAGABPairs", plain=plain, guided=image, filename_prefix="study", seed=1)
    progress = []
    history = server.run(graph.prompt, on_progress=lambda node, value, most: progress.append((node, value, most)))
    assert not history.node_errors
    for node in (frequency, overlap, film, grid):
        (entry,) = history.images(node.node_id)
        with Image.open(io.BytesIO(server.image(entry))) as picture:
            assert entry["type"] == "temp" and picture.width > 200
            assert picture.n_frames == (2 if node is film else 1)
    for node, word in ((frequency, "patches"), (overlap, "IoU"), (grid, "RMS"), (pairs, "study_00001_.key.json")):
        assert word in history.outputs[node.node_id]["text"][0]
    assert history.outputs[film.node_id]["animated"] == [True]
    assert [step for step in progress if step[0] == grid.node_id][-1] == (grid.node_id, 4, 4)

    key = json.loads((server.base / "output" / "study_00001_.key.json").read_text())
    answers = {"format": "sag-pairs-answers-1", "study": key["study"], "rater": "Ann",
               "answers": [{"pair": pair, "choice": side} for pair, side in enumerate(key["guided"], start=1)]}
    (server.base / "input" / "Ann.answers.json").write_text(json.dumps(answers))
    graph = Graph()
    score = graph("SAGABScore", key="study_00001_.key.json [output]", answers="Ann.answers.json [input]")
    assert "2 of 2 answers, 100.0%" in server.run(graph.prompt).outputs[score.node_id]["text"][0]


def test_a_grid_can_be_stopped(server):
    graph = Study()
    grid = graph.compare("1, 2, 3, 4", steps=500)
    seen = []

    def stop(node, value, most):
        seen.append(value)
        if len(seen) == 1:
            threading.Thread(target=urllib.request.urlopen, args=[server.url + "/interrupt", b""]).start()

    with pytest.raises(ExecutionFailed) as stopped:
        server.run(graph.prompt, on_progress=stop)
    assert stopped.value.data["node_id"] == grid.node_id and "exception_message" not in stopped.value.data
    assert seen[-1] < 500

"""Features of sets: taken once, in chunks, by every process its part; and the networks they are taken by."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks import evaluate
from benchmarks.features import SceneFeatures, SceneNet, fresh_scenes
from benchmarks.inception import InceptionFeatures, as_input, inception
from benchmarks.networks import CHUNK, Features, features_of, features_of_folder, features_of_store
from benchmarks.store import SampleStore, fill

ROOT = Path(__file__).resolve().parents[2]


class Means:
    """Mean colours, and how many images were looked at in each call."""

    def __init__(self, name: str = "means"):
        self.name, self.seen = name, []

    def __call__(self, images: Tensor) -> Features:
        self.seen.append(len(images))
        pooled = images.float().mean(dim=(2, 3))
        return Features(pooled, images[:, 0, :2].float().flatten(1), pooled.softmax(1))


def images(index: int, count: int = 5) -> Tensor:
    return torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)


@pytest.fixture
def store(tmp_path) -> SampleStore:
    store = SampleStore(tmp_path / "set", {"a": 1})
    fill(store, range(3), lambda index: {"images": images(index)})
    return store


def test_features_of_a_store_are_those_of_its_images_in_the_order_asked_for(store):
    found = features_of_store(store, [2, 0], Means())
    expected = Means()(torch.cat([images(2), images(0)]))
    for name, tensor in found.tensors().items():
        assert tensor.equal(expected.tensors()[name])


def test_what_was_looked_at_is_not_looked_at_again(store):
    net = Means()
    before = features_of_store(store, range(2), net)
    again = features_of_store(SampleStore.open(store.folder), range(3), net)
    assert net.seen == [5, 5, 5] and again.pooled[:10].equal(before.pooled)


def test_a_batch_drawn_anew_is_looked_at_again(store):
    net = Means()
    features_of_store(store, range(3), net)
    store.put(1, images=images(9))
    assert features_of_store(store, range(3), net).pooled[5:10].equal(Means()(images(9)).pooled)
    assert net.seen == [5, 5, 5, 5]


def test_damaged_features_are_taken_again(store):
    net = Means()
    before = features_of_store(store, range(3), net)
    file = store.folder / "features" / "means" / "batch-000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert features_of_store(store, range(3), net).pooled.equal(before.pooled) and len(net.seen) == 4


def test_another_network_has_features_of_its_own(store):
    first, second = Means(), Means("other")
    features_of_store(store, range(3), first)
    features_of_store(store, range(3), second)
    assert first.seen == second.seen == [5, 5, 5]


def test_features_of_a_missing_batch_are_an_error(store):
    with pytest.raises(FileNotFoundError, match="batch 3 of .* is missing or damaged"):
        features_of_store(store, range(4), Means())


def test_many_images_are_looked_at_in_chunks():
    net, many = Means(), images(0, 2 * CHUNK + 3)
    found = features_of(many, net)
    assert net.seen == [CHUNK, CHUNK, 3] and found.pooled.equal(Means()(many).pooled)


def test_features_of_a_folder_of_pictures_by_name(tmp_path):
    batch = images(0, 3)
    for name, image in zip(("b.png", "c.PNG", "a.bmp"), batch, strict=True):
        Image.fromarray(image.movedim(0, 2).numpy()).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert features_of_folder(tmp_path, Means()).pooled.equal(Means()(batch[[2, 0, 1]]).pooled)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        features_of_folder(tmp_path / "empty", Means())


# The classifier of scenes.

@pytest.fixture(scope="module")
def scene_net() -> SceneFeatures:
    torch.manual_seed(0)
    return SceneFeatures(SceneNet().eval().requires_grad_(False))


def test_the_classifier_sees_what_it_was_trained_on(scene_net, tmp_path):
    scenes = fresh_scenes(tmp_path / "scenes", 501)
    assert scenes.present() == [0, 1] and len(scenes.get(1)["images"]) == 1
    batch = scenes.get(0)["images"][:7]
    found, exact = scene_net(batch), scene_net.net.features(batch.float() / 127.5 - 1)
    assert found.pooled.shape == (7, 136) and found.spatial.shape == (7, 128)
    assert (found.pooled * scene_net.spread + scene_net.mean)[:, -64:].allclose(exact, atol=1e-5)
    assert found.spatial.view(7, 8, 16).mean(2).allclose(exact[:, :8], atol=1e-6)
    assert found.probabilities.allclose(scene_net.net(batch.float() / 127.5 - 1).softmax(1))
    with pytest.raises(ValueError, match=r"images are \(64, 32\)"):
        scene_net(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))


def test_every_feature_counts_in_units_of_its_spread_over_scenes(scene_net, tmp_path):
    store = fresh_scenes(tmp_path / "scenes", 500)
    pooled = features_of(store.images([0]), scene_net).pooled
    assert pooled.mean(dim=0).abs().max() < 0.3
    assert pooled.std(dim=0).sub(1).abs().max() < 0.3


def test_a_network_is_named_by_its_weights(scene_net):
    again = SceneNet()
    again.load_state_dict(scene_net.net.state_dict())
    assert SceneFeatures(again).name == scene_net.name
    with torch.no_grad():
        again.head.bias[0] += 1
    assert SceneFeatures(again).name != scene_net.name


# Inception-v3.

def test_pooling_leaves_the_padding_out():
    net = inception()
    seen = {}
    x = {name: torch.rand(1, channels, 4, 4) for name, channels in
         (("Mixed_5b", 192), ("Mixed_6b", 768), ("Mixed_7b", 1280), ("Mixed_7c", 2048))}
    for name, value in x.items():
        block = getattr(net, name)
        block.branch_pool.register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs[0]}))
        block(value)
    for name in ("Mixed_5b", "Mixed_6b", "Mixed_7b"):
        assert seen[name][..., 0, 0].allclose(x[name][..., :2, :2].mean(dim=(2, 3)))
        assert seen[name][..., 1, 3].allclose(x[name][..., :3, 2:].mean(dim=(2, 3)))
    assert seen["Mixed_7c"][..., 0, 0].equal(x["Mixed_7c"][..., :2, :2].amax(dim=(2, 3)))


def test_images_are_enlarged_from_their_corner():
    ramp = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(1, 3, 3, 3)
    row = as_input(ramp)[0, 0, 0] * 128 + 128
    # Pixel i looks at 3 i / 299, and there is nothing to the right of the last.
    at = torch.arange(299) * 3 / 299
    assert row.allclose((at * 100).clamp(max=200), atol=1e-3)
    whole = torch.randint(256, (1, 3, 299, 299), dtype=torch.uint8)
    assert as_input(whole).allclose((whole.float() - 128) / 128)


def test_inceptions_features_by_its_own_parts(tmp_path):
    torch.manual_seed(0)
    net = inception()
    weights = {name.replace("classes.", "fc."): tensor for name, tensor in net.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    images = torch.randint(256, (1, 3, 40, 50), dtype=torch.uint8)
    found = InceptionFeatures(tmp_path / "weights.pth")(images)
    pooled = net(as_input(images))
    assert found.pooled.shape == (1, 2048) and found.pooled.equal(pooled)
    assert found.spatial.shape == (1, 7 * 17 * 17) and found.spatial.unique().numel() > 100
    assert found.probabilities.allclose(F.linear(pooled, net.classes.weight).softmax(1))


def test_inception_without_its_weights_says_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Download Inception-v3's weights \(92 MB\) from https://"):
        InceptionFeatures(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"", b"no weights", {"a": torch.zeros(1)}, [1], {1: 2}],
                         ids=["empty", "text", "others", "list", "numbers"])
def test_other_files_are_no_weights(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ValueError, match="holds no weights of Inception-v3"):
        InceptionFeatures(file)


class Harm:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["SAG_TEST_HARM"]),)


def test_weights_run_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("SAG_TEST_HARM", str(tmp_path / "harm"))
    torch.save({"fc.weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds no weights of Inception-v3"):
        InceptionFeatures(tmp_path / "weights.pth")
    assert not (tmp_path / "harm").exists()


# The command.

@pytest.fixture
def command(monkeypatch, scene_net, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "scene_net", lambda say, data: scene_net.net)
    monkeypatch.setattr(evaluate, "OUTPUT", tmp_path / "output")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        evaluate.main()
        return capsys.readouterr().out
    return run


def test_the_command_shows_every_metric_and_the_differences(command, tmp_path):
    for name, seed in (("plain", 1), ("guided", 2)):
        fresh_scenes(tmp_path / name, 80, seed)
    text = command("scenes:100", str(tmp_path / "plain"), str(tmp_path / "guided"), "--paired", "--resamples", "20",
                   "--json", str(tmp_path / "values.json"))
    assert "| FID |".replace(" ", "") in text.replace(" ", "")
    rows = [line for line in text.splitlines() if line.startswith(f"| {tmp_path}")]
    assert len(rows) == 3 and f"{tmp_path / 'guided'} - {tmp_path / 'plain'}" in rows[2]
    values = json.loads((tmp_path / "values.json").read_text())[str(tmp_path / "plain")]
    assert list(values) == ["FID", "sFID", "KID", "IS", "precision", "recall"]
    low, high = values["FID"]["interval"]
    assert low <= values["FID"]["value"] <= high and f"{values['FID']['value']:.4g} [{low:.4g}, {high:.4g}]" in rows[0]


@pytest.mark.parametrize(("arguments", "message"), [
    (["scenes:100", "nowhere"], "nowhere is no folder"),
    (["scenes:", "."], "says no number of scenes"),
    (["scenes:100", ".", "--inception", "nowhere.pth"], "Download Inception-v3's weights"),
])
def test_the_command_says_what_is_wrong(command, arguments, message):
    with pytest.raises(SystemExit, match=message):
        command(*arguments)


def test_the_command_refuses_to_pair_sets_of_different_sizes(command, tmp_path):
    for name, count in (("plain", 80), ("guided", 70)):
        fresh_scenes(tmp_path / name, count)
    with pytest.raises(SystemExit, match="paired sets have as many samples"):
        command("scenes:100", str(tmp_path / "plain"), str(tmp_path / "guided"), "--paired")


# One process or two.

PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from benchmarks.metrics import Bootstrap, measure
from benchmarks.networks import Features, features_of_store
from benchmarks.shards import group
from benchmarks.store import SampleStore, fill

folder, stop = Path(sys.argv[1]), int(sys.argv[2])

class Net:
    name = "pixels"
    def __call__(self, images):
        log("looked")
        rows = images.float().flatten(1) / 255
        return Features(rows[:, :8], rows[:, 8:16], rows[:, :5].softmax(1))

def log(word):
    (folder / f"{word}-{os.getpid()}").open("a").write("x")

def draw(index):
    log("drawn")
    generator = torch.Generator().manual_seed(index)
    return {"images": torch.randint(256, (16, 3, 4, 4), generator=generator, dtype=torch.uint8)}

with group() as (rank, world):
    store = SampleStore(folder / "set", {"pixels": 4})
    fill(store, range(stop), draw)
    found = features_of_store(store, range(stop), Net())
    reference = Features(found.pooled.flip(1), found.spatial.flip(1), found.probabilities)
    estimates = measure(reference, found, Bootstrap(len(found), 20))
    values = {name: [estimate.value, *estimate.interval()] for name, estimate in estimates.items()}
    (folder / f"result-{rank}.json").write_text(json.dumps(values))
"""


def by_one(script: Path, folder: Path, stop: int) -> dict:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), str(folder), str(stop)])
        runpy.run_path(str(script))
    return json.loads((folder / "result-0.json").read_text())


def by_two(script: Path, folder: Path, stop: int) -> list[dict]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(folder), str(stop)], env=environment, check=True, timeout=240)  # noqa: S603
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]


def counts(folder: Path, word: str) -> list[int]:
    return sorted(len(path.read_text()) for path in folder.glob(f"{word}-*"))


def test_two_processes_draw_and_measure_as_one_does(tmp_path):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    alone = by_one(script, tmp_path / "alone", 5)
    # One process begins the other set and two go on with it, so that what is there is neither lost nor drawn again.
    by_one(script, tmp_path / "shared", 2)
    first, second = by_two(script, tmp_path / "shared", 5)
    assert first == second == alone and len(alone) == 6
    # The first process drew batches 0 and 1; of 2, 3 and 4 those that are even belong to rank 0, the odd one to rank 1.
    assert counts(tmp_path / "shared", "drawn") == counts(tmp_path / "shared", "looked") == [1, 2, 2]
    files = [sorted((tmp_path / name / "set").rglob("*.safetensors")) for name in ("alone", "shared")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]] and len(files[0]) == 10

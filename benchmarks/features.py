"""Features of the embedded model's world: a small classifier of the scenes that it learns."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.networks import Features, name_of
from benchmarks.store import SampleStore, fill
from training.data import SHAPES, Data, Draw

FEATURES = 64
# Of them, with their places: 8 of 4 x 4 are 128, few enough for the covariance of a few hundred samples.
SPATIAL = 8
LAYERS = 6  # of a stage: two convolutions, each with its norm and activation
STEPS, BATCH = 1500, 64
KEPT = Path(__file__).resolve().parent / "output" / "networks"


class SceneNet(nn.Module):
    """Images [B, 3, 32, 32] in [-1, 1] -> 64 features; trained to name the class."""

    def __init__(self, classes: int = len(SHAPES.classes)):
        super().__init__()
        widths = (3, 24, 48, FEATURES)
        self.layers = nn.Sequential(*[
            layer for before, after in zip(widths, widths[1:], strict=False)
            for layer in (nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU(),
                          nn.Conv2d(after, after, 3, padding=1, stride=2), nn.GroupNorm(4, after), nn.SiLU())])
        self.head = nn.Linear(FEATURES, classes)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Maps at every resolution: [B, 24, 16, 16], [B, 48, 8, 8] and [B, 64, 4, 4]."""
        maps = [images]
        for stage in range(0, len(self.layers), LAYERS):
            maps.append(self.layers[stage:stage + LAYERS](maps[-1]))
        return maps[1:]

    def features(self, images: Tensor) -> Tensor:
        """The mean over places of the last layer, [B, 64]."""
        return self.layers(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def scene_net(say=print, data: Data = SHAPES) -> SceneNet:
    """The classifier, trained on scenes that no benchmark uses; kept, and trained once for all benchmarks."""
    path, net = KEPT / f"{data.name}-scene-net-{STEPS}.safetensors", SceneNet(len(data.classes))
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.eval().requires_grad_(False)
    torch.manual_seed(0)
    net = SceneNet(len(data.classes))
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, STEPS)
    for step in range(STEPS):
        scenes = data.draw(BATCH, torch.Generator().manual_seed(1_000_000 + step))
        loss = F.cross_entropy(net(scenes.image), scenes.label)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        falling.step()
        if step % 250 == 0:
            say(f"training the feature network: step {step} of {STEPS}, loss {loss.item():.3f}")
    net.eval().requires_grad_(False)
    for kind, draw in data.kinds.items():
        scenes = draw(512, torch.Generator().manual_seed(2_000_000))
        say(f"{kind}: it names {(net(scenes.image).argmax(1) == scenes.label).float().mean():.1%} rightly")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    return net


class SceneFeatures:
    """What `SceneNet` sees in uint8 images [B, 3, 32, 32] (networks.FeatureNet).

    `pooled` are the means of every stage's channels, each in units of its spread over scenes, [B, 136]. The last stage
    alone, from which shapes are named, does not see noise that people do: of scenes with noise of standard deviation
    0.1 (of 2) added, its Frechet distance hardly rises; that of the first ones does.

    Args:
        net: trained.
        draw: the scenes whose spread is the unit.

    Raises:
        ValueError: images are of another size.
    """

    def __init__(self, net: SceneNet, draw: Draw = SHAPES.draw):
        self.net = net
        self.name = name_of("scenes-all-stages", net)
        with torch.inference_mode():
            scenes = torch.cat([_means(net.stages(draw(500, torch.Generator().manual_seed(2_500_000 + i)).image))
                                for i in range(4)])
        self.mean, self.spread = scenes.mean(dim=0), scenes.std(dim=0)

    def __call__(self, images: Tensor) -> Features:
        if images.shape[2:] != (32, 32):
            raise ValueError(f"images are {tuple(images.shape[2:])}; the classifier of scenes knows 32 x 32 pixels "
                             "alone: compare others by Inception-v3")
        images = images.float() / 127.5 - 1
        maps = self.net.stages(images)
        pooled, last = (_means(maps) - self.mean) / self.spread, maps[-1]
        return Features(pooled, last[:, :SPATIAL].flatten(1), self.net.head(last.mean(dim=(2, 3))).softmax(1))


def _means(maps: list[Tensor]) -> Tensor:
    return torch.cat([stage.mean(dim=(2, 3)) for stage in maps], dim=1)


def fresh_scenes(folder: Path, count: int, seed: int = 3_000_000, data: Data = SHAPES,
                 kind: str | None = None) -> SampleStore:
    """A store of `count` fresh scenes with their labels, to compare samples with; in batches of 500.

    Args:
        folder: where it is kept.
        count: number of scenes.
        seed: of the first batch; the others follow.
        data: what is drawn.
        kind: one of `data.kinds`; scenes that no training has seen where None.
    """
    draw = data.unseen if kind is None else data.kinds[kind]

    def batch(index: int) -> dict[str, Tensor]:
        scenes = draw(min(500, count - 500 * index), torch.Generator().manual_seed(seed + index))
        return {"images": scenes.image.add(1).mul(127.5).round().to(torch.uint8), "labels": scenes.label}

    of = {} if data is SHAPES else {"data": data.name, "kind": kind or "unseen"}
    store = SampleStore(folder, {"scenes": count, "seed": seed} | of)
    fill(store, range(-(-count // 500)), batch)
    return store

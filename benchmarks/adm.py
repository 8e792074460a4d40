"""The pixel models in the host beside the same networks in plain PyTorch, and their memory beside what it is told.

    python3 -m tools.run benchmarks.adm --write
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.host import environment, pack_module, running
from benchmarks.measure import Spread, peak_memory, ratio, seconds, settled
from benchmarks.plain_adm import PlainUNet
from benchmarks.progress import say
from benchmarks.report import MIB, table, write
from sag_core.adm.config import ADMConfig
from sag_core.adm.published import PUBLISHED
from sag_core.adm.unet import ADMUNet

README = Path(__file__).resolve().parent / "README.md"
TIME_LIMIT, MEMORY_LIMIT = 1.05, 1.25
# Networks, rows and sizes: the first of each is timed. On a CPU all are half as wide as the published ones.
RUNS = {
    "ADM ImageNet 64x64": [(2, 64, 64), (1, 64, 64), (4, 64, 96)],
    "ADM ImageNet or LSUN 256x256": [(1, 128, 128), (2, 128, 128), (1, 256, 192)],
    "ADM ImageNet 512x512 (finetuned)": [(1, 128, 128), (1, 256, 256)],
    "IDDPM ImageNet 64x64": [(2, 64, 64), (1, 64, 64), (8, 64, 64)],
    "IDDPM LSUN bedroom 256x256": [(1, 128, 128), (2, 128, 128), (1, 256, 256)],
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a pass in the host and in plain PyTorch, and how many times longer the host takes."""

    host: Spread
    plain: Spread
    over: Spread


@dataclass(frozen=True)
class Memory:
    """Bytes that a pass holds at its peak, and how many the host is told."""

    shape: tuple[int, int, int]
    peak: int
    told: float


def narrow(config: ADMConfig) -> ADMConfig:
    """Half the channels, in as many heads."""
    heads = {} if config.num_heads else {"head_channels": config.head_channels // 2}
    return replace(config, model_channels=config.model_channels // 2, norm_groups=16, **heads)


def subject(name: str, device: str):
    """A MODEL of random weights as the pack's node makes it, unconditional, and the configuration."""
    config = replace(PUBLISHED[name], num_classes=0)
    config = config if device == "cuda" else narrow(config)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(value.shape, generator=generator) * value[..., :1].numel() ** -0.5
               for name, value in ADMUNet(config, device="meta").state_dict().items()}
    import comfy.model_management

    model = pack_module("host.adm").load_model(tensors, config)
    comfy.model_management.load_models_gpu([model])
    return model.model, config


@dataclass(frozen=True)
class Passes:
    """One pass in the host, with all that the host does for one, and one in plain PyTorch, of the same noisy images."""

    x: Tensor
    host: Callable[[], Tensor]
    plain: Callable[[], Tensor]

    @classmethod
    def of(cls, model, config: ADMConfig, shape: tuple[int, int, int], device: str) -> Passes:
        rows, height, width = shape
        x = torch.randn(rows, config.in_channels, height, width, device=device)
        sigma = torch.ones(rows, device=device)
        plain = PlainUNet(model.diffusion_model.state_dict(), config)
        # Noise of standard deviation 1 is half of a variance-preserving sample.
        noisy, t = (x / 2 ** 0.5).to(model.get_dtype_inference()), model.model_sampling.timestep(sigma).float()
        return cls(x, lambda: model.apply_model(x, sigma, transformer_options={}), lambda: plain(noisy, t)[:, :3])

    def check(self) -> None:
        """Compare what both predict.

        Raises:
            RuntimeError: the two are not the same network, so no time would mean anything.
        """
        expected = (self.x - self.plain().float()).clamp(-1, 1)
        if not torch.allclose(self.host(), expected, atol=1e-3 if self.plain().dtype == torch.float32 else 0.1):
            raise RuntimeError("the host and plain PyTorch do not predict the same")


@settled()
def measure(name: str, device: str, repeats: int, say: Callable[[str], None]) -> tuple[Timing, list[Memory]]:
    """Time of the first shape and memory of all."""
    model, config = subject(name, device)
    shapes = RUNS[name]
    memory = []
    for shape in shapes:
        host = Passes.of(model, config, shape, device).host
        host()  # what libraries allocate once is not of this pass
        told = model.memory_required([shape[0], config.in_channels, *shape[1:]])
        memory.append(Memory(shape, peak_memory(host, device), told))
    timed = Passes.of(model, config, shapes[0], device)
    timed.check()
    taken = seconds({"host": timed.host, "plain": timed.plain}, repeats, device, say)
    host, plain = (Spread.of([1e3 * value for value in taken[kind]]) for kind in ("host", "plain"))
    return Timing(host, plain, ratio(taken, "host", "plain")), memory


def report(found: dict[str, tuple[Timing, list[Memory]]]) -> str:
    """Both tables, each held against its limit."""
    times = [[name, str(timing.host), str(timing.plain), str(timing.over),
              "met" if timing.over.median <= TIME_LIMIT else "missed"] for name, (timing, _) in found.items()]
    memory = [[name, " x ".join(map(str, m.shape)), f"{m.peak / MIB:.1f}", f"{m.told / MIB:.1f}",
               f"{m.told / m.peak:.2f}", "met" if 1 / MEMORY_LIMIT <= m.told / m.peak <= MEMORY_LIMIT else "missed"]
              for name, (_, measured) in found.items() for m in measured]
    return "\n\n".join([
        table(["", "host, ms a pass", "plain, ms a pass", "host / plain", f"<= {TIME_LIMIT}"], times),
        table(["", "rows x pixels", "peak MiB", "told MiB", "told / peak", "within 25 %"], memory)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.run benchmarks.adm")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9, help="rounds, each with a pass of both")
    parser.add_argument("--write", action="store_true", help="put the report into benchmarks/README.md")
    args = parser.parse_args()

    with running(args.device), torch.inference_mode():
        found = {}
        for name in RUNS:
            say(f"-- {name}")
            found[name] = measure(name, args.device, args.repeats, say)
        text = f"{environment(args.device)}; rounds: {args.repeats}\n\n{report(found)}"
    print(text)
    if args.write:
        write(README, f"adm {args.device}", text)


if __name__ == "__main__":
    main()

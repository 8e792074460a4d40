"""The published networks, restated as functions of a state dict: no modules, every product written out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class Published:
    """guided-diffusion's UNetModel as one function of a state dict (arXiv 2105.05233, sec. 3), in float64."""

    def __init__(self, state, config):
        self.state, self.config, self.used = state, config, set()

    def read(self, name):
        self.used.add(name)
        return self.state[name]

    def layer(self, function, name, x, **options):
        return function(x, self.read(name + ".weight"), self.read(name + ".bias"), **options)

    def conv(self, name, x, **options):
        return self.layer(F.conv2d, name, x, **options)

    def norm(self, name, x):
        groups = x.reshape(x.shape[0], self.config.norm_groups, -1)
        mean = groups.mean(2, keepdim=True)
        variance = ((groups - mean) ** 2).mean(2, keepdim=True)
        x = ((groups - mean) / (variance + self.config.norm_eps).sqrt()).reshape(x.shape)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.read(name + ".weight").view(shape) + self.read(name + ".bias").view(shape)

    def embedding(self, timesteps):
        half = self.config.model_channels // 2
        rows = []
        for t in (timesteps * self.config.timestep_scale).tolist():
            angles = [t * 10000 ** (-i / (half - self.config.embedding_shift)) for i in range(half)]
            rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        x = torch.tensor(rows, dtype=torch.float64)
        return self.layer(F.linear, "time_embed.2", silu(self.layer(F.linear, "time_embed.0", x)))

    def res(self, name, x, emb, resample):
        h = resample(silu(self.norm(name + ".in_layers.0", x)))
        h = self.conv(name + ".in_layers.2", h, padding=1)
        emb = self.layer(F.linear, name + ".emb_layers.1", silu(emb))[:, :, None, None]
        if self.config.scale_shift_norm:
            width = h.shape[1]
            h = self.norm(name + ".out_layers.0", h) * (1 + emb[:, :width]) + emb[:, width:]
        else:
            h = self.norm(name + ".out_layers.0", h + emb)
        h = self.conv(name + ".out_layers.3", silu(h), padding=1)
        x = resample(x)
        if x.shape[1] != h.shape[1]:
            x = self.conv(name + ".skip_connection", x)
        return x + h

    def attention(self, name, x):
        batch, channels, height, width = x.shape
        qkv = self.layer(F.conv1d, name + ".qkv", self.norm(name + ".norm", x.flatten(2)))
        heads = self.config.num_heads or channels // self.config.head_channels
        size = channels // heads
        out = []
        for head in range(heads):
            # Old order: q, k, v of head 0, then of head 1 ...; new order: q of all heads, k of all, v of all.
            first, stride = (head * size, channels) if self.config.new_attention_order else (3 * head * size, size)
            q, k, v = (qkv[:, first + i * stride:first + i * stride + size] for i in range(3))
            probs = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(size), dim=2)
            out.append(v @ probs.transpose(1, 2))
        out = self.layer(F.conv1d, name + ".proj_out", torch.cat(out, dim=1))
        return x + out.reshape(batch, channels, height, width)

    def block(self, name, h, emb, resample):
        """What is in a block shows in its names, but not whether a residual block that comes last resamples."""
        parts = sorted({int(key.split(".")[2]) for key in self.state if key.startswith(name + ".")})
        for i in parts:
            part = f"{name}.{i}"
            if part + ".in_layers.0.weight" in self.state:
                h = self.res(part, h, emb, resample if i == parts[-1] else same)
            elif part + ".qkv.weight" in self.state:
                h = self.attention(part, h)
            elif part + ".op.weight" in self.state:
                # Zeros all around, or at the bottom and the right alone.
                border = (0, 1, 0, 1) if self.config.asymmetric_padding else (1, 1, 1, 1)
                h = self.conv(part + ".op", F.pad(h, border), stride=2)
            elif part + ".conv.weight" in self.state:
                h = self.conv(part + ".conv", twice(h), padding=1)
            else:
                h = self.conv(part, h, padding=1)
        return h

    def __call__(self, x, timesteps, y=None):
        emb = self.embedding(timesteps)
        if y is not None:
            emb = emb + self.read("label_emb.weight")[y]
        period = self.config.num_res_blocks + 1
        count = period * len(self.config.channel_mult)
        h, skips = x, []
        for i in range(count):
            h = self.block(f"input_blocks.{i}", h, emb, half if i and i % period == 0 else same)
            skips.append(h)
        h = self.res("middle_block.0", h, emb, same)
        h = self.attention("middle_block.1", h)
        h = self.res("middle_block.2", h, emb, same)
        for i in range(1, count + 1):
            h = torch.cat([h, skips.pop()], dim=1)
            h = self.block(f"output_blocks.{i - 1}", h, emb, twice if i < count and i % period == 0 else same)
        return self.conv("out.2", silu(self.norm("out.0", h)), padding=1)


def silu(x):
    return x / (1 + torch.exp(-x))


def same(x):
    return x


def twice(x):
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def half(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def ddpm(state, x, timesteps, levels):
    """DDPM's network (arXiv 2006.11239, appendix B) by the names of its PyTorch port, in the state's dtype.

    Args:
        state: tensors by the port's names; which blocks there are shows in them.
        x: [B, 3, H, W]. timesteps: [B]. levels: resolutions of the network.
    """
    def conv(name, h, **options):
        return F.conv2d(h, state[name + ".weight"], state[name + ".bias"], **options)

    def dense(name, h):
        return torch.einsum("bi,oi->bo", h, state[name + ".weight"]) + state[name + ".bias"]

    def norm(name, h):
        split = h.unflatten(1, (32, -1))
        centred = split - split.mean((2, 3, 4), keepdim=True)
        h = (centred / torch.sqrt(centred.square().mean((2, 3, 4), keepdim=True) + 1e-6)).flatten(1, 2)
        return torch.einsum("bchw,c->bchw", h, state[name + ".weight"]) + state[name + ".bias"][:, None, None]

    def residual(name, h):
        out = conv(name + ".conv1", silu(norm(name + ".norm1", h)), padding=1)
        out = out + dense(name + ".temb_proj", silu(temb))[:, :, None, None]
        out = conv(name + ".conv2", silu(norm(name + ".norm2", out)), padding=1)
        return out + (conv(name + ".nin_shortcut", h) if name + ".nin_shortcut.weight" in state else h)

    def attend(name, h):
        if name + ".q.weight" not in state:
            return h
        q, k, v = (conv(f"{name}.{part}", norm(name + ".norm", h)) for part in "qkv")
        scores = torch.einsum("bcyx,bcuv->byxuv", q, k) / math.sqrt(h.shape[1])
        probs = scores.flatten(3).softmax(dim=-1).unflatten(3, h.shape[2:])
        return h + conv(name + ".proj_out", torch.einsum("byxuv,bcuv->bcyx", probs, v))

    half = state["conv_in.weight"].shape[0] // 2
    angles = timesteps[:, None].to(x) * torch.exp(torch.arange(half).to(x) * -(math.log(10000) / (half - 1)))
    temb = dense("temb.dense.1", silu(dense("temb.dense.0", torch.cat([angles.sin(), angles.cos()], dim=1))))

    hs = [conv("conv_in", x, padding=1)]
    for level in range(levels):
        for i in range(sum(name.startswith(f"down.{level}.block.") and name.endswith("norm1.bias") for name in state)):
            hs.append(attend(f"down.{level}.attn.{i}", residual(f"down.{level}.block.{i}", hs[-1])))
        if level < levels - 1:
            hs.append(conv(f"down.{level}.downsample.conv", F.pad(hs[-1], (0, 1, 0, 1)), stride=2))
    h = residual("mid.block_2", attend("mid.attn_1", residual("mid.block_1", hs[-1])))
    for level in reversed(range(levels)):
        for i in range(sum(name.startswith(f"up.{level}.block.") and name.endswith("norm1.bias") for name in state)):
            h = attend(f"up.{level}.attn.{i}", residual(f"up.{level}.block.{i}", torch.cat([h, hs.pop()], dim=1)))
        if level:
            h = conv(f"up.{level}.upsample.conv", twice(h), padding=1)
    assert not hs
    return conv("conv_out", silu(norm("norm_out", h)), padding=1)


def ddpm_shapes(channels, mult, blocks, attention, out_channels=3):
    """Names and shapes of the port's network; `attention` names levels by their number."""
    shapes = {"temb.dense.0": (4 * channels, channels), "temb.dense.1": (4 * channels, 4 * channels),
              "conv_in": (channels, 3, 3, 3)}

    def residual(name, before, after):
        shapes.update({f"{name}.norm1": (before,), f"{name}.conv1": (after, before, 3, 3),
                       f"{name}.temb_proj": (after, 4 * channels), f"{name}.norm2": (after,),
                       f"{name}.conv2": (after, after, 3, 3)})
        if before != after:
            shapes[f"{name}.nin_shortcut"] = (after, before, 1, 1)

    def attend(name, width):
        shapes.update({f"{name}.norm": (width,), **{f"{name}.{part}": (width, width, 1, 1)
                                                    for part in ("q", "k", "v", "proj_out")}})

    width, skips = channels, [channels]
    for level, times in enumerate(mult):
        for i in range(blocks):
            residual(f"down.{level}.block.{i}", width, channels * times)
            width = channels * times
            skips.append(width)
            if level in attention:
                attend(f"down.{level}.attn.{i}", width)
        if level < len(mult) - 1:
            shapes[f"down.{level}.downsample.conv"] = (width, width, 3, 3)
            skips.append(width)
    residual("mid.block_1", width, width)
    attend("mid.attn_1", width)
    residual("mid.block_2", width, width)
    for level in reversed(range(len(mult))):
        for i in range(blocks + 1):
            residual(f"up.{level}.block.{i}", width + skips.pop(), channels * mult[level])
            width = channels * mult[level]
            if level in attention:
                attend(f"up.{level}.attn.{i}", width)
        if level:
            shapes[f"up.{level}.upsample.conv"] = (width, width, 3, 3)
    shapes |= {"norm_out": (width,), "conv_out": (out_channels, width, 3, 3)}
    return {f"{name}.weight": shape for name, shape in shapes.items()} | {
        f"{name}.bias": shape[:1] for name, shape in shapes.items()}


def as_diffusers(state, levels, old_attention=False):
    """The port's tensors as a UNet2DModel names them; attention is linear there."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("down", "up"):
            level = int(parts[1]) if parts[0] == "down" else levels - 1 - int(parts[1])
            kind = {"block": "resnets", "attn": "attentions"}.get(parts[2], f"{parts[2]}rs.0")
            parts = [f"{parts[0]}_blocks", str(level), kind, *parts[3:]]
        elif parts[0] == "mid":
            parts = ["mid_block", "attentions.0" if parts[1] == "attn_1" else f"resnets.{int(parts[1][-1]) - 1}",
                     *parts[2:]]
        elif parts[0] == "temb":
            parts = ["time_embedding", f"linear_{int(parts[2]) + 1}", parts[3]]
        attention = "attentions" in ".".join(parts)
        layers = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut", "norm_out": "conv_norm_out"}
        if attention:
            layers = {"norm": "group_norm", "proj_out": "proj_attn" if old_attention else "to_out.0"}
            layers |= dict(zip("qkv", ("query", "key", "value") if old_attention else ("to_q", "to_k", "to_v"),
                               strict=True))
        name = ".".join([*parts[:-2], layers.get(parts[-2], parts[-2]), parts[-1]])
        renamed[name] = value[:, :, 0, 0] if attention and value.ndim == 4 else value
    return renamed

"""Self-Attention Guidance (Hong et al., ICCV 2023, arXiv 2210.00939) for any denoiser: PyTorch alone, no host.

A step of any denoiser is guided in five lines. `q` and `k` [B, heads, N, D] are the queries and keys of one
self-attention layer, with N = h * w tokens, of the pass that predicted `denoised` at `x` [B, C, H, W]:

    >>> attn_map = to_grid(column_mass(q, k), (h, w))
    >>> mask = attention_mask(attn_map, threshold=1.0, size=x.shape[2:])
    >>> predict = lambda degraded_x: denoiser(degraded_x, sigma)
    >>> direction = sag_direction(x, denoised, mask, sigma, predict, blur_sigma=2.0)
    >>> guided = denoised + scale * direction
"""

from .attention import column_mass
from .degrade import Process, degrade, gaussian_blur, renoise
from .guidance import Decision, GuidedStep, Reason, SelfAttentionGuidance, sag_direction, self_attention_guidance
from .masks import attention_mask, to_grid
from .schedule import Curve, Economy, Interval, Schedule
from .settings import SAGSettings
from .strategies import MaskOptions
from .trace import AttentionTrace, Recording, Step

__all__ = [
    "AttentionTrace", "Curve", "Decision", "Economy", "GuidedStep", "Interval", "MaskOptions", "Process", "Reason",
    "Recording", "SAGSettings", "Schedule", "SelfAttentionGuidance", "Step", "attention_mask", "column_mass", "degrade",
    "gaussian_blur", "renoise", "sag_direction", "self_attention_guidance", "to_grid",
]

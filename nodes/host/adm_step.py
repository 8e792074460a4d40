"""Exchange between an authors' sampler and the rest of its run at a step.

The sampler puts an `ADMStep` into the run's transformer_options under `ADM_STEP`. Whoever finds one there knows that
the sampler is one of OpenAI's: the model hands over its variance and leaves its prediction unclamped, the guidance
clamps what it blurs, and a classifier hands over its gradient instead of adding it to the clean prediction, since it is
to shift the mean of the next sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Size, Tensor

ADM_STEP = "sag_adm_step"
"""Key in transformer_options of the run's `ADMStep`; without one the sampler is any other."""


@dataclass(eq=False)
class ADMStep:
    """A step of the authors' sampler, filled while the model is evaluated and read by the sampler afterwards.

    Args:
        shape: of the sample, [B, C, H, W].
        clip: range of clean predictions, None for those that are no images. Predictions are not clamped to it
            themselves, for the noise they imply is the model's own; what is made of them is.
        gradient: sum of what shifts the mean, each guidance_scale * grad_x log p(y | x), float [B, C, H, W], with
            respect to the variance-preserving x = x_host / sqrt(1 + sigma^2), which is what a classifier is shown.
        log_variance_fraction: the model's second half of channels, float [B, C, H, W]; -1 is the log-variance of the
            posterior, 1 that of beta. None from a model of fixed variance.
    """

    shape: Size
    clip: tuple[float, float] | None = None
    gradient: Tensor | None = None
    log_variance_fraction: Tensor | None = None

    def add_gradient(self, gradient: Tensor) -> None:
        """Shift the mean of this step by another gradient; the post-CFG function then returns `denoised` unchanged."""
        self.gradient = gradient if self.gradient is None else self.gradient + gradient

    def see_variance(self, fraction: Tensor, branches: list[int]) -> None:
        """The second half of channels of one call of the network.

        The first that covers the whole sample counts, in the rows of the positive branch: later passes are those of
        guidances, and parts of the sample have no variance of the whole.

        Args:
            fraction: [len(branches) * B, C, H, W].
            branches: which of the host's conds each B rows are of; 0 is the positive one.
        """
        if self.log_variance_fraction is None and 0 in branches:
            rows = fraction.chunk(len(branches))[branches.index(0)]
            if rows.shape == self.shape:
                self.log_variance_fraction = rows.float()

    def clear(self) -> None:
        """Forget the last step."""
        self.gradient = self.log_variance_fraction = None

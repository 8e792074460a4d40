"""Memory of a pass of the U-Net, from its architecture alone."""

from __future__ import annotations

from collections.abc import Iterator

from .config import ADMConfig


def peak_activations(config: ADMConfig) -> float:
    """Numbers held at once at the peak of a pass without gradients, per pixel of the image and row of the batch.

    What the encoder keeps for the decoder is counted whole, and of the block that runs its input and what its layers
    hold until they are done. Convolutions copy their input into a layout of their own. Weights are not counted.
    """
    return max(held for held in _moments(config))


def _moments(config: ADMConfig) -> Iterator[float]:
    """Yields the elements held at every block, in the order they run, as multiples of the image's area."""
    channels, area = config.width(0), 1.0
    skips = [channels * area]
    for level in range(len(config.channel_mult)):
        for _ in range(config.num_res_blocks):
            # The block's input is the last skip.
            yield sum(skips[:-1]) + _residual(channels, config.width(level), area, area)
            channels = config.width(level)
            if 2 ** level in config.attention_downsamples:
                yield sum(skips) + _attention(channels, area)
            skips.append(channels * area)
        if level < len(config.channel_mult) - 1:
            yield sum(skips[:-1]) + _resampled(config, channels, area, area / 4)
            area /= 4
            skips.append(channels * area)
    yield sum(skips) + max(_residual(channels, channels, area, area), _attention(channels, area))
    for level in reversed(range(len(config.channel_mult))):
        for i in range(config.num_res_blocks + 1):
            before, skip = channels * area, skips.pop()
            yield sum(skips) + before + _residual(channels + skip / area, config.width(level), area, area)
            channels = config.width(level)
            if 2 ** level in config.attention_downsamples:
                yield sum(skips) + before + _attention(channels, area)
            if level and i == config.num_res_blocks:
                yield sum(skips) + before + _resampled(config, channels, area, 4 * area)
                area *= 4
    yield 4 * channels * area


def _residual(channels: float, out_channels: float, area: float, out_area: float) -> float:
    """A residual block: its input, which its caller keeps, and the two halves of its work."""
    x, kept, out = channels * area, channels * out_area * (area != out_area), out_channels * out_area
    resampling = 2 * channels * (area + out_area) if area != out_area else 0
    return max(3 * x, resampling, x + kept + 2 * channels * out_area + out, x + kept + 3 * out)


def _resampled(config: ADMConfig, channels: float, area: float, out_area: float) -> float:
    if config.resblock_updown:
        return _residual(channels, channels, area, out_area)
    # A convolution after the interpolation, or one with a stride.
    return channels * (area + 3 * out_area) if out_area > area else channels * (2 * area + out_area)


def _attention(channels: float, area: float) -> float:
    """The input, its norm, and q, k and v twice, as the convolution leaves them and as attention takes them."""
    return 8 * channels * area

"""Which steps of the training process a sampler takes (IDDPM, arXiv 2102.09672, section 4)."""

from __future__ import annotations

from itertools import accumulate, repeat

DDIM = "ddim"


def space_timesteps(timesteps: int, respacing: str) -> list[int]:
    """Timesteps of the training process that are kept, in the notation of OpenAI's code bases.

    Args:
        timesteps: length of the training process.
        respacing: "" keeps all; "250" takes so many, evenly; "10,15,20" cuts the process into as many equal sections,
            the cleanest first, and takes so many evenly from each, with both of its ends; "ddim25" takes every n-th for
            the whole n that gives so many (DDIM, arXiv 2010.02502).

    Returns:
        Rising, each 0 to `timesteps` - 1.

    Raises:
        ValueError: a section is not a number, or asks for more steps than it has; the message names it.
    """
    text = respacing.strip()
    if not text:
        return list(range(timesteps))
    if text.startswith(DDIM):
        count = _count(text.removeprefix(DDIM), respacing)
        for stride in range(1, timesteps + 1):
            if len(range(0, timesteps, stride)) == count:
                return list(range(0, timesteps, stride))
        raise ValueError(f"respacing is {respacing!r}; no whole stride takes {count} of {timesteps} timesteps. Use "
                         f"{count} for steps that are not whole strides apart, or another number")
    counts = [_count(section, respacing) for section in text.split(",")]
    length, longer = divmod(timesteps, len(counts))
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = length + (i < longer)
        if count > size:
            raise ValueError(f"respacing is {respacing!r}; section {i + 1} of {len(counts)} asks for {count} steps, "
                             f"and has {size} of the {timesteps} timesteps")
        stride = (size - 1) / (count - 1) if count > 1 else 1
        # Summed and rounded half to even, as published: a product could fall on the other side of a half.
        kept += [start + round(place) for place in accumulate(repeat(stride, count - 1), initial=0)]
        start += size
    return kept


def _count(section: str, respacing: str) -> int:
    if not section.strip().isdecimal() or int(section) < 1:
        raise ValueError(f"respacing is {respacing!r}; {section.strip()!r} is not a number of steps. Use a number "
                         "(250), several with commas (10,15,20), ddim and a number (ddim25), or nothing for every step")
    return int(section)

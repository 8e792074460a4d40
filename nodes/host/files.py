"""Files of the user's: checkpoints to load, traces and studies to save and load. Paths come from the host's folders."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import folder_paths

PACK = Path(__file__).resolve().parents[2]
TRACE_SUFFIX = ".sag.safetensors"
_CLASSIFIER = "classifier"
# It finds objects in pictures for the benchmarks; no node loads it.
_SEGMENTER = "segmenter"


def embedded_checkpoints() -> dict[str, Path]:
    """The models that come with this pack, by the name users see."""
    return {f"{path.stem} (embedded)": path for path in sorted((PACK / "models").glob("*.safetensors"))
            if _SEGMENTER not in path.stem}


def checkpoint_names() -> list[str]:
    """Embedded models first, then what lies in the host's checkpoint folders."""
    embedded = [name for name in embedded_checkpoints() if _CLASSIFIER not in name]
    return [*embedded, *folder_paths.get_filename_list("checkpoints")]


def classifier_names() -> list[str]:
    """Embedded classifiers first, then the host's checkpoints, those that call themselves classifiers before others."""
    embedded = [name for name in embedded_checkpoints() if _CLASSIFIER in name]
    return [*embedded, *sorted(folder_paths.get_filename_list("checkpoints"),
                               key=lambda name: _CLASSIFIER not in name.lower())]


def checkpoint_path(name: str) -> Path:
    """Returns the path of a checkpoint of `checkpoint_names` or `classifier_names`."""
    return embedded_checkpoints().get(name) or Path(folder_paths.get_full_path_or_raise("checkpoints", name))


def live_folder() -> Path:
    """Returns the folder of the pictures of recent runs; the host empties it when it starts and ends."""
    return Path(folder_paths.get_temp_directory()) / "sag_live"


def runs_folder() -> Path:
    """Returns the folder of earlier runs that take too much memory; the host empties it when it starts and ends."""
    return Path(folder_paths.get_temp_directory()) / "sag_runs"


def trace_names() -> list[str]:
    """Traces in the output and input folders."""
    return file_names(f"*{TRACE_SUFFIX}")


def trace_path(name: str) -> Path:
    """Returns the path of a trace of `trace_names`.

    Raises:
        ValueError: there is no such trace; names that lead out of the folders are none.
    """
    return file_path("trace", name, f"*{TRACE_SUFFIX}")


def file_names(*patterns: str) -> list[str]:
    """Files in the output and input folders that fit a pattern, marked with the folder as the host marks them."""
    return [f"{path.relative_to(folder).as_posix()} [{kind}]" for kind, folder in _folders().items()
            for pattern in patterns for path in sorted(folder.rglob(pattern))]


def file_path(what: str, name: str, *patterns: str) -> Path:
    """Returns the path of a file of `file_names`; `what` is its name in an error.

    Raises:
        ValueError: there is no such file; names that lead out of the folders are none.
    """
    for kind, folder in _folders().items():
        path = (folder / name.removesuffix(f" [{kind}]")).resolve()
        if (name.endswith(f" [{kind}]") and any(fnmatchcase(path.name, pattern) for pattern in patterns)
                and path.is_relative_to(folder.resolve()) and path.is_file()):
            return path
    raise ValueError(f"{what} is {name!r}, which is in neither the output nor the input folder")


def output_name(path: Path) -> str:
    """The name of a file in the output folder, as `file_names` lists it."""
    return f"{path.relative_to(folder_paths.get_output_directory()).as_posix()} [output]"


def _folders() -> dict[str, Path]:
    return {"output": Path(folder_paths.get_output_directory()), "input": Path(folder_paths.get_input_directory())}


def new_trace_path(prefix: str) -> Path:
    """A file in the output folder that does not exist yet."""
    return Path(f"{new_output_path(prefix)}{TRACE_SUFFIX}")


def new_output_path(prefix: str) -> Path:
    """A path in the output folder, numbered so that no name there starts with it; its folder exists."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_"

"""Files of the user's: checkpoints to load, traces to save and load. Paths come from the host's folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

PACK = Path(__file__).resolve().parents[2]
TRACE_SUFFIX = ".sag.safetensors"


def embedded_checkpoints() -> dict[str, Path]:
    """The models that come with this pack, by the name users see."""
    return {f"{path.stem} (embedded)": path for path in sorted((PACK / "models").glob("*.safetensors"))}


def checkpoint_names() -> list[str]:
    """Embedded models first, then what lies in the host's checkpoint folders."""
    return [*embedded_checkpoints(), *folder_paths.get_filename_list("checkpoints")]


def checkpoint_path(name: str) -> Path:
    """Where a checkpoint of `checkpoint_names` lies."""
    return embedded_checkpoints().get(name) or Path(folder_paths.get_full_path_or_raise("checkpoints", name))


def trace_names() -> list[str]:
    """Traces in the output and input folders, marked with the folder as the host marks files."""
    return [f"{path.relative_to(folder).as_posix()} [{kind}]" for kind, folder in _trace_folders().items()
            for path in sorted(folder.rglob(f"*{TRACE_SUFFIX}"))]


def trace_path(name: str) -> Path:
    """Where a trace of `trace_names` lies.

    Raises:
        ValueError: there is no such trace; names that lead out of the folders are none.
    """
    for kind, folder in _trace_folders().items():
        path = (folder / name.removesuffix(f" [{kind}]")).resolve()
        if name.endswith(f"{TRACE_SUFFIX} [{kind}]") and path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    raise ValueError(f"trace is {name!r}, which is in neither the output nor the input folder")


def _trace_folders() -> dict[str, Path]:
    return {"output": Path(folder_paths.get_output_directory()), "input": Path(folder_paths.get_input_directory())}


def new_trace_path(prefix: str) -> Path:
    """A file in the output folder that does not exist yet."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_{TRACE_SUFFIX}"

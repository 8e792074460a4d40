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
    folders = {"output": folder_paths.get_output_directory(), "input": folder_paths.get_input_directory()}
    return [f"{path.relative_to(folder).as_posix()} [{kind}]" for kind, folder in folders.items()
            for path in sorted(Path(folder).rglob(f"*{TRACE_SUFFIX}"))]


def trace_path(name: str) -> Path:
    """Where a trace of `trace_names` lies.

    Raises:
        ValueError: there is no such trace.
    """
    # Looked up in the list, so that a name from a shared workflow cannot lead outside the folders.
    if name not in trace_names():
        raise ValueError(f"trace is {name!r}, which is in neither the output nor the input folder")
    return Path(folder_paths.get_annotated_filepath(name))


def new_trace_path(prefix: str) -> Path:
    """A file in the output folder that does not exist yet."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    return Path(folder) / f"{name}_{counter:05}_{TRACE_SUFFIX}"

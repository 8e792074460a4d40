"""The name of the pack's folder, which is a part of the addresses that browsers ask its files at."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

# As the host has found it, through a link too.
FOLDER = Path(__file__).absolute().parents[2].name
REPOSITORY = "comfyui-self-attention-guidance"
_REFUSED = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@-]")


def problem_of(name: str) -> str:
    """Returns what browsers miss of a pack whose folder has this name; empty where it is nothing.

    The host lists a pack's files with their folder's name quoted as in an address. It answers none of the addresses
    in which the quoted name differs from what the standard (RFC 3986, section 3.3) makes of it. Its frontend looks
    for help pages at the name's part before a dot or an at sign, and takes what begins with "core" for its own.
    """
    if _REFUSED.search(name):
        return "ComfyUI does not find files in a folder of this name: there is no live view and no help page"
    if name.startswith("core"):
        return "ComfyUI does not load scripts from a folder of this name: there is no live view"
    if re.search(r"[.@]", name):
        return "ComfyUI does not find help pages in a folder of this name"
    return ""


def safe_name(name: str) -> str:
    """A name that is like another and has no problem."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    safe = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")
    return safe if len(safe) > 2 and not safe.startswith("core") else REPOSITORY


def check_folder_name(name: str = FOLDER) -> None:
    """Say in the log where browsers will miss something, and what the folder should be called."""
    problem = problem_of(name)
    if problem:
        logging.warning("SAG: the folder custom_nodes/%s should have another name. %s. Rename it to %s and restart",
                        name, problem, safe_name(name))

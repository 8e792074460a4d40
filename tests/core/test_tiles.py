"""Tiles by manifest: read from any form they come in, whole and unaltered or not at all."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tests.core.painted_tiles import HELD, TRAINED, pack, paint, roles
from training.heroes import WARDROBE
from training.tiles import Entry, load, manifest

WHERE_TO_GET_THEM = "source release 0.28.0 of Dungeon Crawl Stone Soup, folder source/rltiles"


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    return folder, paint(folder)


def refused(source, entries, message):
    with pytest.raises(SystemExit, match=message) as refusal:
        load(source, entries)
    assert WHERE_TO_GET_THEM in str(refusal.value) and "--tiles" in str(refusal.value)


# -- what is read ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["rltiles", ".", "all.tar", "all.tar.gz", "all.tar.xz", "all.tar.bz2"])
def test_tiles_are_read_from_their_folder_one_above_it_or_an_archive(painted, tmp_path, form):
    folder, entries = painted
    source = pack(folder, tmp_path / form) if "tar" in form else folder / form
    tiles = load(source, entries)
    assert tiles.images.shape == (len(entries), 4, 32, 32) and tiles.entries == entries
    assert_close(tiles.images, load(folder, entries).images, rtol=0, atol=0)


def test_colour_is_multiplied_by_alpha(painted):
    folder, entries = painted
    index = next(index for index, entry in enumerate(entries) if entry.path == "cloak/0.png")
    tile = load(folder, entries).images[index]
    with Image.open(folder / "rltiles" / "cloak" / "0.png") as picture:
        for x, y in ((0, 0), (5, 7), (31, 31), (12, 3)):
            r, g, b, a = (value / 255 for value in picture.getpixel((x, y)))
            assert tile[:, y, x].tolist() == pytest.approx([r * a, g * a, b * a, a], abs=1e-6)


@pytest.mark.parametrize(("size", "place"), [((32, 40), (0, -8)), ((16, 32), (8, 0)), ((20, 24), (6, 8)),
                                             ((48, 48), (-8, -16))])
def test_of_another_size_the_lower_rows_are_kept_in_the_middle(tmp_path, size, place):
    picture = Image.new("RGBA", size, (255, 255, 255, 255))
    picture.putpixel((size[0] // 2, size[1] - 1), (255, 0, 0, 255))
    picture.save(tmp_path / "a.png")
    entry = Entry("a.png", hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest(), ("floor",), False)
    tile = load(tmp_path, [entry]).images[0]
    covered = torch.zeros(32, 32)
    covered[max(0, place[1]):place[1] + size[1], max(0, place[0]):place[0] + size[0]] = 1
    assert tile[3].equal(covered)
    assert tile[:, 31, 16].tolist() == [1, 0, 0, 1]


def test_roles_give_trained_or_held_out_tiles_and_never_both(painted):
    folder, entries = painted
    tiles = load(folder, entries)
    for role in roles():
        trained, held = (set(tiles.having([role], half).tolist()) for half in (False, True))
        times = 2 if role == "base_dragon" else 1
        assert len(trained) == TRAINED * times and len(held) == HELD * times and not trained & held
    both = tiles.having(["cloak", "scarf"], False).tolist()
    assert both == sorted(both) and len(both) == 2 * TRAINED


def test_a_role_without_held_out_tiles_is_an_error_and_not_a_mixture(painted):
    folder, entries = painted
    tiles = load(folder, [entry for entry in entries if not (entry.held_out and "cloak" in entry.roles)])
    with pytest.raises(ValueError, match="no tile of the role cloak is held out"):
        tiles.having(["cloak"], True)


# -- what is refused -------------------------------------------------------------------------------------------------

def test_no_place_is_answered_with_where_to_get_the_tiles(painted):
    refused(None, painted[1], "not part of this repository")


def test_a_place_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "nowhere", None, "There is no folder or archive at .*nowhere")


def test_an_empty_folder_lacks_all_tiles(tmp_path):
    count = len(manifest())
    refused(tmp_path, None, f"{count} of {count} tiles are missing in {tmp_path}")


def test_missing_tiles_are_counted_and_the_first_is_named(painted, tmp_path):
    _, entries = painted
    paint(tmp_path)
    for name in ("floor/1.png", "hair/0.png"):
        (tmp_path / "rltiles" / name).unlink()
    refused(tmp_path, entries, f"2 of {len(entries)} tiles are missing in .*, floor/1.png first")


def test_altered_tiles_are_counted_and_the_first_is_named(painted, tmp_path):
    _, entries = painted
    paint(tmp_path)
    (tmp_path / "rltiles" / "hair/0.png").write_bytes(b"another picture")
    refused(tmp_path, entries, f"1 of {len(entries)} tiles have another content than the manifest's in .*, hair/0.png")
    refused(pack(tmp_path, tmp_path / "altered.tar.gz"), entries, "another content")


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 99, b"\xfd7zXZ\x00" + b"\x01" * 99,
                                     b"\x1f\x8b\x08\x00" * 9, b"BZh9" + b"\x01" * 99],
                         ids=["empty", "text", "xz", "gz", "bz2"])
def test_a_file_that_is_no_archive_is_refused(painted, tmp_path, content):
    (tmp_path / "tiles.tar").write_bytes(content)
    refused(tmp_path / "tiles.tar", painted[1], "cannot be read as a tar archive|are missing")


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_archive_is_refused(painted, tmp_path, form, share):
    folder, entries = painted
    archive = pack(folder, tmp_path / f"all.{form}")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:int(len(whole) * share)])
    refused(archive, entries, "cannot be read as a tar archive|are missing")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar.bz2"])
def test_a_damaged_archive_is_refused(painted, tmp_path, form):
    folder, entries = painted
    archive = pack(folder, tmp_path / f"all.{form}")
    whole = bytearray(archive.read_bytes())
    for place in range(len(whole) // 3, len(whole)):
        whole[place] ^= 0xFF
    archive.write_bytes(whole)
    refused(archive, entries, "cannot be read as a tar archive|are missing")  # by where the damage shows


def test_names_that_lead_out_of_the_archive_are_ignored(painted, tmp_path):
    folder, entries = painted
    archive = tmp_path / "all.tar"
    pack(folder, archive)
    outside = ("../outside.png", "rltiles/../../outside.png", "/tmp/outside.png", "crawl/rltiles/../floor/0.png/../x")
    with tarfile.open(archive, "a") as file:
        for name in outside:
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"harm"))
    before = sorted(path for path in tmp_path.parent.rglob("*"))
    assert len(load(archive, entries).images) == len(entries)
    assert sorted(path for path in tmp_path.parent.rglob("*")) == before


def test_a_link_in_an_archive_is_not_followed(painted, tmp_path):
    folder, entries = painted
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as file:
        for entry in entries:
            member = tarfile.TarInfo(f"rltiles/{entry.path}")
            member.type, member.linkname = tarfile.SYMTYPE, str(folder / "rltiles" / entry.path)
            file.addfile(member)
    refused(archive, entries, f"{len(entries)} of {len(entries)} tiles are missing")


# -- the manifest of the embedded model ------------------------------------------------------------------------------

def test_the_manifest_names_every_file_once_with_its_checksum():
    entries = manifest()
    paths = [entry.path for entry in entries]
    assert len(entries) > 1000 and len(set(paths)) == len(paths)
    assert all(len(entry.sha256) == 64 and set(entry.sha256) <= set("0123456789abcdef") for entry in entries)
    assert not [path for path in paths if path.startswith("/") or ".." in path.split("/")]


def test_no_picture_is_both_trained_on_and_held_out():
    trained, held = ({entry.sha256 for entry in manifest() if entry.held_out == half} for half in (False, True))
    assert not trained & held


def test_about_fifteen_percent_of_the_files_are_held_out_and_some_of_every_role():
    entries = manifest()
    assert sum(entry.held_out for entry in entries) / len(entries) == pytest.approx(0.15, abs=0.01)
    for role in roles():
        halves = [sum(role in entry.roles for entry in entries if entry.held_out == half) for half in (False, True)]
        assert min(halves) >= 1, role
    assert {role for entry in entries for role in entry.roles} == set(roles())


@pytest.mark.parametrize("held_out", [False, True], ids=["trained", "held out"])
def test_wings_and_muzzles_stand_in_the_order_of_the_bodies_of_their_colour(held_out):
    """One number chooses all three; the files of two colours have other names in other folders."""
    def colours(role):
        names = [entry.path.rpartition("/")[2].removesuffix(".png") for entry in manifest()
                 if role in entry.roles and entry.held_out == held_out]
        return [{"draconian": "brown", "gold": "yellow", "grey": "gray"}.get(word, word) for name in names
                for word in [name.removesuffix("_f").removesuffix("_m").rpartition("_")[2]]]

    bodies = colours("base_dragon")
    assert bodies[::2] == bodies[1::2] == colours("wing") == colours("muzzle")
    assert "wings" in WARDROBE["dragonkin"] and len(bodies) == (4 if held_out else 16)

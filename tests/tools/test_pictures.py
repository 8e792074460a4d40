"""What the pictures are made of, and that each help page has one."""

from PIL import Image

from sag_core.presets import PRESETS
from tools.diagram import WIDTH, diagram
from tools.figure import BAR, BOX, HEADING_HEIGHT, MARKED, bars, chain, columns, enlarge, stack
from tools.graph import Graph
from tools.pictures import PICTURES
from tools.provision import CHECKOUT
from tools.sheet import GAP
from tools.thumbnails import DIAGRAMS, RUNS

RED, BLUE = (255, 0, 0), (0, 0, 255)


def flat(color, size=(20, 10)):
    return Image.new("RGB", size, color)


def test_every_help_page_and_every_example_has_a_picture():
    assert set(PICTURES) == {path.stem for path in (CHECKOUT / "web" / "docs").glob("*.md")}
    assert set(PICTURES) == {path.stem for path in (CHECKOUT / "web" / "docs" / "pictures").iterdir()}
    assert {*DIAGRAMS, *RUNS} == {path.stem for path in (CHECKOUT / "example_workflows").glob("*.json")}


def test_the_page_of_presets_lists_them_as_they_are():
    page = (CHECKOUT / "web" / "docs" / "SAGPreset.md").read_text(encoding="utf-8")
    rows = [f"| {name} | {one.scale:g}, {one.blur_sigma:g} | {one.layer}, {one.blur_kernel} |"
            for name, one in PRESETS.items()]
    assert [line for line in page.splitlines() if line.startswith("| ")][1:] == rows
    assert "The threshold is 1 in all of them." in page and {one.threshold for one in PRESETS.values()} == {1.0}


def test_the_readme_recommends_the_presets_as_they_are():
    page = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for name, one in PRESETS.items():
        row = f"| {name} | {one.scale:g} | {one.blur_sigma:g} | {one.layer} | {one.blur_kernel} | {one.source} |"
        assert row in page.splitlines()


def test_a_graph_wires_nodes_by_their_outputs():
    graph = Graph()
    loader = graph("Loader", name="a")
    graph("Sampler", model=loader, trace=loader[1], steps=3)
    graph.save("out", loader)
    assert graph.prompt == {
        "1": {"class_type": "Loader", "inputs": {"name": "a"}},
        "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "trace": ["1", 1], "steps": 3}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "out"}},
    }


def test_columns_stand_under_their_headings_and_go_on_below():
    sheet = columns([("a", [flat(RED), flat(BLUE)]), ("b", [flat(BLUE)]), ("c", [flat(RED)])], across=2)
    first, second = HEADING_HEIGHT + 2 * (10 + GAP), HEADING_HEIGHT + 10 + GAP
    assert sheet.size == (2 * (20 + GAP) + GAP, first + second)
    assert sheet.getpixel((GAP, HEADING_HEIGHT)) == RED
    assert sheet.getpixel((GAP, HEADING_HEIGHT + 10 + GAP)) == BLUE
    assert sheet.getpixel((GAP + 20 + GAP, HEADING_HEIGHT)) == BLUE
    assert sheet.getpixel((GAP, first + HEADING_HEIGHT)) == RED


def test_bars_are_as_high_as_their_values():
    picture = bars([0, 1, 2], (30, 42), highest=2)
    heights = [sum(picture.getpixel((x, y)) == BAR for y in range(42)) for x in (4, 14, 24)]
    assert heights[0] == 0
    assert heights[2] == 39
    assert abs(heights[1] - 20) <= 1


def test_enlarged_pixels_are_squares_and_stacks_are_as_wide_as_the_widest():
    image = enlarge(flat(RED, (2, 1)), 3)
    assert image.size == (6, 3)
    assert stack([image, flat(BLUE, (10, 5))]).size == (10, 8)


def test_a_chain_is_as_wide_as_asked():
    assert chain(["a", "b", "c"], "b", 300).width == 300


def test_a_diagram_has_every_node_where_it_is_and_marks_those_of_the_pack():
    def node(number, kind, x):
        return {"id": number, "type": kind, "title": "", "pos": [x, 30], "size": [200, 370]}

    workflow = {"nodes": [node(1, "Loader", 0), node(2, "SAGGuidance", 400), node(3, "MarkdownNote", -900)],
                "links": [[1, 1, 0, 2, 0, "MODEL"]], "groups": []}
    picture = diagram(workflow, "title")
    assert picture.width == WIDTH
    row = [picture.getpixel((x, picture.height // 2)) for x in (200, WIDTH // 2, 1000)]
    assert row[0] == BOX and row[2] == MARKED and row[1] not in (BOX, MARKED)

"""Contact sheets: where images land and how differences are shown."""

from PIL import Image

from tools.sheet import BACKGROUND, GAP, LABEL_HEIGHT, differences, grid, labelled_rows

RED, BLUE = (255, 0, 0), (0, 0, 255)


def flat(color, size=(6, 4)):
    return Image.new("RGB", size, color)


def test_grid_fills_rows_and_leaves_gaps():
    sheet = grid([flat(RED), flat(BLUE), flat(RED)], columns=2)
    assert sheet.size == (2 * (6 + GAP) + GAP, 2 * (4 + GAP) + GAP)
    assert sheet.getpixel((GAP, GAP)) == RED
    assert sheet.getpixel((GAP + 6 + GAP, GAP)) == BLUE
    assert sheet.getpixel((GAP, GAP + 4 + GAP)) == RED
    assert sheet.getpixel((GAP + 6 + GAP, GAP + 4 + GAP)) == BACKGROUND


def test_each_row_stands_below_its_label():
    sheet = labelled_rows([("a", [flat(RED, (60, 20))] * 2), ("b", [flat(BLUE, (60, 20))] * 2)])
    row = LABEL_HEIGHT + 20 + 2 * GAP
    assert sheet.size == (2 * (60 + GAP) + GAP, 2 * row)
    assert sheet.getpixel((GAP, LABEL_HEIGHT + GAP)) == RED
    assert sheet.getpixel((GAP, row + LABEL_HEIGHT + GAP)) == BLUE
    label = sheet.crop((0, 0, sheet.width, LABEL_HEIGHT))
    assert max(high for _, high in label.getextrema()) > 200


def test_the_largest_difference_becomes_white_and_the_gain_is_common():
    apart, gain = differences([flat((10, 10, 10)), flat((10, 10, 10))], [flat((61, 10, 10)), flat((0, 10, 10))])
    assert gain == 255 / 51
    assert apart[0].getpixel((0, 0)) == (255, 0, 0)
    assert apart[1].getpixel((0, 0)) == (50, 0, 0)


def test_equal_images_differ_by_nothing():
    apart, gain = differences([flat(RED)], [flat(RED)])
    assert gain == 1.0
    assert apart[0].getextrema() == ((0, 0), (0, 0), (0, 0))

// How much room a text takes on a node, in graph units.
const LINE = 15;
const LETTER = 5.6;
const WIDE_LETTERS = /[\u2e80-\uffff]/g; // Chinese, Japanese, Korean: as wide as two

/** Height of a text on a node of this width; one that is longer than `most` lines scrolls. */
export function textHeight(text, width, most) {
  const long = (line) => Math.max(1, Math.ceil((line.replace(WIDE_LETTERS, "$&$&").length * LETTER) / (width - 20)));
  const lines = text.split("\n").reduce((sum, line) => sum + long(line), 0);
  return LINE * Math.min(lines, most);
}

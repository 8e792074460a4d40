// What this pack puts on nodes: elements of its own, and the room they take, in graph units.
const LINE = 15;
const LETTER = 5.6;
const WIDE_LETTERS = /[\u2e80-\uffff]/g; // Chinese, Japanese, Korean: as wide as two

/** Put an element on a node, whose clicks neither drag nor zoom nor edit the graph; `options` are of addDOMWidget. */
export function addElement(node, name, element, options) {
  for (const type of ["pointerdown", "dblclick"]) element.addEventListener(type, (event) => event.stopPropagation());
  const widget = node.addDOMWidget(name, name.toUpperCase(), element, {
    serialize: false, // not part of the prompt
    hideOnZoom: false,
    ...options,
  });
  widget.serialize = false; // nor of the workflow
}

/** Make a node large enough for what is on it. */
export function grow(node, leastWidth = 0) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, leastWidth), Math.max(node.size[1], height)]);
}

/** Height of a text on a node of this width; one that is longer than `most` lines scrolls. */
export function textHeight(text, width, most) {
  const long = (line) => Math.max(1, Math.ceil((line.replace(WIDE_LETTERS, "$&$&").length * LETTER) / (width - 20)));
  const lines = text.split("\n").reduce((sum, line) => sum + long(line), 0);
  return LINE * Math.min(lines, most);
}

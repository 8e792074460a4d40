// What a node says of its result: what was recognised, where settings come from, the name of a file, figures.
import { everyNode, outputsOf, VIEWED } from "./graph.js";
import { translate } from "./texts.js";
import { addElement, grow, textHeight } from "./widget.js";

const MOST_LINES = 12;
const PADDING = 10;
const elements = new WeakMap(); // node -> where its text is

/** Show the text that comes with a node's results, whenever it has some. */
export function showResults(node) {
  if (!isShown(node)) return;
  const before = node.onExecuted;
  node.onExecuted = function (output, ...rest) {
    before?.call(this, output, ...rest);
    show(this, output?.text ?? "");
  };
}

/** Show the texts of results that come back with a graph. */
export function restoreResults(outputs) {
  for (const [, node] of everyNode()) {
    const text = isShown(node) && outputsOf(node, outputs)?.text;
    if (text) show(node, text);
  }
}

const isShown = (node) => node.comfyClass?.startsWith("SAG") && !VIEWED.includes(node.comfyClass);

function show(node, lines) {
  const text = (Array.isArray(lines) ? lines : [lines]).filter((line) => typeof line === "string").map(translate).join("\n").trim();
  if (!text && !elements.has(node)) return;
  if (!elements.has(node)) elements.set(node, attach(node));
  elements.get(node).textContent = text;
  grow(node);
  node.graph?.setDirtyCanvas(true, true);
}

function attach(node) {
  const element = Object.assign(document.createElement("div"), { className: "sag-result" });
  element.setAttribute("role", "status");
  const height = () => PADDING + textHeight(element.textContent, node.size[0], MOST_LINES);
  addElement(node, "sag_result", element, { getMinHeight: height, getMaxHeight: height });
  return element;
}

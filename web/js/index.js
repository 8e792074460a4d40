// Self-Attention Guidance: what the model attends to, on the nodes that use it, while it samples and afterwards.
import { app } from "../../../scripts/app.js";
import { describeRun } from "./describe.js";
import { listen } from "./events.js";
import { everyNode, idsOf, VIEWED, workflowId } from "./graph.js";
import { openLarge } from "./large.js";
import { restoreResults, showResults } from "./result.js";
import { onRuns, restoreRuns, runsOf } from "./runs.js";
import { colourMap, isLive, onSettings, settings, viewSize } from "./settings.js";
import { followLanguage, onLanguage } from "./texts.js";
import { Viewer } from "./viewer.js";
import { addElement, grow, textHeight } from "./widget.js";

// Sizes on a node, in graph units: of everything, and of what is beside a text.
const OPEN = 330;
const WIDE = 260;
const PADDING = 25;
const MOST_LINES = 6;
const viewers = new WeakMap(); // node -> Viewer

function attach(node) {
  const viewer = new Viewer({
    choices: () => node.properties?.sag_view,
    onChoice: (choices) => {
      node.properties.sag_view = choices; // the user's, and so the workflow's
      app.rootGraph?.change?.();
    },
    display: () => ({ colours: colourMap(), pixels: Math.max(viewSize(), WIDE) * 2, live: isLive() }),
    onEnlarge: () => openLarge(viewer),
  });
  viewer.element.dataset.nodeType = node.comfyClass;
  viewers.set(node, viewer);
  viewer.height = () => {
    if (viewer.run?.frames.length) return OPEN;
    return PADDING + textHeight(describeRun(viewer.run, isLive()), Math.max(node.size[0], WIDE), MOST_LINES);
  };
  addElement(node, "sag_view", viewer.element, {
    getMinHeight: viewer.height,
    getMaxHeight: () => (viewer.run?.frames.length ? undefined : viewer.height()),
  });
}

/** Show what is known of a node's runs; the node grows where it has more to show than before. */
function refresh(node) {
  const viewer = viewers.get(node);
  if (!viewer) return;
  const workflow = workflowId();
  const ids = idsOf(node);
  const all = ids.map((id) => runsOf(workflow, id)).filter((runs) => runs.length);
  const before = viewer.shown ?? viewer.height();
  const [runs = []] = all.sort((a, b) => b.at(-1).at - a.at(-1).at); // of one subgraph used several times, the last
  viewer.update([...runs]);
  viewer.large?.update([...runs]);
  viewer.shown = viewer.height();
  viewer.element.style.minHeight = `${viewer.shown - 20}px`;
  if (viewer.shown > before) grow(node, WIDE);
  app.canvas?.setDirty(true, true);
}

function refreshAll() {
  for (const [, node] of everyNode()) refresh(node);
}

function addStyle() {
  const link = document.createElement("link");
  Object.assign(link, { rel: "stylesheet", href: new URL("../css/sag.css", import.meta.url).href });
  document.head.append(link);
}

app.registerExtension({
  name: "SAG.LiveView",
  settings,
  setup() {
    addStyle();
    listen();
    onSettings(refreshAll);
    onLanguage(refreshAll);
    followLanguage();
    onRuns(({ workflow, node: id }) => {
      if (workflow && workflow !== workflowId()) return;
      for (const [other, node] of everyNode()) if (other === id) refresh(node);
    });
  },
  nodeCreated(node) {
    if (VIEWED.includes(node.comfyClass)) attach(node);
    showResults(node);
  },
  onNodeOutputsUpdated: restoreResults,
  async afterConfigureGraph() {
    refreshAll();
    if ([...everyNode()].some(([, node]) => viewers.has(node))) await restoreRuns(workflowId());
  },
});

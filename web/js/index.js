// Self-Attention Guidance: what the model attends to, on the nodes that use it, while it samples and afterwards.
import { app } from "../../../scripts/app.js";
import { listen } from "./events.js";
import { everyNode, idsOf, VIEWED, workflowId } from "./graph.js";
import { openLarge } from "./large.js";
import { onRuns, restoreRuns, runsOf } from "./runs.js";
import { colourMap, isLive, onSettings, settings, viewSize } from "./settings.js";
import { Viewer } from "./viewer.js";

// Heights on a node, in graph units: of the status alone, and of everything.
const CLOSED = 40;
const OPEN = 330;
const WIDE = 260;
const viewers = new WeakMap(); // node -> Viewer

function attach(node) {
  const viewer = new Viewer({
    choices: () => node.properties?.sag_view,
    onChoice: (choices) => {
      node.properties.sag_view = choices; // the user's, and so the workflow's
      app.rootGraph?.change?.();
    },
    display: () => ({ colours: colourMap(), pixels: Math.max(viewSize(), WIDE) * 2, live: isLive() }),
    onDouble: () => openLarge(viewer),
  });
  viewer.element.dataset.nodeType = node.comfyClass;
  viewers.set(node, viewer);
  const height = () => (viewer.run?.frames.length ? OPEN : CLOSED);
  const widget = node.addDOMWidget("sag_view", "SAG_VIEW", viewer.element, {
    serialize: false, // not part of the prompt
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: () => (viewer.run?.frames.length ? undefined : CLOSED),
  });
  widget.serialize = false; // nor of the workflow
}

/** Show what is known of a node's runs; the node grows when it shows its first. */
function refresh(node) {
  const viewer = viewers.get(node);
  if (!viewer) return;
  const workflow = workflowId();
  const ids = idsOf(node);
  const all = ids.map((id) => runsOf(workflow, id)).filter((runs) => runs.length);
  const before = viewer.run?.frames.length;
  const [runs = []] = all.sort((a, b) => b.at(-1).at - a.at(-1).at); // of one subgraph used several times, the last
  viewer.update([...runs]);
  viewer.large?.update([...runs]);
  const opened = Boolean(viewer.run?.frames.length);
  viewer.element.style.minHeight = `${(opened ? OPEN : CLOSED) - 20}px`;
  if (opened && !before) {
    const [width, height] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, WIDE), Math.max(node.size[1], height)]);
  }
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
    onRuns(({ workflow, node: id }) => {
      if (workflow && workflow !== workflowId()) return;
      for (const [other, node] of everyNode()) if (other === id) refresh(node);
    });
  },
  nodeCreated(node) {
    if (VIEWED.includes(node.comfyClass)) attach(node);
  },
  async afterConfigureGraph() {
    refreshAll();
    if ([...everyNode()].some(([, node]) => viewers.has(node))) await restoreRuns(workflowId());
  },
});

// Runs by workflow and node: those that are under way, and those that the server has kept.
import { api } from "../../../scripts/api.js";
import { rootGraph } from "./graph.js";
import { later } from "./texts.js";

const FILE_VERSION = 1;
const runs = new Map(); // "workflow node" -> runs of the latest prompt
const changed = new EventTarget();

const keyOf = (workflow, node) => `${workflow} ${node}`;

/** Runs of a node in its latest prompt, oldest first. */
export const runsOf = (workflow, node) => runs.get(keyOf(workflow, node)) ?? [];

/** Call a function with {workflow, node} whenever a run has changed. */
export const onRuns = (listener) => changed.addEventListener("run", (event) => listener(event.detail));

const announce = (workflow, node) => changed.dispatchEvent(new CustomEvent("run", { detail: { workflow, node } }));

/** A run that starts; one of another prompt takes the place of those before it. */
export function startRun(workflow, node, prompt, about) {
  const run = { prompt, about, frames: [], end: null, notes: [...(about.notes ?? [])], at: Date.now() };
  const before = runsOf(workflow, node).filter((other) => other.prompt === prompt && other.about);
  runs.set(keyOf(workflow, node), [...before, run]);
  announce(workflow, node);
}

const latest = (workflow, node, prompt) => runsOf(workflow, node).filter((run) => run.prompt === prompt).at(-1);

export function addFrame(workflow, node, prompt, frame) {
  const run = latest(workflow, node, prompt);
  if (!run?.about) return; // it began before this page was opened
  run.frames.push(frame);
  announce(workflow, node);
}

export function addNote(workflow, node, prompt, text) {
  const run = latest(workflow, node, prompt);
  if (run && !run.notes.includes(text)) run.notes.push(text);
  announce(workflow, node);
}

export function endRun(workflow, node, prompt, end) {
  const run = latest(workflow, node, prompt);
  if (run?.about) run.end = end;
  announce(workflow, node);
}

/** A run without pictures, that only says why there are none. */
export function sayInstead(workflow, node, prompt, problem) {
  runs.set(keyOf(workflow, node), [{ prompt, about: null, frames: [], end: null, notes: [], problem, at: Date.now() }]);
  announce(workflow, node);
}

/** What the server answers; anything but an answer is an error. */
async function fetchJson(path, options) {
  const answer = await api.fetchApi(path, options);
  if (answer.status === 404) throw new Error(later("the server no longer has it"));
  if (!answer.ok) throw new Error(later("status <status>", { status: answer.status }));
  return answer.json();
}

function sayCannotBeShown(workflow, node, prompt, error) {
  const problem = later("The pictures of the last run cannot be shown: <reason>.", { reason: error.message });
  sayInstead(workflow, node, prompt, problem);
}

/** Load a kept run. Whatever is wrong with its file is said in its place. */
export async function loadRun(workflow, node, prompt, file) {
  try {
    const query = new URLSearchParams({ filename: file, subfolder: "sag_live", type: "temp" });
    const { frames, end, version, ...about } = checked(await fetchJson(`/view?${query}`, { cache: "no-store" }));
    const run = { prompt, about, frames, end, notes: end?.notes ?? [], at: Date.now() };
    const before = runsOf(workflow, node).filter((other) => other.prompt === prompt && other.about);
    runs.set(keyOf(workflow, node), [...before, run]);
    announce(workflow, node);
  } catch (error) {
    sayCannotBeShown(workflow, node, prompt, error);
  }
}

function checked(film) {
  if (film?.version !== FILE_VERSION || !Array.isArray(film.frames)) throw new Error(later("its file holds no run"));
  const isFrame = (frame) => typeof frame === "object" && frame !== null
    && (frame.map === undefined || (typeof frame.map === "string" && Array.isArray(frame.grid)));
  if (!film.frames.every(isFrame)) throw new Error(later("its file is damaged"));
  return film;
}

/** Load what the server has kept of the open workflow for nodes that show nothing yet. */
export async function restoreRuns(workflow) {
  let nodes = [];
  const withoutRuns = () => nodes.filter((node) => !runsOf(workflow, node).length);
  try {
    const kept = await fetchJson(`/sag/runs?workflow=${encodeURIComponent(workflow)}`);
    if (!Array.isArray(kept) || !kept.length) return;
    nodes = [...new Set(kept.map((run) => run.node))];
    const order = await byHistory([...new Set(kept.map((run) => run.prompt))]);
    for (const node of withoutRuns()) {
      const prompt = order.find((one) => kept.some((run) => run.node === node && run.prompt === one));
      const own = kept.filter((run) => run.node === node && run.prompt === prompt).reverse();
      for (const run of own) await loadRun(workflow, node, prompt, run.file);
    }
  } catch (error) {
    console.warn("SAG: earlier runs cannot be shown:", error);
    for (const node of withoutRuns()) sayCannotBeShown(workflow, node, "", error);
  }
}

/** Prompts that are in the history, newest first; before them the one that was made from the graph as it is. */
async function byHistory(prompts) {
  const widgets = (nodes) => JSON.stringify((nodes ?? []).map((node) => [node.id, node.widgets_values ?? []]).sort());
  const own = widgets(rootGraph().serialize().nodes);
  const found = [];
  for (const prompt of prompts.slice(0, 8)) {
    const entry = (await fetchJson(`/history/${encodeURIComponent(prompt)}`))?.[prompt];
    if (!entry) continue;
    if (widgets(entry.prompt?.[3]?.extra_pnginfo?.workflow?.nodes) === own) return [prompt, ...prompts];
    found.push(prompt);
  }
  return found;
}

// Runs by workflow and node: those that are under way, and those that the server has kept.
import { api } from "../../../scripts/api.js";
import { rootGraph } from "./graph.js";
import { later } from "./texts.js";

const FILE_VERSION = 1;
// What a page keeps: of a long run every second step is left out, as the server does.
const MOST_FRAMES = 128;
const MOST_RUNS = 16; // of a node
const MOST_NODES = 64;
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
  const seen = { steps: 0, guided: 0, skipped: 0, why: {} };
  add(workflow, node, { prompt, about, frames: [], every: 1, seen, end: null, notes: [...(about.notes ?? [])] });
}

function add(workflow, node, run) {
  const others = runsOf(workflow, node).filter(({ prompt, about }) => prompt === run.prompt && about);
  put(workflow, node, [...others.filter(({ about }) => about.run !== run.about.run), run]);
}

function put(workflow, node, all) {
  const key = keyOf(workflow, node);
  all.at(-1).at = Date.now();
  runs.delete(key); // so that the oldest comes first
  runs.set(key, all.slice(-MOST_RUNS));
  if (runs.size > MOST_NODES) runs.delete(runs.keys().next().value);
  announce(workflow, node);
}

const find = (workflow, node, id) => runsOf(workflow, node).find(({ about }) => about && about.run === id);

export function addFrame(workflow, node, frame) {
  const run = find(workflow, node, frame.run);
  if (!run) return; // it began before this page was opened
  const { frames, seen } = run;
  if (seen.steps && (seen.steps - 1) % run.every) frames.pop(); // was there only as the latest
  frames.push(frame);
  if (frames.length > MOST_FRAMES) {
    run.frames = frames.filter((_, index) => index % 2 === 0);
    run.every *= 2;
  }
  seen.steps += 1;
  seen[frame.guided ? "guided" : "skipped"] += 1;
  if (frame.why) seen.why[frame.why] = (seen.why[frame.why] ?? 0) + 1;
  announce(workflow, node);
}

export function addNote(workflow, node, prompt, text) {
  const run = runsOf(workflow, node).filter((other) => other.prompt === prompt).at(-1);
  if (run && !run.notes.includes(text)) run.notes.push(text);
  announce(workflow, node);
}

export async function endRun(workflow, node, prompt, end) {
  const run = find(workflow, node, end.run);
  if (run) run.end = end;
  else if (end.file) await loadRun(workflow, node, prompt, end.file, true); // it began before this page was opened
  announce(workflow, node);
}

/** A run without pictures, that only says why there are none. */
export function sayInstead(workflow, node, prompt, problem, restored = false) {
  put(workflow, node, [{ prompt, about: null, frames: [], end: null, notes: [], problem, restored }]);
}

/** What the server answers; anything but an answer is an error. */
async function fetchJson(path, options) {
  const answer = await api.fetchApi(path, options);
  if (answer.status === 404) throw new Error(later("the server no longer has it"));
  if (!answer.ok) throw new Error(later("status <status>", { status: answer.status }));
  return answer.json();
}

function sayCannotBeShown(workflow, node, prompt, error, restored) {
  const problem = later("The pictures of the last run cannot be shown: <reason>.", { reason: error.message });
  sayInstead(workflow, node, prompt, problem, restored);
}

/**
 * Load a kept run. Whatever is wrong with its file is said in its place.
 * @param restored nothing asks for it now, so it gives way to what this page has heard of itself
 */
export async function loadRun(workflow, node, prompt, file, restored = false) {
  const givesWay = () => restored && !runsOf(workflow, node).every((run) => run.restored);
  try {
    const query = new URLSearchParams({ filename: file, subfolder: "sag_live", type: "temp" });
    const { frames, end, version, ...about } = checked(await fetchJson(`/view?${query}`, { cache: "no-store" }));
    if (!givesWay()) add(workflow, node, { prompt, about, frames, end, notes: end.notes ?? [], restored });
  } catch (error) {
    if (!givesWay()) sayCannotBeShown(workflow, node, prompt, error, restored);
  }
}

function checked(film) {
  if (film?.version !== FILE_VERSION || !Array.isArray(film.frames)) throw new Error(later("its file holds no run"));
  const isFrame = (frame) => typeof frame === "object" && frame !== null
    && (frame.map === undefined || (typeof frame.map === "string" && Array.isArray(frame.grid)));
  if (!film.end || !film.frames.every(isFrame)) throw new Error(later("its file is damaged"));
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
      for (const run of own) await loadRun(workflow, node, prompt, run.file, true);
    }
  } catch (error) {
    console.warn("SAG: earlier runs cannot be shown:", error);
    for (const node of withoutRuns()) sayCannotBeShown(workflow, node, "", error, true);
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

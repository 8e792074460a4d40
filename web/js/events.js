// What the server tells while it runs.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { everyNode, shownId, VIEWED, workflowId } from "./graph.js";
import { addFrame, addNote, endRun, loadRun, runsOf, sayInstead, startRun } from "./runs.js";
import { forget, isLive, tell } from "./settings.js";
import { later, say, translate } from "./texts.js";

let started = ""; // the workflow that was open when the latest prompt began
const SAMPLED = VIEWED.filter((type) => type !== "SAGMaskPreview");
const CACHED = later("This result was kept from an earlier run, so nothing was sampled; another seed samples again.");
const NOTHING_SAMPLED = later("No step was sampled: the sampler had none to take, or does not use this node's output.");

/** Start listening. */
export function listen() {
  api.addEventListener("sag.live", ({ detail }) => heard(detail));
  api.addEventListener("status", () => tell());
  for (const type of ["reconnecting", "reconnected"]) api.addEventListener(type, () => forget());
  api.addEventListener("execution_error", ({ detail }) => failed(detail));
  watchForRunsWithoutSteps();
  tell();
}

function heard({ kind, workflow, prompt, node, ...data }) {
  const id = shownId(node);
  if (kind === "start") startRun(workflow, id, prompt, data);
  else if (kind === "frame") addFrame(workflow, id, data);
  else if (kind === "end") endRun(workflow, id, prompt, data);
  else if (kind === "kept" && data.file) loadRun(workflow, id, prompt, data.file);
  else if (kind === "instead") missing(workflow, id, prompt, data.text);
  else if (kind === "note") {
    addNote(workflow, id, prompt, data.text);
    const [summary, detail] = [say("Self-Attention Guidance"), translate(data.text)];
    app.extensionManager?.toast?.add({ severity: "warn", summary, detail, life: 10000 });
  }
}

/** Why there is nothing to see of a run, beside the other runs of its prompt where there are some. */
function missing(workflow, id, prompt, text) {
  const others = runsOf(workflow, id).some((run) => run.prompt === prompt && run.about);
  (others ? addNote : sayInstead)(workflow, id, prompt, text);
}

/** Why one of these nodes refused its inputs, on the node itself. */
function failed({ node_id: node, node_type: type, prompt_id: prompt, exception_message: message }) {
  if (VIEWED.includes(type) && message) sayInstead(started || workflowId(), shownId(node), prompt, message.trim());
}

/** A sampler without steps tells nobody, nor does a result from the cache: say so on nodes that would show nothing. */
function watchForRunsWithoutSteps() {
  let executed = new Set();
  let cached = new Set();
  api.addEventListener("execution_start", () => {
    started = workflowId();
    executed = new Set();
    cached = new Set();
  });
  api.addEventListener("execution_cached", ({ detail }) => {
    cached = new Set((detail?.nodes ?? []).map(shownId));
  });
  api.addEventListener("executing", ({ detail }) => {
    const node = typeof detail === "object" ? detail?.node : detail;
    if (node) executed.add(shownId(node));
  });
  api.addEventListener("execution_success", ({ detail }) => {
    const workflow = started;
    if (workflow !== workflowId() || !isLive()) return;
    for (const [id, node] of everyNode()) {
      const runs = runsOf(workflow, id);
      if (SAMPLED.includes(node.comfyClass) && executed.has(id) && !runs.some((run) => run.prompt === detail.prompt_id))
        sayInstead(workflow, id, detail.prompt_id, NOTHING_SAMPLED);
      else if (VIEWED.includes(node.comfyClass) && cached.has(id) && !runs.length)
        sayInstead(workflow, id, detail.prompt_id, CACHED);
    }
  });
}

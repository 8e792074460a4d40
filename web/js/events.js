// What the server tells while it runs.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { everyNode, shownId, workflowId } from "./graph.js";
import { addFrame, addNote, endRun, loadRun, runsOf, sayInstead, startRun } from "./runs.js";
import { forget, isLive, tell } from "./settings.js";

const SAMPLED = ["SAGGuidance", "SAGRecordAttention", "SAGSampler"];
const NOTHING_SAMPLED = "No step was sampled: the sampler had none to take, or does not use this node's output.";

/** Start listening. */
export function listen() {
  api.addEventListener("sag.live", ({ detail }) => heard(detail));
  api.addEventListener("status", () => tell());
  for (const type of ["reconnecting", "reconnected"]) api.addEventListener(type, () => forget());
  watchForRunsWithoutSteps();
  tell();
}

function heard({ kind, workflow, prompt, node, ...data }) {
  const id = shownId(node);
  if (kind === "start") startRun(workflow, id, prompt, data);
  else if (kind === "frame") addFrame(workflow, id, prompt, data);
  else if (kind === "end") endRun(workflow, id, prompt, data);
  else if (kind === "kept" && data.file) loadRun(workflow, id, prompt, data.file);
  else if (kind === "note") {
    addNote(workflow, id, prompt, data.text);
    app.extensionManager?.toast?.add({ severity: "warn", summary: "Self-Attention Guidance", detail: data.text, life: 10000 });
  }
}

/** A sampler without steps tells nobody: say so on nodes that were executed and not sampled with. */
function watchForRunsWithoutSteps() {
  let workflow = "";
  let executed = new Set();
  api.addEventListener("execution_start", () => {
    workflow = workflowId();
    executed = new Set();
  });
  api.addEventListener("executing", ({ detail }) => {
    const node = typeof detail === "object" ? detail?.node : detail;
    if (node) executed.add(shownId(node));
  });
  api.addEventListener("execution_success", ({ detail }) => {
    if (workflow !== workflowId() || !isLive()) return;
    for (const [id, node] of everyNode()) {
      const sampled = runsOf(workflow, id).some((run) => run.prompt === detail.prompt_id);
      if (SAMPLED.includes(node.comfyClass) && executed.has(id) && !sampled)
        sayInstead(workflow, id, detail.prompt_id, NOTHING_SAMPLED);
    }
  });
}

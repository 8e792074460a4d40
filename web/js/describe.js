// A run in words, for the line under its picture.
import { say, translate } from "./texts.js";

/** What there is to say of a run, in short: layer, grid, branch, steps guided and skipped, and why. */
export function describeRun(run, live) {
  if (!run && live) return say("The attention shows here when a run samples.");
  if (!run) return say("Live view is off (Settings, Self-Attention Guidance).");
  if (run.problem) return translate(run.problem);
  const parts = [run.about.layer || say("no layer")];
  const grid = run.frames.find((frame) => frame.grid)?.grid;
  if (grid) parts.push(say("<grid> tokens", { grid: `${grid[1]}x${grid[0]}` }));
  const branches = [...new Set(run.frames.map((frame) => frame.branch).filter(Boolean))];
  if (branches.length) parts.push(branches.join(", "));
  parts.push(counts(run));
  const { batch, video } = run.about;
  if (batch > 1) parts.push(say("image <index> of <count>", { index: 1, count: batch }));
  if (video > 1) parts.push(say("frame <index> of <count>", { index: Math.floor(video / 2) + 1, count: video }));
  const text = parts.filter(Boolean).join(" \u00b7 ");
  return [text, ...run.notes.map((note) => `\u26a0 ${translate(note)}`)].join("\n");
}

function counts(run) {
  const { steps, guided, skipped, why: reasons } = run.end ?? run.seen;
  if (run.end && steps === 0 && !run.frames.length) return say("no step was sampled");
  const state = run.end && !["finished", undefined].includes(run.end.state) ? ` (${ended(run.end.state)})` : "";
  if (run.about.purpose === "record") return say("<count> steps recorded", { count: steps }) + state;
  const why = because(reasons);
  return say("<guided> guided, <skipped> skipped", { guided, skipped }) + (why ? ` (${why})` : "") + state;
}

function ended(state) {
  if (/Interrupt/.test(state)) return say("interrupted");
  return state === "stopped" ? say("view stopped") : say("failed");
}

/** Why steps were skipped; with counts where there are several reasons. */
function because(reasons) {
  const all = Object.entries(reasons ?? {}).map(([reason, count]) => ({ reason: translate(reason), count }));
  return all.length > 1 ? all.map((one) => say("<count> <reason>", one)).join(", ") : all[0]?.reason ?? "";
}

/** A step in words. */
export function describeStep(run, index) {
  const frame = run.frames[index];
  if (!frame) return "";
  const { step, sigma, coverage } = frame;
  const isStep = step !== null && step !== undefined;
  const parts = [isStep ? say("step <step>", { step }) : say("evaluation <index>", { index })];
  if (typeof sigma === "number") parts.push(say("sigma <sigma>", { sigma: sigma.toPrecision(3) }));
  if (typeof coverage === "number") parts.push(say("mask <share> %", { share: Math.round(coverage * 100) }));
  return parts.join(", ");
}

// A run in words, for the line under its picture.

/** What there is to say of a run, in short: layer, grid, branch, steps guided and skipped, and why. */
export function describeRun(run, live) {
  if (!run && live) return "The attention shows here when a run samples.";
  if (!run) return "Live view is off (Settings, Self-Attention Guidance).";
  if (run.problem) return run.problem;
  const parts = [run.about.layer || "no layer"];
  const grid = run.frames.find((frame) => frame.grid)?.grid;
  if (grid) parts.push(`${grid[1]}x${grid[0]} tokens`);
  const branches = [...new Set(run.frames.map((frame) => frame.branch).filter(Boolean))];
  if (branches.length) parts.push(branches.join(", "));
  parts.push(counts(run));
  if (run.about.batch > 1) parts.push(`image 1 of ${run.about.batch}`);
  if (run.about.video > 1) parts.push(`frame ${Math.floor(run.about.video / 2) + 1} of ${run.about.video}`);
  const text = parts.filter(Boolean).join(" \u00b7 ");
  return [text, ...run.notes.map((note) => `\u26a0 ${note}`)].join("\n");
}

function counts(run) {
  const end = run.end;
  if (end && end.steps === 0 && !run.frames.length) return "no step was sampled";
  const guided = end?.guided ?? run.frames.filter((frame) => frame.guided).length;
  const skipped = end?.skipped ?? run.frames.filter((frame) => !frame.guided).length;
  const state = end && !["finished", undefined].includes(end.state) ? ` (${ended(end.state)})` : "";
  if (run.about.kind === "record") return `${end?.steps ?? run.frames.length} steps recorded${state}`;
  const why = reasons(run);
  return `${guided} guided, ${skipped} skipped${why ? ` (${why})` : ""}${state}`;
}

const ended = (state) => (/Interrupt/.test(state) ? "interrupted" : state === "stopped" ? "view stopped" : "failed");

/** Why steps were skipped; with counts where there are several reasons. */
function reasons(run) {
  const why = { ...(run.end?.why ?? {}) };
  if (!run.end) for (const frame of run.frames) if (frame.why) why[frame.why] = (why[frame.why] ?? 0) + 1;
  const entries = Object.entries(why);
  return entries.length > 1 ? entries.map(([reason, n]) => `${n} ${reason}`).join(", ") : entries[0]?.[0] ?? "";
}

/** A step in words. */
export function describeStep(run, index) {
  const frame = run.frames[index];
  if (!frame) return "";
  const name = frame.step === null || frame.step === undefined ? `evaluation ${index}` : `step ${frame.step}`;
  const sigma = typeof frame.sigma === "number" ? `, sigma ${frame.sigma.toPrecision(3)}` : "";
  const share = typeof frame.coverage === "number" ? `, mask ${Math.round(frame.coverage * 100)} %` : "";
  return `${name}${sigma}${share}`;
}

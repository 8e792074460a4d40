// The settings panel, and telling the server whether this browser wants to be shown runs.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { COLOUR_MAPS } from "./colours.js";

const ENABLED = "SAG.Live.Enabled";
const SIZE = "SAG.Live.Size";
const COLOURS = "SAG.Live.ColourMap";
const SIZES = [128, 192, 256, 384, 512];

const changed = new EventTarget();
let told = null; // what the server has been told: a connection and a size
let asking = false;
let knows = null; // and what it has confirmed

const get = (id, otherwise) => app.extensionManager?.setting?.get(id) ?? otherwise;

export const isLive = () => get(ENABLED, true) !== false;
export const viewSize = () => (SIZES.includes(Number(get(SIZE, 256))) ? Number(get(SIZE, 256)) : 256);
export const colourMap = () => get(COLOURS, COLOUR_MAPS[0]);
export const onSettings = (listener) => changed.addEventListener("change", listener);

// The frontend calls this before the new value can be read.
const notify = () => setTimeout(() => {
  tell();
  changed.dispatchEvent(new Event("change"));
});

/** For registerExtension; shown under "Self-Attention Guidance". */
export const settings = [
  {
    id: COLOURS,
    category: ["Self-Attention Guidance", "Live view", "Colour map"],
    name: "Colour map of attention",
    tooltip: "All are perceptually uniform; cividis looks the same to nearly everyone with colour-blindness.",
    type: "combo",
    options: COLOUR_MAPS,
    defaultValue: COLOUR_MAPS[0],
    onChange: notify,
  },
  {
    id: SIZE,
    category: ["Self-Attention Guidance", "Live view", "Size"],
    name: "Size of the pictures, in pixels",
    tooltip: "Their longer side, as they are sent while a run samples.",
    type: "combo",
    options: SIZES.map((size) => ({ text: String(size), value: size })),
    defaultValue: 256,
    onChange: notify,
  },
  {
    id: ENABLED,
    category: ["Self-Attention Guidance", "Live view", "Show"],
    name: "Show attention while sampling",
    tooltip: "On the nodes that guide and record. Off, nothing is prepared and nothing is sent.",
    type: "boolean",
    defaultValue: true,
    onChange: notify,
  },
];

const wanted = () => [api.clientId, isLive() ? viewSize() : 0];

/** Ask the server to show this connection its runs; again whenever the connection or the wish is another. */
export async function tell() {
  const [client, side] = wanted();
  const wish = wanted().join(" ");
  if (!client || asking || told === wish) return;
  told = wish;
  knows = null;
  asking = true; // one at a time, so that the last one is what the server remembers
  try {
    const answer = await api.fetchApi("/sag/live", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ client, side }),
    });
    if (answer.ok && (await answer.json()).watching) knows = wish;
    else told = null; // the next status asks again
  } catch {
    told = null;
  }
  asking = false;
  if (told && wanted().join(" ") !== wish) tell();
}

/** Whether the server knows what this browser wants. */
export const isTold = () => knows === wanted().join(" ");

/** The connection was lost, and with it what the server had been told. */
export function forget() {
  told = knows = null;
}

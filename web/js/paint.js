// Drawing a step: the forming image, and over it the attention in colour, the mask, or the one where the other is.
import { colourTable } from "./colours.js";

export const MODES = ["overlay", "heatmap", "mask"];

const images = new WeakMap(); // frame -> its decoded image
const bytes = new WeakMap(); // frame -> { map, mask }

/** The image of a step, decoded; null where there is none or it is damaged. */
export function imageOf(holder) {
  if (!holder?.image?.startsWith?.("data:image/")) return Promise.resolve(null);
  if (!images.has(holder)) {
    const image = new Image();
    images.set(holder, new Promise((resolve) => {
      image.onload = () => resolve(image);
      image.onerror = () => resolve(null);
      image.src = holder.image;
    }));
  }
  return images.get(holder);
}

function planesOf(frame) {
  if (!bytes.has(frame)) bytes.set(frame, { map: plane(frame.map, frame.grid), mask: plane(frame.mask, frame.mask_size) });
  return bytes.get(frame);
}

/** Bytes of a plane and its size; null where it is missing or not as long as it should be. */
function plane(base64, size) {
  if (typeof base64 !== "string" || !Array.isArray(size)) return null;
  try {
    const values = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    return values.length === size[0] * size[1] ? { values, height: size[0], width: size[1] } : null;
  } catch {
    return null;
  }
}

/**
 * Draw a step on a canvas, whose size is set here.
 * @param frame as the server sent it
 * @param image its decoded image, or null
 * @param size [height, width] of the sample
 * @param choices {mode, opacity, colours}
 * @param pixels longer side of the canvas
 */
export function paint(canvas, frame, image, size, choices, pixels) {
  const [height, width] = image ? [image.naturalHeight, image.naturalWidth] : size;
  const factor = pixels / Math.max(height, width);
  canvas.width = Math.max(1, Math.round(width * factor));
  canvas.height = Math.max(1, Math.round(height * factor));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = factor < 4; // pixel models' images are shown as the pixels they are
  // Grey under an overlay, or its colours would be taken for the image's.
  context.filter = choices.mode === "overlay" ? "grayscale(0.8) brightness(0.8)" : "none";
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  const { map, mask } = planesOf(frame);
  const where = choices.mode === "overlay" ? mask : null;
  const layer = choices.mode === "mask" ? maskLayer(mask) : heatLayer(map, where, choices);
  if (!layer) return;
  // Tokens stay visible as the blocks they are.
  context.imageSmoothingEnabled = false;
  context.globalAlpha = image ? choices.opacity : 1;
  const [down, across] = choices.mode === "mask" && !sameSize(mask, map) ? [1, 1] : frame.extent ?? [1, 1];
  context.drawImage(layer, 0, 0, canvas.width * across, canvas.height * down);
  context.globalAlpha = 1;
}

const sameSize = (a, b) => a && b && a.height === b.height && a.width === b.width;

function heatLayer(map, mask, choices) {
  if (!map) return null;
  const table = colourTable(choices.colours);
  const fine = mask && !sameSize(map, mask) ? mask : map; // a mask may be finer than the tokens
  return filled(fine.height, fine.width, (row, column) => {
    const scaled = (at, from, to) => Math.floor((at * to) / from);
    const at = (p) => p.values[scaled(row, fine.height, p.height) * p.width + scaled(column, fine.width, p.width)];
    return [...table[at(map)], mask ? at(mask) : 255];
  });
}

const maskLayer = (mask) => mask && filled(mask.height, mask.width, (row, column) => {
  const value = mask.values[row * mask.width + column];
  return [value, value, value, 255];
});

function filled(height, width, colourAt) {
  const layer = new OffscreenCanvas(width, height);
  const data = new ImageData(width, height);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) data.data.set(colourAt(row, column), (row * width + column) * 4);
  layer.getContext("2d").putImageData(data, 0, 0);
  return layer;
}

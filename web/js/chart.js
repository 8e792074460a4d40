// The mask's share of the image at every step, as bars; a click goes to a step.
import { say } from "./texts.js";

const GUIDED = "#e1cc55";
const OTHER = "#8a8678";
const HERE = "#ffffff";

/** A canvas of bars. `onStep` is called with the index of the one that was clicked. */
export function makeChart(onStep) {
  const canvas = document.createElement("canvas");
  canvas.className = "sag-chart";
  canvas.setAttribute("role", "img");
  let count = 0;
  canvas.addEventListener("click", (event) => {
    const { left, width } = canvas.getBoundingClientRect();
    if (count) onStep(Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * count))));
  });
  return {
    canvas,
    draw(frames, current) {
      count = frames.length;
      canvas.width = 480;
      canvas.height = 56;
      const context = canvas.getContext("2d");
      const wide = canvas.width / Math.max(count, 1);
      frames.forEach((frame, index) => {
        const share = typeof frame.coverage === "number" ? frame.coverage : 0;
        const high = Math.max(1, share * canvas.height);
        context.fillStyle = index === current ? HERE : frame.guided ? GUIDED : OTHER;
        context.fillRect(index * wide, canvas.height - high, Math.max(1, wide - (wide > 4 ? 1 : 0)), high);
      });
      const share = frames[current]?.coverage;
      canvas.title = typeof share === "number"
        ? say("Mask: <share> % of the image. Yellow bars are guided steps; click one to see it.",
          { share: Math.round(share * 100) })
        : say("The mask's share of the image at every step; click one to see it.");
    },
  };
}

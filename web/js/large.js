// A viewer that fills the window.
import { say } from "./texts.js";
import { Viewer } from "./viewer.js";

const LARGE_PIXELS = 1024;

/** Open a viewer's run in a dialog; Escape, a double click or a click beside it closes it. */
export function openLarge(small) {
  const dialog = document.createElement("dialog");
  dialog.className = "sag-large";
  dialog.ariaLabel = say("Self-Attention Guidance");
  const viewer = new Viewer({
    choices: small.choices,
    onChoice: (choices) => {
      small.onChoice(choices);
      small.render();
    },
    display: () => ({ ...small.display(), pixels: LARGE_PIXELS }),
    onEnlarge: () => dialog.close(),
  });
  dialog.append(viewer.element);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Escape is not the graph's
  dialog.addEventListener("close", () => {
    small.large = null;
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  viewer.update(small.runs);
  viewer.chosen = small.chosen;
  viewer.go(small.at);
  small.large = viewer;
  return viewer;
}

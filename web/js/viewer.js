// The viewer of a run: picture, steps, chart, choices and a line of status; on a node, or large in a dialog.
import { makeChart } from "./chart.js";
import { describeRun, describeStep } from "./describe.js";
import { imageOf, MODES, paint } from "./paint.js";
import { language, say } from "./texts.js";

const FRAMES_PER_SECOND = 6;
const DEFAULTS = { mode: "overlay", opacity: 0.6 };
const nameOf = (mode) => ({ overlay: say("overlay"), heatmap: say("heat map"), mask: say("mask") })[mode];

/** What a user may choose, from what a workflow holds; anything else falls back to the defaults. */
export function validChoices(saved) {
  const mode = MODES.includes(saved?.mode) ? saved.mode : DEFAULTS.mode;
  const opacity = Number(saved?.opacity ?? DEFAULTS.opacity);
  return { mode, opacity: opacity >= 0 && opacity <= 1 ? opacity : DEFAULTS.opacity };
}

const make = (tag, className, properties = {}) => Object.assign(document.createElement(tag), { className, ...properties });

export class Viewer {
  /**
   * @param choices () => {mode, opacity} as they are saved
   * @param onChoice called with choices that changed
   * @param display () => {colours, pixels, live} from the settings
   * @param onEnlarge called when the picture is double clicked, or the button for that is used
   */
  constructor({ choices, onChoice, display, onEnlarge }) {
    Object.assign(this, { choices, onChoice, display, runs: [], chosen: null, at: 0, every: 1, follows: true });
    this.element = make("div", "sag-view sag-empty");
    this.canvas = make("canvas", "");
    this.canvas.addEventListener("dblclick", (event) => {
      event.stopPropagation();
      onEnlarge();
    });
    const picture = make("div", "sag-picture");
    picture.append(this.canvas);
    this.chart = makeChart((index) => this.go(index));
    this.status = make("div", "sag-status", { role: "status" });
    this.element.append(picture, this.stepRow(onEnlarge), this.chart.canvas, this.choiceRow(), this.status);
    // Keys are not the graph's, but for Ctrl+Enter, which runs the workflow from everywhere.
    const runs = ({ ctrlKey, metaKey, key }) => (ctrlKey || metaKey) && key === "Enter";
    this.element.addEventListener("keydown", (event) => runs(event) || event.stopPropagation());
    this.render();
  }

  stepRow(onEnlarge) {
    const row = make("div", "sag-row");
    this.play = make("button", "sag-play", { type: "button", textContent: "\u25b6" });
    this.play.addEventListener("click", () => this.togglePlay());
    this.slider = make("input", "sag-step", { type: "range", min: 0, step: 1 });
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.stepName = make("span", "sag-step-name");
    this.enlarge = make("button", "sag-enlarge", { type: "button", textContent: "\u2922" });
    this.enlarge.addEventListener("click", onEnlarge);
    row.append(this.play, this.slider, this.stepName, this.enlarge);
    return row;
  }

  choiceRow() {
    const row = make("div", "sag-row");
    this.mode = make("select", "sag-mode");
    for (const mode of MODES) this.mode.append(new Option(mode, mode));
    this.mode.addEventListener("change", () => this.choose({ mode: this.mode.value }));
    this.opacity = make("input", "sag-opacity", { type: "range", min: 0, max: 1, step: 0.05 });
    this.opacity.addEventListener("input", () => this.choose({ opacity: Number(this.opacity.value) }));
    this.which = make("select", "sag-run");
    this.which.addEventListener("change", () => {
      this.chosen = this.runs[Number(this.which.value)];
      this.go(this.run.frames.length - 1);
    });
    row.append(this.mode, this.opacity, this.which);
    return row;
  }

  /** Name everything in the user's language. */
  name() {
    this.spoken = language();
    this.canvas.title = say("Double click to enlarge");
    this.play.ariaLabel = say("Play the steps");
    this.slider.ariaLabel = say("Step");
    this.enlarge.ariaLabel = this.enlarge.title = say("Enlarge");
    this.mode.ariaLabel = say("What is shown");
    for (const option of this.mode.options) option.text = nameOf(option.value);
    this.opacity.ariaLabel = this.opacity.title = say("Opacity");
    this.which.ariaLabel = say("Which run");
    this.which.replaceChildren(); // so that they are named anew
  }

  get run() {
    return this.runs.includes(this.chosen) ? this.chosen : this.runs.at(-1);
  }

  choose(change) {
    this.onChoice({ ...validChoices(this.choices()), ...change });
    this.render();
  }

  /** Show these runs, the newest unless the user has chosen another. */
  update(runs) {
    if (runs.at(-1) !== this.runs.at(-1)) {
      this.chosen = null;
      this.follows = true;
    }
    this.runs = runs;
    const every = this.run?.every ?? 1;
    if (this.follows && this.run) this.at = this.run.frames.length - 1;
    else this.at = Math.floor((this.at * this.every) / every); // of a long run steps have been left out
    this.every = every;
    this.render();
  }

  /** Go to a step; the last one is followed as the run goes on. */
  go(index) {
    const last = (this.run?.frames.length ?? 0) - 1;
    this.at = Math.min(Math.max(index, 0), Math.max(last, 0));
    this.follows = this.at >= last;
    this.every = this.run?.every ?? 1;
    this.render();
  }

  togglePlay() {
    this.playing = !this.playing;
    this.play.textContent = this.playing ? "\u23f8" : "\u25b6";
    this.play.ariaPressed = String(this.playing);
    clearTimeout(this.timer); // or a quick pause would leave two of them
    if (!this.playing) return;
    const advance = () => {
      const count = this.run?.frames.length ?? 0;
      if (!this.playing || !count || !this.element.isConnected) {
        if (this.playing) this.togglePlay();
        return;
      }
      this.go((this.at + 1) % count);
      this.timer = setTimeout(advance, 1000 / FRAMES_PER_SECOND);
    };
    advance();
  }

  /** Draw soon; what is asked for meanwhile is drawn once, afterwards. */
  async render() {
    this.stale = true;
    if (this.drawing) return;
    this.drawing = true;
    await null; // the caller may have more to change
    try {
      while (this.stale) {
        this.stale = false;
        await this.draw();
      }
    } finally {
      this.drawing = false;
    }
  }

  async draw() {
    if (this.spoken !== language()) this.name();
    const run = this.run;
    const { colours, pixels, live } = this.display();
    const said = describeRun(run, live);
    if (this.status.textContent !== said) this.status.textContent = said; // it is read out whenever it is set
    const frame = run?.frames[this.at];
    this.element.classList.toggle("sag-empty", !frame);
    if (!frame) return;
    const choices = { ...validChoices(this.choices()), colours };
    Object.assign(this.slider, { max: run.frames.length - 1, value: this.at });
    this.slider.style.setProperty("--steps", run.frames.length);
    this.stepName.textContent = describeStep(run, this.at);
    this.mode.value = choices.mode;
    this.opacity.value = choices.opacity;
    this.which.hidden = this.runs.length < 2;
    const count = this.runs.length;
    if (this.which.options.length !== count) {
      const names = this.runs.map((_, i) => say("run <index> of <count>", { index: i + 1, count }));
      this.which.replaceChildren(...names.map((name, i) => new Option(name, i)));
    }
    this.which.value = this.runs.indexOf(run);
    this.chart.draw(run.frames, this.at);
    const image = await imageOf(frame.image ? frame : run.about);
    paint(this.canvas, frame, image, run.about.size ?? [1, 1], choices, pixels);
    this.element.dataset.drawn = `${run.frames.indexOf(frame)} ${choices.mode} ${choices.opacity} ${colours}`;
  }
}

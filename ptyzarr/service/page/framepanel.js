// The frame of the chosen position, or the mean of all frames, and how it is drawn.

import { scanPath } from "./api.js";
import { byId, number } from "./format.js";
import { Latest, PERCENTILES, Shown, enlarge, pictureQuery, showLegend } from "./pictures.js";
import { Readout } from "./readout.js";

/** No picture. */
const NOTHING = { palette: null, low: null, high: null };

export class FramePanel {
  #service;
  #onOptions;
  #shown = new Shown(byId("frame-image"));
  #limits = NOTHING;
  #asked = null;
  #state = null;
  #latest;
  #readout;
  #scan = null;

  /** `onOptions(patch)`: the user changed how frames are drawn. */
  constructor(service, { onOptions, onFailure }) {
    this.#service = service;
    this.#onOptions = onOptions;
    this.#latest = new Latest((error) => {
      this.#empty();
      byId("frame-error").textContent = "The picture could not be fetched.";
      onFailure(error, byId("frame-error"));
    });
    this.#readout = new Readout(service, { onFailure });
    for (const id of ["show", "scale", "cmap"]) {
      byId(id).addEventListener("change", () => onOptions({ [id]: byId(id).value }));
    }
    byId("range").addEventListener("change", () => this.#changeRange(byId("range").value));
    for (const id of ["low", "high"]) byId(id).addEventListener("change", () => this.#changeLimits());
    byId("picture-options").addEventListener("submit", (event) => event.preventDefault());
    byId("frame").querySelector("button").addEventListener("click", () => {
      enlarge(byId("frame-image"), byId("frame-title").textContent);
    });
  }

  /** Shows the frame of a state; `scan` has what is known of the scan. */
  show(state, scan) {
    this.#state = state;
    this.#fill(state, scan);
    this.#readout.show(state, scan);
    const what = state.show === "mean" ? "/mean.png" : `/frames/${state.frame}.png`;
    const path = scanPath(state.scan, what + pictureQuery(state));
    if (path === this.#asked && scan === this.#scan) return;
    this.#asked = path;
    this.#scan = scan;
    byId("frame-error").textContent = "";
    byId("frame").setAttribute("aria-busy", "true");
    this.#latest.run((signal) => this.#load(path, state, scan, signal));
  }

  /** Forgets the scan. */
  clear() {
    this.#latest.cancel();
    this.#readout.clear();
    this.#empty();
  }

  #empty() {
    this.#asked = null;
    this.#limits = NOTHING;
    this.#shown.clear();
    delete this.#shown.image.dataset.shows;
    showLegend("frame", NOTHING, "");
  }

  async #load(path, state, scan, signal) {
    try {
      const picture = await this.#service.picture(path, { signal });
      this.#limits = picture;
      const name = state.show === "mean" ? "Mean of all frames" : `Frame ${state.frame}`;
      await this.#shown.set(picture, `${name}, intensity on a ${state.scale} scale`);
      this.#shown.image.dataset.shows = path;
      showLegend("frame", picture, unitOf(scan));
    } finally {
      byId("frame").setAttribute("aria-busy", "false");
    }
  }

  #fill(state, scan) {
    const isMean = state.show === "mean";
    byId("frame-title").textContent = isMean ? "Mean of all frames" : `Frame ${state.frame}`;
    const power = scan.power ? `, power ${number(scan.power[state.frame])} ${unitOf(scan)}` : "";
    byId("frame-facts").textContent = isMean
      ? `${scan.n_frames} frames`
      : `x ${number(scan.positions.x(state.frame))}, y ${number(scan.positions.y(state.frame))} object pixels${power}`;
    for (const id of ["show", "scale", "cmap", "range"]) byId(id).value = state[id];
    byId("limits").hidden = state.range === "full";
    for (const id of ["low", "high"]) byId(id).value = state[id] ?? "";
  }

  /** Limits begin with what is seen, or with percentiles that leave out the outliers. */
  #changeRange(range) {
    const [low, high] = {
      full: [null, null],
      percentiles: PERCENTILES,
      values: [this.#limits.low, this.#limits.high].map((value) => value && Number(value.toPrecision(4))),
    }[range];
    this.#onOptions({ range, low, high });
  }

  #changeLimits() {
    const [low, high] = ["low", "high"].map((id) => (byId(id).value === "" ? null : byId(id).valueAsNumber));
    const fault = ["low", "high"].some((id) => byId(id).validity.badInput)
      ? "A limit has to be a number, or empty"
      : limitsFault(this.#state, low, high);
    if (fault) {
      // What was typed stays: the other limit may follow.
      byId("frame-error").textContent = `${fault}; the picture stays as it was.`;
      return;
    }
    if (this.#asked) byId("frame-error").textContent = "";
    if (low !== this.#state.low || high !== this.#state.high) this.#onOptions({ low, high });
  }
}

/** What is wrong with limits that the user gave; "" if nothing is. */
function limitsFault({ range, scale }, low, high) {
  const given = [low, high].filter((value) => value !== null);
  if (range === "percentiles") {
    if (given.some((value) => value < 0 || value > 100)) return "Percentiles go from 0 to 100";
    return (low ?? 0) < (high ?? 100) ? "" : "The lower percentile has to be below the upper one";
  }
  if (scale === "log" && given.some((value) => value <= 0)) return "On a logarithmic scale limits are above 0";
  return given.length < 2 || low < high ? "" : "The lower limit has to be below the upper one";
}

function unitOf(scan) {
  return scan.intensity_unit ?? "";
}

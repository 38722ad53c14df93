// Pictures of the service: what they are asked for with, and where they are shown.

import { drawPalette } from "./colors.js";
import { byId, number } from "./format.js";

const STUCK_MS = 1000;
export const PERCENTILES = [1, 99.9];

/** The query of a picture of frames for the options in a state. */
export function pictureQuery(state, size = null) {
  const query = new URLSearchParams({ scale: state.scale, cmap: state.cmap });
  const [lowName, highName] = { percentiles: ["pmin", "pmax"], values: ["vmin", "vmax"] }[state.range] ?? [];
  if (lowName && state.low !== null) query.set(lowName, state.low);
  if (highName && state.high !== null) query.set(highName, state.high);
  if (size !== null) query.set("size", size);
  return `?${query}`;
}

/** An image element whose object URLs are given back. */
export class Shown {
  #url = null;

  constructor(image) {
    this.image = image;
  }

  async set(picture, description) {
    const before = this.#url;
    this.#url = picture.url;
    this.image.src = picture.url;
    this.image.alt = description;
    try {
      await this.image.decode();
    } catch (error) {
      // Another picture took its place meanwhile, or its element is gone.
      if (this.#url === picture.url && this.image.isConnected) throw error;
    } finally {
      if (before) URL.revokeObjectURL(before);
    }
  }

  clear() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
    this.image.removeAttribute("src");
    this.image.alt = "";
  }
}

/** Writes the colours of a picture and the values at their ends. */
export function showLegend(prefix, picture, unit) {
  drawPalette(byId(`${prefix}-scale`), picture.palette);
  byId(`${prefix}-low`).textContent = picture.low === null ? "" : number(picture.low);
  byId(`${prefix}-high`).textContent = picture.high === null ? "" : number(picture.high);
  byId(`${prefix}-unit`).textContent = unit;
}

/**
 * Runs one task at a time and, of those asked for meanwhile, the last: a held key neither floods
 * the service nor waits for every step.
 */
export class Latest {
  #next = null;
  #running = false;
  #since = 0;
  #abort = new AbortController();

  /** `onError(error)` gets what a task throws, but for being cancelled. */
  constructor(onError) {
    this.onError = onError;
  }

  async run(task) {
    this.#next = task;
    if (this.#running) {
      if (performance.now() - this.#since > STUCK_MS) this.#stop();
      return;
    }
    this.#running = true;
    while (this.#next) {
      const current = this.#next;
      this.#next = null;
      this.#since = performance.now();
      try {
        await current(this.#abort.signal);
      } catch (error) {
        if (error.name !== "AbortError") this.onError(error);
      }
    }
    this.#running = false;
  }

  cancel() {
    this.#next = null;
    this.#stop();
  }

  #stop() {
    this.#abort.abort();
    this.#abort = new AbortController();
  }
}

/** Opens the large view of a picture that is shown. */
export function enlarge(image, title) {
  if (!image.src) return;
  byId("large-title").textContent = title;
  byId("large-image").src = image.src;
  byId("large-image").alt = image.alt;
  byId("large").showModal();
}

// One scan: the map and the panels around it.

import { showAbout } from "./about.js";
import { scanPath } from "./api.js";
import { drawPalette } from "./colors.js";
import { byId, count, number, wholeNumberFault } from "./format.js";
import { FramePanel } from "./framepanel.js";
import { GroupPanel } from "./grouppanel.js";
import { GuessPanel } from "./guesspanel.js";
import { Latest } from "./pictures.js";
import { Positions } from "./positions.js";
import { ScanMap } from "./scanmap.js";

export class ScanView {
  #service;
  #change;
  #say;
  #remark;
  #map;
  #frame;
  #group;
  #guess;
  #loading;
  #state = null;
  #scan = null;

  /**
   * `change(patch, how)`: the user wants to see something else, "push" or "replace" in the
   * history; `say(text)`: for those who do not see; `remark(text)`: for all; `onFailure(error, place)`;
   * `onMissing(id, error)`: the scan cannot be shown at all.
   */
  constructor(service, { change, say, remark, onFailure, onMissing }) {
    this.#service = service;
    this.#change = change;
    this.#say = say;
    this.#remark = remark;
    this.#loading = new Latest((error) => {
      if (error.kind === "refused") onMissing(this.#state.scan, error);
      else onFailure(error, null);
    });
    const onOptions = (patch) => change(patch, "push");
    this.#map = new ScanMap(byId("map"), {
      onChoose: (index, isRepeat) => this.#choose(index, isRepeat),
      onZoom: (zoom) => change({ zoom: zoom && zoom.map((value) => Number(value.toPrecision(6))) }, "replace"),
      onEdge: say,
      onPoint: (index) => this.#showPointed(index),
      onKey: (event) => this.#stepKey(event),
    });
    this.#frame = new FramePanel(service, { onOptions, onFailure });
    this.#group = new GroupPanel(service, {
      onMembers: (members) => this.#showMembers(members),
      onChoose: (index) => this.#choose(index, false),
      onOptions, onFailure,
    });
    this.#guess = new GuessPanel(service, { onObject: () => this.#showBehind(), onOptions, onFailure });
    this.#listen(onOptions);
  }

  get map() {
    return this.#map;
  }

  /** Shows a state; `isNew` loads everything again. */
  show(state, isNew) {
    const isOther = isNew || !this.#scan || this.#scan.id !== state.scan;
    this.#state = state;
    if (!isOther) {
      this.#showAll();
      return;
    }
    this.clear();
    this.#state = state;
    byId("scan-title").textContent = state.scan;
    byId("scan").setAttribute("aria-busy", "true");
    this.#loading.run((signal) => this.#load(state.scan, signal));
  }

  clear() {
    this.#loading.cancel();
    this.#scan = null;
    this.#map.clear();
    for (const panel of [this.#frame, this.#group, this.#guess]) panel.clear();
    byId("map-error").textContent = "";
  }

  async #load(id, signal) {
    const options = { signal };
    const [facts, map, power] = await Promise.all([
      this.#service.json(scanPath(id), options),
      this.#service.npy(scanPath(id, "/map"), options),
      this.#service.npy(scanPath(id, "/power"), options),
    ]);
    if (this.#state.scan !== id) return;
    const positions = new Positions(map.values);
    this.#scan = { ...facts, id, extent: facts.positions, positions, power: power.values };
    this.#map.setScan(positions, power.values);
    showAbout(id, this.#scan);
    byId("frame-number").max = positions.n - 1;
    byId("frame-count").textContent = `of 0 to ${count(positions.n - 1)}`;
    byId("scan").setAttribute("aria-busy", "false");
    this.#showAll();
  }

  #showAll() {
    const last = this.#scan.positions.n - 1;
    byId("map-error").textContent = "";
    if (this.#state.frame > last) {
      byId("map-error").textContent = `There is no position ${this.#state.frame}; this scan has 0 to ${last}.`;
      this.#state = { ...this.#state, frame: last };
      this.#change({ frame: last }, "fix");
    }
    const modes = this.#scan.probe_modes;
    if (this.#state.mode >= modes) {
      this.#remark(`There is no mode ${this.#state.mode} of the probe; this scan has ${modes === 1 ? "mode 0 alone" : `0 to ${modes - 1}`}.`);
      this.#state = { ...this.#state, mode: modes - 1 };
      this.#change({ mode: modes - 1 }, "fix");
    }
    const state = this.#state;
    byId("color").value = state.color;
    byId("behind").value = state.behind;
    byId("frame-number").value = state.frame;
    this.#map.setZoom(state.zoom);
    this.#showColor(state);
    this.#showBehind();
    this.#map.setChoice(state.frame);
    this.#frame.show(state, this.#scan);
    this.#group.show(state, this.#scan);
    this.#guess.show(state, this.#scan);
  }

  #showColor(state) {
    const { low, high } = this.#map.setColor(state.color);
    drawPalette(byId("map-scale"), this.#map.palette);
    byId("map-low").textContent = number(low);
    byId("map-high").textContent = number(high);
    byId("map-unit").textContent = state.color === "power" ? `${this.#scan.intensity_unit} in a frame` : "acquired";
  }

  #showBehind() {
    if (!this.#scan) return;
    const { behind } = this.#state;
    const array = this.#scan.arrays.object_guess;
    byId("behind").closest("label").hidden = !array;
    const image = behind === "none" ? null : this.#guess.objectImage(behind);
    if (!array || !image) {
      this.#map.setBehind(null);
      return;
    }
    const [height, width] = array.shape;
    if (!this.#map.setBehind(image, width, height)) {
      byId("map-error").textContent = "The positions do not all lie in the object, so it is not drawn behind them.";
    }
  }

  #showMembers(members) {
    this.#map.setMembers(members);
    if (!this.#scan || members.length === 0) return;
    const { frame } = this.#state;
    const { positions } = this.#scan;
    this.#say(
      `Position ${frame} at x ${number(positions.x(frame))}, y ${number(positions.y(frame))}. ` +
        `Its group: frames ${members.join(", ")}.`,
    );
  }

  #showPointed(index) {
    const { positions } = this.#scan ?? {};
    byId("map-under").textContent =
      index < 0 || !positions ? "" : `${index} at ${number(positions.x(index))}, ${number(positions.y(index))}`;
  }

  #choose(index, isRepeat) {
    if (index === this.#state.frame) return;
    // The members are not known yet; those of another position would mislead.
    this.#map.setMembers([]);
    this.#change({ frame: index }, isRepeat ? "replace" : "push");
  }

  #step(by, isRepeat = false) {
    const wanted = Math.min(Math.max(this.#state.frame + by, 0), this.#scan.positions.n - 1);
    if (wanted === this.#state.frame) this.#say(by > 0 ? "This is the last position." : "This is the first position.");
    this.#choose(wanted, isRepeat);
  }

  #stepKey(event) {
    const by = { PageDown: 1, PageUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !this.#scan) return false;
    this.#step(by, event.repeat);
    return true;
  }

  #listen(onOptions) {
    byId("color").addEventListener("change", () => onOptions({ color: byId("color").value }));
    byId("behind").addEventListener("change", () => onOptions({ behind: byId("behind").value }));
    byId("zoom-in").addEventListener("click", () => this.#map.zoomIn());
    byId("zoom-out").addEventListener("click", () => this.#map.zoomOut());
    byId("zoom-fit").addEventListener("click", () => this.#map.zoomToAll());
    const steps = { first: -Infinity, previous: -1, next: 1, last: Infinity };
    for (const [id, by] of Object.entries(steps)) {
      byId(id).addEventListener("click", () => this.#scan && this.#step(by));
    }
    byId("chooser").addEventListener("submit", (event) => event.preventDefault());
    byId("frame-number").addEventListener("change", () => this.#readNumber());
    byId("frame-number").addEventListener("keydown", (event) => {
      // Home and End are for the text of the field.
      if (event.key.startsWith("Page") && this.#stepKey(event)) event.preventDefault();
    });
  }

  #readNumber() {
    if (!this.#scan) return;
    const input = byId("frame-number");
    const last = this.#scan.positions.n - 1;
    const wanted = input.valueAsNumber;
    if (Number.isInteger(wanted) && wanted >= 0 && wanted <= last) {
      byId("map-error").textContent = "";
      this.#choose(wanted, false);
      return;
    }
    byId("map-error").textContent = input.value
      ? `There is no position ${input.value}; this scan has 0 to ${last}.`
      : wholeNumberFault(input, "Position", this.#state.frame);
    input.value = this.#state.frame;
  }
}

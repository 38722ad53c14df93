// Probe and object guess, each as amplitude and phase.

import { scanPath } from "./api.js";
import { drawPalette } from "./colors.js";
import { byId, element, number, wholeNumberFault } from "./format.js";
import { Latest, Shown, enlarge } from "./pictures.js";

const LARGEST_PX = 1024;

export class GuessPanel {
  #service;
  #onObject;
  #onFailure;
  #probe;
  #object;
  #figures = {};
  #asked = { probe: null, object: null };
  #mode = 0;

  /** `onObject(part, image)`: a picture of the object is there. */
  constructor(service, { onObject, onOptions, onFailure }) {
    this.#service = service;
    this.#onObject = onObject;
    this.#onFailure = onFailure;
    for (const what of ["probe", "object"]) {
      for (const part of ["amplitude", "phase"]) this.#makeFigure(what, part);
    }
    this.#probe = this.#latestOf("probe");
    this.#object = this.#latestOf("object");
    byId("mode").addEventListener("change", () => {
      const input = byId("mode");
      const { error } = this.#figures["probe-amplitude"];
      if (input.value !== "" && input.checkValidity()) {
        error.textContent = "";
        onOptions({ mode: input.valueAsNumber });
        return;
      }
      error.textContent = wholeNumberFault(input, "Mode", this.#mode);
      input.value = this.#mode;
    });
  }

  /** Shows the guesses of a scan. */
  show(state, scan) {
    const { mode } = state;
    this.#mode = mode;
    byId("mode-label").hidden = scan.probe_modes < 2;
    byId("mode").max = scan.probe_modes - 1;
    byId("mode").value = mode;
    this.#ask(this.#probe, "probe", state.scan, scan, `&mode=${mode}`, "arrays" in scan && scan.arrays.probe_guess);
    this.#ask(this.#object, "object", state.scan, scan, "", scan.arrays.object_guess);
  }

  /** The picture of the object; null if it is not there. */
  objectImage(part) {
    const figure = this.#figures[`object-${part}`];
    return figure?.image.dataset.shows ? figure.image : null;
  }

  clear() {
    this.#probe.cancel();
    this.#object.cancel();
    this.#asked = { probe: null, object: null };
    for (const figure of Object.values(this.#figures)) empty(figure);
  }

  #latestOf(what) {
    return new Latest((error) => {
      this.#asked[what] = null;
      for (const part of ["amplitude", "phase"]) empty(this.#figures[`${what}-${part}`]);
      this.#onFailure(error, this.#figures[`${what}-amplitude`].error);
    });
  }

  #ask(latest, what, id, scan, query, array) {
    const asked = `${id} ${scan.digest} ${query}`;
    if (asked === this.#asked[what]) return;
    this.#asked[what] = asked;
    for (const part of ["amplitude", "phase"]) {
      const figure = this.#figures[`${what}-${part}`];
      empty(figure);
      figure.root.hidden = !array && part === "phase";
      figure.button.hidden = figure.legend.hidden = !array;
    }
    if (!array) {
      this.#figures[`${what}-amplitude`].caption.textContent = `This scan has no ${what} guess.`;
      return;
    }
    const size = Math.min(LARGEST_PX, Math.max(...array.shape.slice(-2)));
    latest.run((signal) =>
      Promise.all(["amplitude", "phase"].map((part) => this.#load(what, part, id, `?size=${size}${query}`, signal))),
    );
  }

  async #load(what, part, id, query, signal) {
    const figure = this.#figures[`${what}-${part}`];
    const path = scanPath(id, `/${what}/${part}.png${query}`);
    const picture = await this.#service.picture(path, { signal });
    const name = `${what === "probe" ? "Probe" : "Object"} ${part}`;
    await figure.shown.set(picture, name);
    figure.image.dataset.shows = path;
    drawPalette(figure.scale, picture.palette);
    const ends = part === "phase" ? ["−π", "π"] : [picture.low, picture.high].map((end) => number(end));
    [figure.low.textContent, figure.high.textContent] = ends;
    if (what === "object") this.#onObject(part, figure.image);
  }

  #makeFigure(what, part) {
    const name = `${what === "probe" ? "Probe" : "Object"} ${part}`;
    const image = element("img", { alt: "", id: `${what}-${part}` });
    const button = element("button", { type: "button", className: "enlarge", ariaLabel: `Enlarge ${name.toLowerCase()}` }, image);
    const scale = element("canvas", { width: 256, height: 1, ariaHidden: "true" });
    const [low, high] = [element("output"), element("output")];
    const caption = element("figcaption", {}, name);
    const error = element("p", { className: "error", role: "alert" });
    const legend = element("div", { className: "legend" }, low, scale, high);
    const root = element("figure", { className: "picture" }, caption, button, error, legend);
    button.addEventListener("click", () => enlarge(image, name));
    this.#figures[`${what}-${part}`] = {
      root, button, image, scale, low, high, caption, error, legend, name, shown: new Shown(image),
    };
    byId("guesses").append(root);
  }
}

function empty(figure) {
  figure.shown.clear();
  delete figure.image.dataset.shows;
  figure.error.textContent = "";
  figure.caption.textContent = figure.name;
  figure.low.textContent = "";
  figure.high.textContent = "";
  drawPalette(figure.scale, null);
}

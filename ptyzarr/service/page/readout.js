// The intensity under the pointer: values come once the pointer is over the frame.

import { scanPath } from "./api.js";
import { byId, number } from "./format.js";
import { Latest } from "./pictures.js";

export class Readout {
  #service;
  #image = byId("frame-image");
  #latest;
  #wanted = null; // what the picture shows
  #held = null; // what the values are of
  #pixel = null;

  constructor(service, { onFailure }) {
    this.#service = service;
    this.#latest = new Latest((error) => onFailure(error, byId("frame-error")));
    this.#image.addEventListener("pointermove", (event) => this.#point(event));
    this.#image.addEventListener("pointerleave", () => {
      this.#pixel = null;
      byId("frame-under").textContent = "";
    });
  }

  /** What is shown has changed. */
  show(state, scan) {
    const isMean = state.show === "mean";
    const path = scanPath(state.scan, isMean ? "/mean.npy" : `/frames/${state.frame}.npy`);
    if (this.#wanted?.path === path && this.#wanted.scan === scan) return;
    this.#wanted = { path, scan, isMean };
    byId("frame-under").textContent = "";
    if (this.#pixel) this.#read();
  }

  clear() {
    this.#latest.cancel();
    this.#wanted = null;
    this.#held = null;
    byId("frame-under").textContent = "";
  }

  #point(event) {
    const size = this.#wanted?.scan.frame_size ?? 0;
    const { clientWidth, clientHeight } = this.#image;
    const x = Math.floor((event.offsetX / clientWidth) * size);
    const y = Math.floor((event.offsetY / clientHeight) * size);
    this.#pixel = x >= 0 && y >= 0 && x < size && y < size ? [x, y] : null;
    if (this.#pixel) this.#read();
  }

  #read() {
    if (this.#held?.of === this.#wanted) {
      this.#write();
      return;
    }
    const wanted = this.#wanted;
    this.#latest.run(async (signal) => {
      if (this.#held?.of !== wanted) {
        const { values } = await this.#service.npy(wanted.path, { signal });
        this.#held = { of: wanted, values };
      }
      this.#write();
    });
  }

  #write() {
    if (!this.#pixel || this.#held.of !== this.#wanted) return;
    const [x, y] = this.#pixel;
    const { scan, isMean } = this.#wanted;
    const value = this.#held.values[y * scan.frame_size + x];
    // Amplitudes of counts are rounded roots, whose squares are whole again once rounded.
    const intensity = isMean ? value : scan.quantity === "counts" ? Math.round(value * value) : value * value;
    byId("frame-under").textContent = `column ${x}, row ${y}: ${number(intensity)}`;
  }
}

// The strip: bytes that this page fetched, second by second.

import { byId, bytes } from "./format.js";

const SECONDS = 60;

export class Traffic {
  #perSecond = new Array(SECONDS).fill(0);
  #now = 0;
  #total = 0;

  constructor() {
    setInterval(() => this.#tick(), 1000);
    this.#draw();
  }

  add(count) {
    this.#now += count;
    this.#total += count;
  }

  /** Draw again, as after a change of colours. */
  redraw() {
    this.#draw();
  }

  #tick() {
    this.#perSecond.push(this.#now);
    this.#perSecond.shift();
    this.#now = 0;
    this.#draw();
  }

  #draw() {
    byId("traffic-rate").textContent = `${bytes(this.#perSecond.at(-1))}/s`;
    byId("traffic-total").textContent = `${bytes(this.#total)} in all`;
    const canvas = byId("traffic-strip");
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    context.clearRect(0, 0, width, height);
    const color = getComputedStyle(canvas);
    context.fillStyle = color.getPropertyValue("--line");
    context.fillRect(0, height - 1, width, 1);
    context.fillStyle = color.getPropertyValue("--accent");
    // Small answers stay visible beside large ones.
    const high = Math.max(...this.#perSecond.map(Math.sqrt), 1);
    const step = width / SECONDS;
    this.#perSecond.forEach((count, second) => {
      const tall = Math.ceil((Math.sqrt(count) / high) * (height - 2));
      context.fillRect(second * step, height - 1 - tall, Math.max(1, step - 0.5), tall);
    });
  }
}

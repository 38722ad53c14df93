// The scan map: positions over the object, axes in object pixels, the choice marked.

import { levelsOf, pointPalette } from "./colors.js";
import { drawPoints, pointRadius } from "./points.js";

const MARGIN = { left: 54, right: 10, top: 8, bottom: 42 };
const ROOM = 0.06; // around the positions, as a share of their extent
const CLICK_PX = 4;
const ZOOM_STEP = 1.5;
const CLOSEST = 4; // spacings across the view at the closest zoom
const WIDEST = 3; // times the whole view
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

export class ScanMap {
  #canvas;
  #context;
  #palette = pointPalette();
  #positions = null;
  #power = null;
  #levels = null;
  #color = "power";
  #behind = null;
  #chosen = -1;
  #members = [];
  #zoom = null; // centre x, y and half the extent that the shorter side shows
  #points = { layer: null, of: "" };
  #waiting = false;
  #drag = null;
  #pointer = null; // where it rests on the canvas
  #pointed = -1;

  /**
   * `onChoose(index, isRepeat)`: a position was chosen here; `onZoom(zoom)`: the view changed;
   * `onEdge(text)`: there is nothing further that way; `onPoint(index)`: the pointer is nearest to
   * a position, -1 if it is elsewhere; `onKey(event)`: any other key, true if it was taken.
   */
  constructor(canvas, { onChoose, onZoom, onEdge, onPoint, onKey }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    Object.assign(this, { onChoose, onZoom, onEdge, onPoint, onKey });
    new ResizeObserver(() => this.redraw()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", () => this.#endDrag());
    canvas.addEventListener("pointerleave", () => this.#forgetPointer());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#keys(event));
  }

  get palette() {
    return this.#palette;
  }

  /** Shows a scan; `power` is one value for each position. */
  setScan(positions, power) {
    this.#positions = positions;
    this.#power = power;
    this.#behind = null;
    this.#chosen = -1;
    this.#members = [];
    this.#levels = null;
    this.setColor(this.#color);
  }

  clear() {
    this.#positions = null;
    this.#forgetPointer();
    this.redraw();
  }

  /** Colours by "power" or "order"; returns the values of the lowest and the highest colour. */
  setColor(color) {
    if (!this.#positions) return null;
    if (this.#levels && color === this.#color) return this.#levels;
    this.#color = color;
    const order = () => Float64Array.from({ length: this.#positions.n }, (_, index) => index);
    this.#levels = levelsOf(color === "power" && this.#power ? this.#power : order());
    this.#points.of = "";
    this.redraw();
    return this.#levels;
  }

  /** Puts a picture of the object (`width` x `height` object pixels) behind the positions. */
  setBehind(image, width, height) {
    const bounds = this.#positions?.bounds;
    const fits = bounds && bounds.x0 >= 0 && bounds.y0 >= 0 && bounds.x1 <= width - 1 && bounds.y1 <= height - 1;
    // The element may stay while its picture changes.
    const of = image && fits ? image.src : null;
    if (of !== (this.#behind?.of ?? null)) {
      this.#behind = of && { image, width, height, of };
      this.#points.of = "";
      this.redraw();
    }
    return this.#behind !== null;
  }

  setChoice(index) {
    const before = this.#chosen;
    this.#chosen = index;
    // What is said of the pointer's position would be taken for the chosen one.
    if (before !== index && this.#pointed !== index) this.#forgetPointer();
    // Whoever moves the map away from the choice, or reloads such a view, means to.
    if (this.#zoom && this.#positions && before >= 0 && before !== index) this.#follow(index);
    this.redraw();
  }

  setMembers(members) {
    this.#members = members;
    this.redraw();
  }

  /** Shows a part, as `[x, y, half extent]` in object pixels; null shows all. */
  setZoom(zoom) {
    this.#keepZoom(zoom);
    this.#point();
    this.redraw();
  }

  zoomBy(factor, x, y) {
    if (!this.#positions) return;
    const [cx, cy, half] = this.#zoom ?? this.#whole();
    const widest = WIDEST * this.#whole()[2];
    const closest = Math.min(CLOSEST * this.#positions.spacing, this.#whole()[2]);
    const kept = Math.min(Math.max(half / factor, closest), widest);
    // What lies under the pointer, or in the middle, stays there.
    const share = 1 - kept / half;
    this.#changeZoom([cx + ((x ?? cx) - cx) * share, cy + ((y ?? cy) - cy) * share, kept]);
  }

  zoomToAll() {
    this.#changeZoom(null);
  }

  /** Where a position lies on the canvas, in CSS pixels. */
  #place(index) {
    const { scale, offsetX, offsetY } = this.#view(1);
    return [offsetX + scale * this.#positions.x(index), offsetY + scale * this.#positions.y(index)];
  }

  redraw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  /** Draw again in other colours. */
  recolor() {
    this.#points.of = "";
    this.redraw();
  }

  /** Says which position is nearest to the pointer, which may rest while the map moves. */
  #point() {
    if (!this.#pointer || !this.#positions) return;
    this.#pointed = this.#positions.nearest(...this.#toObject(this.#pointer));
    this.onPoint(this.#pointed);
  }

  #forgetPointer() {
    this.#pointer = null;
    this.#pointed = -1;
    this.onPoint(-1);
  }

  /** A finger scrolls the page over a map that shows all, and moves one that is zoomed. */
  #keepZoom(zoom) {
    this.#zoom = zoom;
    this.#canvas.classList.toggle("zoomed", zoom !== null);
  }

  #changeZoom(zoom) {
    this.#keepZoom(zoom);
    this.#point();
    this.redraw();
    this.onZoom(zoom);
  }

  #box(ratio) {
    const { clientWidth, clientHeight } = this.#canvas;
    return {
      left: MARGIN.left * ratio,
      top: MARGIN.top * ratio,
      width: Math.max(clientWidth - MARGIN.left - MARGIN.right, 1) * ratio,
      height: Math.max(clientHeight - MARGIN.top - MARGIN.bottom, 1) * ratio,
    };
  }

  #whole() {
    const { x0, x1, y0, y1 } = this.#positions.bounds;
    const { width, height } = this.#box(1);
    const shorter = Math.min(width, height);
    const room = 1 + 2 * ROOM;
    const needed = Math.max(((x1 - x0) * shorter) / width, ((y1 - y0) * shorter) / height);
    return [(x0 + x1) / 2, (y0 + y1) / 2, Math.max((needed * room) / 2, this.#positions.spacing)];
  }

  /** How positions become pixels: offset + scale * position, times `ratio`. */
  #view(ratio) {
    const box = this.#box(ratio);
    const [x, y, half] = this.#zoom ?? this.#whole();
    const scale = Math.min(box.width, box.height) / (2 * half);
    return {
      ...box,
      scale,
      offsetX: box.left + box.width / 2 - scale * x,
      offsetY: box.top + box.height / 2 - scale * y,
    };
  }

  /** Moves a zoomed view so that a position is in it. */
  #follow(index) {
    const view = this.#view(1);
    const [x, y] = this.#place(index);
    const inside = x >= view.left && x <= view.left + view.width && y >= view.top && y <= view.top + view.height;
    if (inside) return;
    this.#changeZoom([this.#positions.x(index), this.#positions.y(index), this.#zoom[2]]);
  }

  #toObject(event) {
    const { scale, offsetX, offsetY } = this.#view(1);
    return [(event.offsetX - offsetX) / scale, (event.offsetY - offsetY) / scale];
  }

  #press(event) {
    if (!this.#positions || event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    const zoom = this.#zoom ?? this.#whole();
    this.#drag = { x: event.offsetX, y: event.offsetY, zoom, moved: false };
  }

  #move(event) {
    if (!this.#positions) return;
    this.#pointer = { offsetX: event.offsetX, offsetY: event.offsetY };
    if (!this.#drag) {
      this.#point();
      return;
    }
    const dx = event.offsetX - this.#drag.x;
    const dy = event.offsetY - this.#drag.y;
    if (!this.#drag.moved && Math.hypot(dx, dy) < CLICK_PX) return;
    this.#drag.moved = true;
    this.#canvas.classList.add("dragged");
    const { scale } = this.#view(1);
    const [x, y, half] = this.#drag.zoom;
    this.#changeZoom([x - dx / scale, y - dy / scale, half]);
  }

  #endDrag() {
    const drag = this.#drag;
    this.#drag = null;
    this.#canvas.classList.remove("dragged");
    return drag;
  }

  #release(event) {
    const drag = this.#endDrag();
    if (!drag || drag.moved || !this.#positions) return;
    const index = this.#positions.nearest(...this.#toObject(event));
    if (index >= 0) this.onChoose(index, false);
  }

  #wheel(event) {
    if (!this.#positions) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoomBy(Math.exp((-event.deltaY * lines) / 400), ...this.#toObject(event));
  }

  #keys(event) {
    if (!this.#positions || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      const index = this.#positions.towards(Math.max(this.#chosen, 0), ...ARROWS[event.key]);
      if (index >= 0) this.onChoose(index, event.repeat);
      else this.onEdge("There is no position further that way.");
    } else if (event.key === "+" || event.key === "=") this.#zoomAtChoice(ZOOM_STEP);
    else if (event.key === "-" || event.key === "_") this.#zoomAtChoice(1 / ZOOM_STEP);
    else if (event.key === "0") this.zoomToAll();
    else if (!this.onKey(event)) return;
    event.preventDefault();
  }

  /** Zooms by buttons and keys keep the choice where it is seen. */
  #zoomAtChoice(factor) {
    const chosen = this.#chosen;
    if (chosen >= 0) this.zoomBy(factor, this.#positions.x(chosen), this.#positions.y(chosen));
    else this.zoomBy(factor);
  }

  zoomIn() {
    this.#zoomAtChoice(ZOOM_STEP);
  }

  zoomOut() {
    this.#zoomAtChoice(1 / ZOOM_STEP);
  }

  #draw() {
    const canvas = this.#canvas;
    const ratio = devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (width === 0 || height === 0) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    if (!this.#positions) return;
    const colors = colorsOf(canvas);
    const view = this.#view(ratio);
    // For whoever drives the page: CSS pixel = offset + scale * position.
    const { scale, offsetX, offsetY } = this.#view(1);
    Object.assign(canvas.dataset, { scale, offsetX, offsetY, chosen: this.#chosen });
    canvas.dataset.members = this.#members.join(",");
    context.save();
    context.beginPath();
    context.rect(view.left, view.top, view.width, view.height);
    context.clip();
    this.#drawPoints(view, ratio, colors);
    this.#drawChoice(view, ratio, colors);
    context.restore();
    this.#drawAxes(view, ratio, colors);
  }

  /** The positions change far less often than what is marked on them. */
  #drawPoints(view, ratio, colors) {
    const { width, height } = this.#canvas;
    const of = JSON.stringify([view, width, height, this.#color]);
    if (this.#points.of !== of) {
      const layer = new OffscreenCanvas(width, height);
      const context = layer.getContext("2d");
      context.fillStyle = colors.plot;
      context.fillRect(view.left, view.top, view.width, view.height);
      this.#drawBehind(context, view);
      const radius = this.#radius(view);
      const halo = this.#behind ? colors.halo : null;
      drawPoints(context, this.#positions, this.#levels.levels, this.#palette, view, radius, halo);
      this.#points = { layer, of };
    }
    this.#context.drawImage(this.#points.layer, 0, 0);
  }

  #radius(view) {
    return pointRadius(this.#positions.spacing, view.scale, this.#behind ? 0.5 : 0.8);
  }

  #drawBehind(context, view) {
    if (!this.#behind) return;
    const { image, width, height } = this.#behind;
    context.globalAlpha = 0.6;
    context.imageSmoothingEnabled = view.scale * width < image.naturalWidth;
    // Object pixel i is centred at coordinate i.
    const left = view.offsetX - 0.5 * view.scale;
    const top = view.offsetY - 0.5 * view.scale;
    context.drawImage(image, left, top, width * view.scale, height * view.scale);
    context.globalAlpha = 1;
  }

  #drawChoice(view, ratio, colors) {
    if (this.#chosen < 0) return;
    const context = this.#context;
    const at = (index) => [
      view.offsetX + view.scale * this.#positions.x(index),
      view.offsetY + view.scale * this.#positions.y(index),
    ];
    const [x, y] = at(this.#chosen);
    const radius = Math.max(this.#radius(view) + 2 * ratio, 4 * ratio);
    const strokes = [[colors.halo, 4.5 * ratio], [colors.group, 2.2 * ratio]];
    for (const [color, width] of strokes) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      for (const member of new Set(this.#members)) {
        const [mx, my] = at(member);
        context.moveTo(x, y);
        context.lineTo(mx, my);
        context.moveTo(mx + radius, my);
        context.arc(mx, my, radius, 0, 2 * Math.PI);
      }
      context.stroke();
    }
    for (const [color, width] of [[colors.halo, 5 * ratio], [colors.choice, 2.5 * ratio]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      drawCross(context, x, y, radius + 3 * ratio, 7 * ratio);
    }
  }

  #drawAxes(view, ratio, colors) {
    const context = this.#context;
    const { left, top, width, height } = view;
    Object.assign(context, { strokeStyle: colors.line, lineWidth: ratio, fillStyle: colors.text });
    context.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    Object.assign(context, { textAlign: "center", textBaseline: "top" });
    for (const { at, label } of ticks((left - view.offsetX) / view.scale, (left + width - view.offsetX) / view.scale, width / ratio / 70)) {
      const x = view.offsetX + view.scale * at;
      context.fillRect(x, top + height, ratio, 4 * ratio);
      context.fillText(label, x, top + height + 7 * ratio);
    }
    context.fillText("x (object pixels)", left + width / 2, top + height + 24 * ratio);
    Object.assign(context, { textAlign: "right", textBaseline: "middle" });
    for (const { at, label } of ticks((top - view.offsetY) / view.scale, (top + height - view.offsetY) / view.scale, height / ratio / 50)) {
      const y = view.offsetY + view.scale * at;
      context.fillRect(left - 4 * ratio, y, 4 * ratio, ratio);
      context.fillText(label, left - 7 * ratio, y);
    }
    context.save();
    context.translate(10 * ratio, top + height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("y (object pixels)", 0, 0);
    context.restore();
  }
}

function colorsOf(canvas) {
  const style = getComputedStyle(canvas);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: named("text"), line: named("line"), plot: named("plot"),
    choice: named("choice"), group: named("group"), halo: named("halo"),
  };
}

/** A ring with four short lines outwards. */
function drawCross(context, x, y, radius, reach) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    context.moveTo(x + radius * dx, y + radius * dy);
    context.lineTo(x + (radius + reach) * dx, y + (radius + reach) * dy);
  }
  context.stroke();
}

/** About `wanted` round numbers from `low` to `high`. */
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) {
    found.push({ at: n * step, label: (n * step + 0).toFixed(digits).replace(/^-0(\.0*)?$/, "0") });
  }
  return found;
}

// Draws the positions: as discs while they are few, as pixels when there are very many.

const MOST_DISCS = 20_000;
const LARGEST_RADIUS = 11;
const SMALLEST_RADIUS = 0.6;

/** The radius of a position in pixels, so that neighbours do not cover each other. */
export function pointRadius(spacing, scale, share) {
  return Math.min(Math.max((share * spacing * scale) / 2, SMALLEST_RADIUS), LARGEST_RADIUS);
}

/**
 * Draws the positions that are seen.
 *
 * `view` has the box in device pixels (`left`, `top`, `width`, `height`) and how positions get
 * there: pixel = offset + scale * position. `radius` is in device pixels. A `halo` sets discs off
 * from a picture behind them; null is none.
 */
export function drawPoints(context, positions, levels, palette, view, radius, halo) {
  const seen = visible(positions, view, radius);
  if (seen.length <= MOST_DISCS) {
    if (halo) fillDiscs(context, positions, seen, view, radius + 1, halo);
    drawDiscs(context, positions, seen, levels, palette, view, radius);
  } else drawPixels(context, positions, seen, levels, palette, view, radius);
}

function visible(positions, view, radius) {
  const { values, n } = positions;
  const margin = radius / view.scale;
  const x0 = (view.left - view.offsetX) / view.scale - margin;
  const x1 = (view.left + view.width - view.offsetX) / view.scale + margin;
  const y0 = (view.top - view.offsetY) / view.scale - margin;
  const y1 = (view.top + view.height - view.offsetY) / view.scale + margin;
  const seen = new Uint32Array(n);
  let found = 0;
  for (let index = 0; index < n; index += 1) {
    const x = values[2 * index];
    const y = values[2 * index + 1];
    if (x >= x0 && x <= x1 && y >= y0 && y <= y1) {
      seen[found] = index;
      found += 1;
    }
  }
  return seen.subarray(0, found);
}

/** One path for each colour: far fewer calls than one for each position. */
function drawDiscs(context, positions, seen, levels, palette, view, radius) {
  const byLevel = Array.from({ length: palette.length / 3 }, () => []);
  for (const index of seen) byLevel[levels[index]].push(index);
  byLevel.forEach((indices, level) => {
    if (indices.length === 0) return;
    const color = `rgb(${palette.subarray(3 * level, 3 * level + 3).join(" ")})`;
    fillDiscs(context, positions, indices, view, radius, color);
  });
}

function fillDiscs(context, positions, indices, view, radius, color) {
  context.fillStyle = color;
  context.beginPath();
  for (const index of indices) {
    const x = view.offsetX + view.scale * positions.values[2 * index];
    const y = view.offsetY + view.scale * positions.values[2 * index + 1];
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }
  context.fill();
}

/** Squares written into an image; where several meet in one pixel, it shows their mean. */
function drawPixels(context, positions, seen, levels, palette, view, radius) {
  const width = Math.round(view.width);
  const height = Math.round(view.height);
  const sums = new Float32Array(width * height);
  const counts = new Uint16Array(width * height);
  const side = Math.max(1, Math.round(2 * radius));
  for (const index of seen) {
    const left = Math.floor(view.offsetX + view.scale * positions.values[2 * index] - view.left - side / 2 + 0.5);
    const top = Math.floor(view.offsetY + view.scale * positions.values[2 * index + 1] - view.top - side / 2 + 0.5);
    for (let y = Math.max(top, 0); y < Math.min(top + side, height); y += 1) {
      for (let x = Math.max(left, 0); x < Math.min(left + side, width); x += 1) {
        const at = y * width + x;
        if (counts[at] === 65_535) continue;
        sums[at] += levels[index];
        counts[at] += 1;
      }
    }
  }
  const image = new ImageData(width, height);
  for (let at = 0; at < counts.length; at += 1) {
    if (counts[at] === 0) continue;
    const level = Math.round(sums[at] / counts[at]);
    image.data[4 * at] = palette[3 * level];
    image.data[4 * at + 1] = palette[3 * level + 1];
    image.data[4 * at + 2] = palette[3 * level + 2];
    image.data[4 * at + 3] = 255;
  }
  // putImageData would overwrite what lies behind.
  const layer = new OffscreenCanvas(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(layer, view.left, view.top);
}

// Colours of the positions, and strips that show which colour is which value.

const LEVELS = 256;
const OUTLIERS = 0.005;
const SAMPLE = 20_000;

/** 256 colours from dark violet over green to light yellow, three bytes each. */
export function pointPalette() {
  const palette = new Uint8Array(3 * LEVELS);
  for (let level = 0; level < LEVELS; level += 1) {
    const share = level / (LEVELS - 1);
    const hue = ((295 - 190 * share) * Math.PI) / 180;
    const chroma = 0.11 + 0.05 * Math.sin(Math.PI * share);
    palette.set(fromOklab(0.34 + 0.52 * share, chroma * Math.cos(hue), chroma * Math.sin(hue)), 3 * level);
  }
  return palette;
}

/** An OKLab colour (Ottosson 2020) as three bytes of sRGB. */
function fromOklab(lightness, a, b) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((value) => {
    const kept = Math.min(Math.max(value, 0), 1);
    return Math.round(255 * (kept <= 0.0031308 ? 12.92 * kept : 1.055 * kept ** (1 / 2.4) - 0.055));
  });
}

/** The colour number of each value, and the limits, which a few outliers do not stretch. */
export function levelsOf(values) {
  const step = Math.ceil(values.length / SAMPLE);
  const sample = Float64Array.from(
    { length: Math.ceil(values.length / step) }, (_, at) => values[at * step],
  ).sort();
  const low = sample[Math.floor(OUTLIERS * (sample.length - 1))];
  const high = sample[Math.ceil((1 - OUTLIERS) * (sample.length - 1))];
  const levels = new Uint8Array(values.length);
  const factor = high > low ? LEVELS / (high - low) : 0;
  for (let at = 0; at < values.length; at += 1) {
    levels[at] = Math.min(Math.max((values[at] - low) * factor, 0), LEVELS - 1);
  }
  return { levels, low, high };
}

/** Draws a palette from its lowest colour to its highest. */
export function drawPalette(canvas, palette) {
  const n = palette ? palette.length / 3 : 1;
  canvas.width = n;
  const context = canvas.getContext("2d");
  const image = context.createImageData(n, 1);
  for (let level = 0; palette && level < n; level += 1) {
    image.data.set([...palette.subarray(3 * level, 3 * level + 3), 255], 4 * level);
  }
  context.putImageData(image, 0, 0);
}

// What is known of a scan, with units.

import { scanPath } from "./api.js";
import { byId, bytes, count, element, length, number } from "./format.js";

/** Fills the panel. */
export function showAbout(id, scan) {
  const facts = byId("facts");
  facts.replaceChildren();
  for (const [name, value] of describe(scan)) {
    facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  byId("arrays").replaceChildren(
    ...Object.entries(scan.arrays).map(([node, array]) =>
      element(
        "tr", {},
        element("th", { scope: "row" }, node), element("td", {}, array.shape.join(" × ") || "one value"),
        element("td", {}, array.dtype), element("td", {}, array.unit),
      ),
    ),
  );
  const url = new URL(scanPath(id, "/zarr"), document.baseURI);
  byId("snippet").textContent = `import ptyzarr\n\nstore = ptyzarr.open_store(\n    "${url}",\n    key="...",\n)`;
}

function describe(scan) {
  const { minimum, maximum, unit } = scan.extent;
  const span = (axis) => `${number(minimum[axis])} to ${number(maximum[axis])}`;
  const times = scan.bytes_logical / scan.bytes_stored;
  // Of very small frames a store is larger than what it holds.
  const ratio = times > 1.05 ? ` (${times.toFixed(1)} times smaller)` : "";
  return [
    ["Frames", `${count(scan.n_frames)} of ${scan.frame_size} × ${scan.frame_size} pixels`],
    ["Holds", `${scan.quantity} as ${scan.dtype}`],
    ["Positions", `x ${span(0)}, y ${span(1)} ${unit}`],
    ...Object.entries(scan.physics).map(([key, fact]) => physical(key, fact)),
    ["Size", `${bytes(scan.bytes_stored)} on disk, ${bytes(scan.bytes_logical)} unpacked${ratio}`],
    ["Order on disk", `${scan.layout}; ${scan.chunk_frames} in a chunk, ${count(scan.shard_frames)} in a shard`],
    ["Source", sourceText(scan.source)],
    ["Made by", scan.created_by],
    ["Digest", scan.digest],
  ];
}

function physical(key, { value, unit }) {
  const name = key.replace(/_(m|ev)$/, "").replaceAll("_", " ");
  const label = name.charAt(0).toUpperCase() + name.slice(1);
  if (typeof value !== "number") return [label, `${value} ${unit}`.trim()];
  if (unit === "m") return [label, length(value)];
  if (unit === "eV" && value >= 1000) return [label, `${number(value / 1000)} keV`];
  return [label, `${number(value)} ${unit}`.trim()];
}

function sourceText({ name, format, size, incomplete }) {
  const cut = incomplete ? ", incomplete" : "";
  return `${name} (${format}${typeof size === "number" ? `, ${bytes(size)}` : ""}${cut})`;
}

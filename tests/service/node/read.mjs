// Reads parts of arrays of a served store with zarrita; prints one JSON object.
// node read.mjs URL KEY '{"name": ["array", [[start, stop], ...] or null]}'
import * as zarr from "zarrita";

const [url, key, wanted] = process.argv.slice(2);
const store = new zarr.FetchStore(url, {
  overrides: { headers: { Authorization: `Bearer ${key}` } },
});
const root = zarr.root(store);
const group = await zarr.open.v3(root, { kind: "group" });
const found = { frames: group.attrs.ptyzarr.frames_digest };
for (const [name, [node, spans]] of Object.entries(JSON.parse(wanted))) {
  const array = await zarr.open.v3(root.resolve(node), { kind: "array" });
  const part = spans === null ? null : spans.map(([start, stop]) => zarr.slice(start, stop));
  const { data, shape } = await zarr.get(array, part);
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  found[name] = { shape, dtype: array.dtype, base64: bytes.toString("base64") };
}
console.log(JSON.stringify(found));

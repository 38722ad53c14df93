// Arrays as NumPy writes them, little-endian and in C order.

const KINDS = {
  f8: Float64Array,
  f4: Float32Array,
  i8: BigInt64Array,
  i4: Int32Array,
  u2: Uint16Array,
  u1: Uint8Array,
};

/** The array in an npy file: `{shape, values}`. */
export function parseNpy(file) {
  const magic = String.fromCharCode(...file.subarray(1, 6));
  if (magic !== "NUMPY") throw new Error("the answer is no npy file");
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const isShort = view.getUint8(6) === 1;
  const start = isShort ? 10 : 12;
  const end = start + (isShort ? view.getUint16(8, true) : view.getUint32(8, true));
  const header = new TextDecoder("latin1").decode(file.subarray(start, end));
  const [, order, kind] = /'descr': *'([<>|])(\w+)'/.exec(header) ?? [];
  const inside = /'shape': *\(([^)]*)\)/.exec(header);
  const Kind = KINDS[kind];
  if (!Kind || !inside || order === ">" || /'fortran_order': *True/.test(header)) {
    throw new Error(`the npy file has an unexpected header: ${header.trim()}`);
  }
  const shape = inside[1].split(",").filter((part) => part.trim()).map(Number);
  const size = shape.reduce((product, length) => product * length, 1);
  // A copy is aligned, whatever the length of the header.
  const body = file.slice(end, end + size * Kind.BYTES_PER_ELEMENT);
  if (body.byteLength !== size * Kind.BYTES_PER_ELEMENT) throw new Error("the npy file is cut short");
  return { shape, values: new Kind(body.buffer) };
}

// The scan positions and the question which of them is nearest.

const PER_CELL = 2;
const MAX_CELLS = 2048;

export class Positions {
  /** `values` is x, y, x, y, ... in object pixels, in acquisition order. */
  constructor(values) {
    this.values = values;
    this.n = values.length / 2;
    this.bounds = boundsOf(values);
    const width = this.bounds.x1 - this.bounds.x0;
    const height = this.bounds.y1 - this.bounds.y0;
    const longest = Math.max(width, height);
    // The positions of a line scan have no area, but they have a spacing.
    const area = Math.max(width * height, (longest * longest) / this.n);
    // One position, or many in one place, have none.
    this.spacing = Math.sqrt(area / this.n) || 1;
    this.#fillCells(width, height);
  }

  x(index) {
    return this.values[2 * index];
  }

  y(index) {
    return this.values[2 * index + 1];
  }

  /** The index of the position nearest to a point; the first of equals. */
  nearest(x, y) {
    const { columns, rows, size } = this;
    const column = clamp(Math.floor((x - this.bounds.x0) / size), columns);
    const row = clamp(Math.floor((y - this.bounds.y0) / size), rows);
    let best = -1;
    let least = Infinity;
    for (let ring = 0; ring <= Math.max(columns, rows); ring += 1) {
      const reach = (ring - 1) * size;
      // Strictly farther: a tie may still hide in the next ring.
      if (best >= 0 && reach > 0 && reach * reach > least) break;
      for (let r = row - ring; r <= row + ring; r += 1) {
        if (r < 0 || r >= rows) continue;
        const step = ring === 0 || Math.abs(r - row) === ring ? 1 : 2 * ring;
        for (let c = column - ring; c <= column + ring; c += step) {
          if (c < 0 || c >= columns) continue;
          const cell = r * columns + c;
          for (let at = this.starts[cell]; at < this.starts[cell + 1]; at += 1) {
            const index = this.members[at];
            const distance = this.#squared(index, x, y);
            if (distance < least || (distance === least && index < best)) {
              best = index;
              least = distance;
            }
          }
        }
      }
    }
    return best;
  }

  /**
   * The nearest position that lies in a direction: right (1, 0), left (-1, 0), down (0, 1) or
   * up (0, -1), within 45 degrees of it; -1 if there is none.
   */
  towards(from, right, down) {
    const x = this.x(from);
    const y = this.y(from);
    let best = -1;
    let least = Infinity;
    for (let index = 0; index < this.n; index += 1) {
      const dx = this.values[2 * index] - x;
      const dy = this.values[2 * index + 1] - y;
      const along = dx * right + dy * down;
      if (!(along > 0) || Math.abs(dx * down) + Math.abs(dy * right) > along) continue;
      const distance = dx * dx + dy * dy;
      if (distance < least) {
        best = index;
        least = distance;
      }
    }
    return best;
  }

  #squared(index, x, y) {
    const dx = this.values[2 * index] - x;
    const dy = this.values[2 * index + 1] - y;
    return dx * dx + dy * dy;
  }

  /** Sorts the indices by the cell of a coarse grid that they lie in. */
  #fillCells(width, height) {
    this.size = Math.max(
      this.spacing * Math.sqrt(PER_CELL), width / MAX_CELLS, height / MAX_CELLS,
    );
    this.columns = Math.floor(width / this.size) + 1;
    this.rows = Math.floor(height / this.size) + 1;
    const cells = new Uint32Array(this.n);
    this.starts = new Uint32Array(this.columns * this.rows + 1);
    for (let index = 0; index < this.n; index += 1) {
      const column = clamp(Math.floor((this.x(index) - this.bounds.x0) / this.size), this.columns);
      const row = clamp(Math.floor((this.y(index) - this.bounds.y0) / this.size), this.rows);
      cells[index] = row * this.columns + column;
      this.starts[cells[index] + 1] += 1;
    }
    for (let cell = 1; cell < this.starts.length; cell += 1) this.starts[cell] += this.starts[cell - 1];
    const next = this.starts.slice();
    this.members = new Uint32Array(this.n);
    for (let index = 0; index < this.n; index += 1) {
      this.members[next[cells[index]]] = index;
      next[cells[index]] += 1;
    }
  }
}

function clamp(value, n) {
  return Math.min(Math.max(value, 0), n - 1);
}

function boundsOf(values) {
  const bounds = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
  for (let at = 0; at < values.length; at += 2) {
    bounds.x0 = Math.min(bounds.x0, values[at]);
    bounds.x1 = Math.max(bounds.x1, values[at]);
    bounds.y0 = Math.min(bounds.y0, values[at + 1]);
    bounds.y1 = Math.max(bounds.y1, values[at + 1]);
  }
  return bounds;
}

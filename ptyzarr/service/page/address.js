// What is seen, and the part of the URL behind the hash that says so.

const whole = (minimum, maximum) => (text) => {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN;
  return value >= minimum && value <= maximum ? value : undefined;
};
const oneOf = (...choices) => (text) => (choices.includes(text) ? text : undefined);
const anyNumber = (text) => {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : undefined;
};
/** A place and a half extent, which is above 0. */
const part = (text) => {
  const values = text.split(",").map(anyNumber);
  return values.length === 3 && !values.includes(undefined) && values[2] > 0 ? values : undefined;
};

/** Name: default, and how its text is read; what cannot be read is the default, see `faultsOf`. */
const FIELDS = {
  scan: [null, (text) => text || undefined],
  frame: [0, whole(0, 2 ** 48)],
  color: ["power", oneOf("power", "order")],
  behind: ["amplitude", oneOf("amplitude", "phase", "none")],
  zoom: [null, part],
  show: ["frame", oneOf("frame", "mean")],
  scale: ["log", oneOf("log", "linear")],
  cmap: ["ember", oneOf("ember", "ocean", "gray")],
  range: ["full", oneOf("full", "percentiles", "values")],
  low: [null, anyNumber],
  high: [null, anyNumber],
  gridsize: [2, whole(1, 64)],
  neighbors: [6, whole(0, 2 ** 20)],
  seed: [0, whole(0, 2 ** 32 - 1)],
  mode: [0, whole(0, 10 ** 6)],
};
const ALWAYS = new Set(["scan", "frame"]);
const QUIET_MS = 200;
const MOST_SAID = 60;

/** The state with nothing chosen. */
export function emptyState() {
  return Object.fromEntries(Object.entries(FIELDS).map(([name, [value]]) => [name, value]));
}

/** The state that a hash stands for. */
export function readHash(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = emptyState();
  for (const [name, [, read]] of Object.entries(FIELDS)) {
    if (given.has(name)) state[name] = read(given.get(name)) ?? state[name];
  }
  return state;
}

/** What cannot be read of a hash, as it stands there. */
export function faultsOf(hash) {
  const given = [...new URLSearchParams(hash.replace(/^#/, ""))];
  const isBad = ([name, text]) => !Object.hasOwn(FIELDS, name) || FIELDS[name][1](text) === undefined;
  return given.filter(isBad).map(([name, text]) => `${name}=${text}`.slice(0, MOST_SAID));
}

/** The hash of a state; defaults are left out. */
export function writeHash(state) {
  if (state.scan === null) return "#";
  const parts = new URLSearchParams();
  for (const [name, [value]] of Object.entries(FIELDS)) {
    if (state[name] === null || (state[name] === value && !ALWAYS.has(name))) continue;
    parts.set(name, String(state[name]));
  }
  return `#${parts}`;
}

/** Keeps the address bar and the state together. */
export class Address {
  #timer = null;
  #waiting = null;

  /** `onChange(state, faults)` is called when the user goes back, forth, or edits the URL. */
  constructor(onChange) {
    const reread = () => {
      this.#drop();
      onChange(readHash(location.hash), faultsOf(location.hash));
    };
    addEventListener("popstate", reread);
    addEventListener("pagehide", () => this.#flush());
  }

  /** A place of its own in the history. */
  push(state) {
    this.#flush();
    const hash = writeHash(state);
    if (hash !== (location.hash || "#")) history.pushState(null, "", hash);
  }

  /** The same place, changed; browsers bound how often, so only the last of many is written. */
  replace(state) {
    this.#waiting = state;
    this.#timer ??= setTimeout(() => this.#flush(), QUIET_MS);
  }

  #flush() {
    const state = this.#waiting;
    this.#drop();
    if (state) history.replaceState(null, "", writeHash(state));
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#waiting = null;
  }
}

// The service: every request with the key, every answer counted, every failure with a reason.

import { parseNpy } from "./npy.js";

const RETRIES = 3;
const LONGEST_WAIT_S = 5;

/** An answer that is no answer: `kind` is "key", "gone" or "refused". */
export class ServiceError extends Error {
  constructor(kind, message, { status = 0, code = "" } = {}) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.code = code;
  }
}

/** Paths are relative to the page, so that it works behind a proxy's prefix too. */
export function scanPath(id, rest = "") {
  return `v1/scans/${encodeURIComponent(id)}${rest}`;
}

export class Service {
  /** `onBytes(n)` is called as bytes come in, `onAnswer()` when any answer does. */
  constructor(onBytes, onAnswer) {
    this.key = null;
    this.onBytes = onBytes;
    this.onAnswer = onAnswer;
  }

  async json(path, options) {
    const { body } = await this.get(path, options);
    return JSON.parse(new TextDecoder().decode(body));
  }

  async npy(path, options) {
    const { body } = await this.get(path, { ...options, accept: "application/x-npy" });
    return parseNpy(body);
  }

  /** A PNG as an object URL, which the caller revokes, with its colours and their limits. */
  async picture(path, options) {
    const { body, headers } = await this.get(path, options);
    return {
      url: URL.createObjectURL(new Blob([body], { type: "image/png" })),
      palette: pngPalette(body),
      low: headerNumber(headers, "X-Ptyzarr-Vmin"),
      high: headerNumber(headers, "X-Ptyzarr-Vmax"),
    };
  }

  /** The bytes and headers of an answer; a busy service is asked again. */
  async get(path, { accept = "*/*", signal } = {}) {
    for (let tried = 0; ; tried += 1) {
      const response = await this.#send(path, accept, signal);
      const body = await this.#read(response, signal);
      this.onAnswer();
      if (response.ok) return { body, headers: response.headers };
      if (response.status !== 503 || tried === RETRIES || !response.headers.has("Retry-After")) {
        throw refusal(response, body);
      }
      const wait = Number(response.headers.get("Retry-After")) || 1;
      await pause(Math.min(wait, LONGEST_WAIT_S), signal);
    }
  }

  async #send(path, accept, signal) {
    const headers = { Accept: accept };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    try {
      return await fetch(new URL(path, document.baseURI), { headers, signal });
    } catch (error) {
      throw lost(error);
    }
  }

  async #read(response, signal) {
    const pieces = [];
    let size = 0;
    try {
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        pieces.push(value);
        size += value.length;
        this.onBytes(value.length);
      }
    } catch (error) {
      throw lost(error);
    }
    signal?.throwIfAborted();
    const whole = new Uint8Array(size);
    let at = 0;
    for (const piece of pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }
}

function lost(error) {
  if (error.name === "AbortError") return error;
  return new ServiceError("gone", "The service does not answer. It may have been stopped, or the network is down.");
}

function refusal(response, body) {
  let told = {};
  try {
    told = JSON.parse(new TextDecoder().decode(body));
  } catch {
    // A proxy in between may answer with anything.
  }
  const facts = { status: response.status, code: told.code ?? "" };
  if (response.status === 401) return new ServiceError("key", "The service does not accept this key.", facts);
  const message = told.message ?? "the service gave no reason";
  return new ServiceError("refused", `${message} (${response.status})`, facts);
}

function headerNumber(headers, name) {
  return headers.has(name) ? Number(headers.get(name)) : null;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** The colours of a palette PNG, three bytes each; null if it has none. */
function pngPalette(png) {
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
  for (let at = 8; at + 12 <= png.length; ) {
    const size = view.getUint32(at);
    const kind = String.fromCharCode(...png.subarray(at + 4, at + 8));
    if (kind === "PLTE") return png.slice(at + 8, at + 8 + size);
    at += 12 + size;
  }
  return null;
}

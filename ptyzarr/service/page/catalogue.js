// The list of scans, damaged ones with their error.

import { emptyState, writeHash } from "./address.js";
import { byId, bytes, count, element } from "./format.js";
import { Latest } from "./pictures.js";

const PAGE = 100;
const AGAIN_MS = 10_000;
/** What the service says of two stores with one id. */
const AMBIGUOUS = "ambiguous";

export class Catalogue {
  #service;
  #latest;
  #scans = [];
  #next = null;
  #total = 0;
  #wanted = PAGE;
  #text = "";

  /** Stores come and go while the service runs, so an open list looks again by itself. */
  constructor(service, { onFailure }) {
    this.#service = service;
    this.#latest = new Latest((error) => onFailure(error, null));
    byId("refresh").addEventListener("click", () => this.load());
    byId("more").addEventListener("click", () => {
      this.#wanted += PAGE;
      this.load();
    });
    byId("find").addEventListener("input", () => this.#draw());
    setInterval(() => {
      if (!byId("catalogue").hidden && !document.hidden) this.load();
    }, AGAIN_MS);
  }

  load() {
    return this.#latest.run(async (signal) => {
      const scans = [];
      let cursor = null;
      let total = 0;
      do {
        const query = new URLSearchParams({ limit: PAGE });
        if (cursor !== null) query.set("cursor", cursor);
        const page = await this.#service.json(`v1/scans?${query}`, { signal });
        scans.push(...page.scans);
        cursor = page.next;
        total = page.n_scans;
      } while (cursor !== null && scans.length < this.#wanted);
      [this.#scans, this.#next, this.#total] = [scans, cursor, total];
      this.#draw();
    });
  }

  #draw() {
    const text = JSON.stringify([this.#scans, byId("find").value]);
    byId("more").hidden = this.#next === null;
    byId("catalogue-count").textContent = this.#countText();
    // Rows that are the same keep the focus.
    if (text === this.#text) return;
    this.#text = text;
    const wanted = byId("find").value.trim().toLowerCase();
    const found = this.#scans.filter((scan) => scan.id.toLowerCase().includes(wanted));
    const focused = document.activeElement?.dataset?.scan;
    byId("scans").replaceChildren(...found.map((scan) => (scan.error ? brokenRow(scan) : row(scan))));
    const empty = byId("catalogue-empty");
    empty.hidden = found.length > 0;
    empty.textContent = this.#scans.length
      ? "No scan has this in its name."
      : "There are no scans yet. ‘ptyzarr ingest’ makes one; it will appear here by itself.";
    for (const link of byId("scans").querySelectorAll("a")) {
      if (focused !== undefined && link.dataset.scan === focused) link.focus();
    }
  }

  #countText() {
    const broken = this.#scans.filter((scan) => scan.error);
    const twice = broken.filter((scan) => scan.error.code === AMBIGUOUS).length;
    const damaged = broken.length - twice;
    const hidden = this.#next === null ? "" : `, the first ${this.#scans.length} shown`;
    return `${count(this.#total)} in all${hidden}${damaged ? `, ${damaged} damaged` : ""}${twice ? `, ${twice} with a name that is there twice` : ""}`;
  }
}

function link(scan) {
  const made = element("a", { href: writeHash({ ...emptyState(), scan: scan.id }) }, scan.id);
  made.dataset.scan = scan.id;
  return element("th", { scope: "row" }, made);
}

function row(scan) {
  const cell = (text, className = "number") => element("td", { className }, text);
  return element(
    "tr", {}, link(scan), cell(count(scan.n_frames)), cell(`${scan.frame_size} × ${scan.frame_size}`),
    cell(scan.quantity, ""), cell(bytes(scan.bytes_stored)), cell(bytes(scan.bytes_logical)),
  );
}

function brokenRow(scan) {
  const mark = element("strong", {}, scan.error.code === AMBIGUOUS ? "There twice: " : "Damaged: ");
  const message = element("td", { className: "error" }, mark, scan.error.message);
  message.colSpan = 5;
  return element("tr", { className: "broken" }, element("th", { scope: "row" }, scan.id), message);
}

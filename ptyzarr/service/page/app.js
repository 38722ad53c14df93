// The page: who may see it, what is seen, and what is said when something fails.

import { Address, emptyState, faultsOf, readHash, writeHash } from "./address.js";
import { Service } from "./api.js";
import { Catalogue } from "./catalogue.js";
import { byId } from "./format.js";
import { ScanView } from "./scanview.js";
import { Traffic } from "./traffic.js";

const KEY = "ptyzarr-key";
const STALE = "The service does not accept this key any more. It may have been started again.";
const WRONG = "The service does not accept this key. Check for missing or extra characters.";
const SECTIONS = ["login", "catalogue", "scan", "failed"];

class Page {
  #traffic = new Traffic();
  #service = new Service(
    (count) => this.#traffic.add(count),
    () => this.#hideLoss(),
  );
  #address = new Address((state, faults) => {
    byId("large").close(); // its picture is of the place before
    this.#tellFaults(state, faults);
    this.#show(state);
  });
  #state = readHash(location.hash);
  #isIn = false;
  #catalogue;
  #scanView;

  constructor() {
    const onFailure = (error, place) => this.#fail(error, place);
    this.#catalogue = new Catalogue(this.#service, { onFailure });
    this.#scanView = new ScanView(this.#service, {
      change: (patch, how) => this.#change(patch, how),
      say: (text) => (byId("status").textContent = text),
      remark: (text) => this.#remark(text),
      onFailure,
      onMissing: (id, error) => this.#showFailed(id, error),
    });
    this.#listen();
  }

  /** Comes in with the key of this tab, or without one where none is needed. */
  async start() {
    this.#tellFaults(this.#state, faultsOf(location.hash));
    this.#service.key = sessionStorage.getItem(KEY);
    await this.#enter(STALE);
  }

  async #enter(whyNot) {
    try {
      await this.#service.get("v1/scans?limit=1");
    } catch (error) {
      if (error.kind === "key") this.#askForKey(this.#service.key ? whyNot : "");
      else this.#fail(error, null);
      return false;
    }
    this.#isIn = true;
    byId("notice").hidden = true;
    byId("sign-out").hidden = this.#service.key === null;
    this.#show(this.#state, { isNew: true });
    return true;
  }

  #askForKey(message) {
    this.#isIn = false;
    this.#service.key = null;
    sessionStorage.removeItem(KEY);
    this.#scanView.clear();
    this.#reveal("login");
    byId("sign-out").hidden = true;
    byId("key").value = "";
    byId("key-error").textContent = message;
    byId("key").setAttribute("aria-invalid", String(message !== ""));
    byId("key").focus();
  }

  async #login() {
    const key = byId("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      byId("key-error").textContent = "A key has letters, digits and signs without blanks; this one has others.";
      return;
    }
    this.#service.key = key;
    const isIn = await this.#enter(WRONG);
    if (!isIn) return;
    sessionStorage.setItem(KEY, key);
    byId("key").value = "";
    (this.#state.scan === null ? byId("catalogue-title") : byId("map")).focus();
  }

  #change(patch, how) {
    this.#state = { ...this.#state, ...patch };
    if (how === "push") this.#address.push(this.#state);
    else this.#address.replace(this.#state);
    if (how === "fix") {
      this.#name();
      return;
    }
    this.#remark("");
    this.#show(this.#state);
  }

  /** Says what of the address cannot be, and puts the address right. */
  #tellFaults(state, faults) {
    const what = faults.length === 1 ? "which cannot be read; the default is" : "which cannot be read; defaults are";
    this.#remark(faults.length ? `The address had ${faults.join(", ")}, ${what} shown instead.` : "");
    if (faults.length) this.#address.replace(state);
  }

  #remark(text) {
    byId("remark").textContent = text;
    byId("remark").hidden = text === "";
  }

  #show(state, { isNew = false } = {}) {
    const isOther = state.scan !== this.#state.scan;
    this.#state = state;
    this.#name();
    if (!this.#isIn) return;
    if (state.scan === null) {
      this.#scanView.clear();
      this.#reveal("catalogue");
      this.#catalogue.load();
      if (isOther) byId("catalogue-title").focus();
      return;
    }
    if (byId("scan").hidden) this.#reveal("scan");
    this.#scanView.show(state, isNew);
    if (isOther) byId("map").focus({ preventScroll: true });
  }

  #showFailed(id, error) {
    this.#scanView.clear();
    this.#reveal("failed");
    byId("failed-title").textContent = error.status === 404 ? `There is no scan ${id}` : `${id} cannot be shown`;
    byId("failed-text").textContent = error.message;
    byId("failed-title").focus();
  }

  /** Puts a failure where it belongs: the login, the notice, or the panel it happened in. */
  #fail(error, place) {
    if (error.kind === "key") {
      this.#askForKey(STALE);
      return;
    }
    if (error.kind === "refused" && place) {
      place.textContent = error.message;
      return;
    }
    byId("notice-text").textContent = error.kind ? error.message : `This page failed: ${error.message}`;
    byId("notice").dataset.kind = error.kind ?? "";
    byId("notice").hidden = false;
  }

  /** What was said of a service that did not answer is over when it does. */
  #hideLoss() {
    if (byId("notice").dataset.kind === "gone") byId("notice").hidden = true;
  }

  #reveal(shown) {
    for (const id of SECTIONS) byId(id).hidden = id !== shown;
    byId("all-scans").hidden = shown === "login" || shown === "catalogue";
  }

  #name() {
    const { scan, frame } = this.#state;
    byId("here").textContent = scan ?? "";
    document.title = scan === null ? "ptyzarr" : `${scan}, frame ${frame} – ptyzarr`;
  }

  #listen() {
    byId("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#login();
    });
    byId("sign-out").addEventListener("click", () => this.#askForKey(""));
    byId("retry").addEventListener("click", () => this.#enter(STALE));
    byId("skip").addEventListener("click", (event) => {
      // The hash of the URL says what is seen.
      event.preventDefault();
      byId("main").focus();
    });
    for (const id of ["home", "all-scans", "failed-back"]) {
      byId(id).href = writeHash(emptyState());
    }
    byId("large-close").addEventListener("click", () => byId("large").close());
    byId("large").addEventListener("click", (event) => {
      if (event.target === byId("large")) byId("large").close();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#scanView.map.recolor();
      this.#traffic.redraw();
    });
    addEventListener("unhandledrejection", (event) => this.#fail(event.reason, null));
    addEventListener("error", (event) => this.#fail(event.error ?? new Error(event.message), null));
  }
}

new Page().start();

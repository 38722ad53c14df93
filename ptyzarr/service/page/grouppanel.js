// The canonical group that was drawn for the chosen position, and the frames of its members.

import { scanPath } from "./api.js";
import { byId, element, wholeNumberFault } from "./format.js";
import { Latest, Shown, pictureQuery } from "./pictures.js";

const MOST_SHOWN = 64;
const THUMBNAIL_PX = 128;
const PATIENCE_MS = 300;
const FIELDS = ["gridsize", "neighbors", "seed"];

export class GroupPanel {
  #service;
  #onMembers;
  #onChoose;
  #latest;
  #thumbnails = [];
  #asked = null;
  #shown = {};

  /**
   * `onMembers(members)`: the members are known; `onChoose(index)`: one of them was chosen;
   * `onOptions(patch)`: groups are to be drawn otherwise.
   */
  constructor(service, { onMembers, onChoose, onOptions, onFailure }) {
    this.#service = service;
    this.#onMembers = onMembers;
    this.#onChoose = onChoose;
    this.#latest = new Latest((error) => {
      this.#empty();
      this.#asked = null;
      onFailure(error, byId("group-error"));
    });
    for (const id of FIELDS) {
      byId(id).addEventListener("change", () => this.#change(id, onOptions));
    }
    byId("group-options").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Shows the group of a state. */
  show(state, scan) {
    this.#shown = state;
    for (const id of FIELDS) byId(id).value = state[id];
    byId("group-title").textContent = `Group of position ${state.frame}`;
    const query = new URLSearchParams({
      gridsize: state.gridsize, n_neighbors: state.neighbors, seed: state.seed, position: state.frame,
    });
    const path = scanPath(state.scan, `/groups?${query}`);
    const asked = `${path} ${pictureQuery(state)} ${scan.digest}`;
    if (asked === this.#asked) return;
    this.#asked = asked;
    byId("group-error").textContent = "";
    this.#latest.run((signal) => this.#load(path, state, scan, signal));
  }

  /** Forgets the scan. */
  clear() {
    this.#latest.cancel();
    this.#asked = null;
    this.#empty();
  }

  async #load(path, state, scan, signal) {
    const found = await this.#ask(path, signal);
    const members = found.members[0] ?? [];
    this.#onMembers(members);
    byId("group-facts").textContent = describe(members, state.frame);
    this.#arrange(members.slice(0, MOST_SHOWN), state.frame);
    const size = Math.min(THUMBNAIL_PX, scan.frame_size);
    const query = pictureQuery(state, size);
    await Promise.all(this.#thumbnails.map((thumbnail) => this.#fill(thumbnail, state.scan, query, signal)));
  }

  /** The first table of a large scan takes the service some seconds. */
  async #ask(path, signal) {
    const timer = setTimeout(() => {
      byId("group-facts").textContent = "The service draws the groups ...";
    }, PATIENCE_MS);
    try {
      return await this.#service.json(path, { signal });
    } finally {
      clearTimeout(timer);
    }
  }

  /** One frame that cannot be read does not hide the others. */
  async #fill({ shown, member }, id, query, signal) {
    try {
      const picture = await this.#service.picture(scanPath(id, `/frames/${member}.png${query}`), { signal });
      await shown.set(picture, `Frame ${member}`);
    } catch (error) {
      if (error.kind !== "refused") throw error;
      shown.clear();
      byId("group-error").textContent = `Frame ${member}: ${error.message}`;
    }
  }

  /** Keeps the elements that are there, so that focus stays where it is. */
  #arrange(members, chosen) {
    const list = byId("members");
    while (this.#thumbnails.length > members.length) {
      const { item, shown } = this.#thumbnails.pop();
      shown.clear();
      item.remove();
    }
    while (this.#thumbnails.length < members.length) {
      const made = this.#makeThumbnail();
      this.#thumbnails.push(made);
      list.append(made.item);
    }
    members.forEach((member, channel) => {
      const thumbnail = this.#thumbnails[channel];
      thumbnail.member = member;
      thumbnail.caption.textContent = member === chosen ? `${member} (this)` : String(member);
      thumbnail.button.setAttribute("aria-label", `Channel ${channel}: go to frame ${member}`);
      thumbnail.button.dataset.member = member;
      thumbnail.item.classList.toggle("chosen", member === chosen);
    });
  }

  #makeThumbnail() {
    const image = element("img", { alt: "" });
    const caption = element("span");
    const button = element("button", { type: "button" }, image, caption);
    const made = { item: element("li", {}, button), button, caption, shown: new Shown(image), member: -1 };
    button.addEventListener("click", () => this.#onChoose(made.member));
    return made;
  }

  #empty() {
    this.#arrange([], -1);
    byId("group-facts").textContent = "";
    this.#onMembers([]);
  }

  #change(id, onOptions) {
    const input = byId(id);
    if (input.value.trim() !== "" && input.checkValidity()) {
      byId("group-error").textContent = "";
      onOptions({ [id]: input.valueAsNumber });
    } else {
      const name = input.closest("label").firstChild.textContent.trim();
      byId("group-error").textContent = wholeNumberFault(input, name, this.#shown[id]);
      input.value = this.#shown[id];
    }
  }
}

function describe(members, position) {
  if (members.length === 0) return `No group is drawn for position ${position}.`;
  const hidden = members.length > MOST_SHOWN ? ` The first ${MOST_SHOWN} are shown.` : "";
  const other = members.includes(position) ? "" : "; the position is not among them";
  return `${members.length} ${members.length === 1 ? "frame" : "frames"}, in channel order${other}.${hidden}`;
}

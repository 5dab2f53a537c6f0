// The requests of the open session, newest first: one card each, changed in place, so that focus and scrolling stay.

import { byId, element, icon, setText } from "./dom.js";
import { describeTable, parseTable, showResult } from "./result.js";

const CARDS_AT_FIRST = 30;
const DETAILS_AT_ONCE = 3;

// status -> what a person reads; the service may know more statuses than this page
const STATUS_WORDS = { pending: "Waiting", in_progress: "Running", done: "Done", error: "Failed" };

const timeFormat = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export const statusWord = (status) => STATUS_WORDS[status] ?? status.replaceAll("_", " ");

/** The cards of one session. `actions`: rate, retry, remove. `load(state, signal)` fetches a request with its response. */
export class RequestList {
  #list = byId("requests");
  #more = byId("more-requests");
  #cards = new Map();
  #details = new Map();
  #texts = new Map();
  #failed = new Set();
  #loading = new Set();
  #limit = CARDS_AT_FIRST;
  #states = [];
  #opened = new Map();
  #tellTitle; #load; #actions; #clockOffset;
  #sights = new IntersectionObserver((entries) => this.#saw(entries), { rootMargin: "200px" });
  #inSight = new Set();
  #abort = new AbortController();

  constructor({ titleOf, load, actions, clockOffset }) {
    this.#tellTitle = titleOf;
    this.#load = load;
    this.#actions = actions;
    this.#clockOffset = clockOffset;
    this.#list.replaceChildren();
    this.#more.onclick = () => { this.#limit += CARDS_AT_FIRST; this.show(this.#states); };
    const ticking = setInterval(() => this.#tick(), 1_000);
    this.#abort.signal.addEventListener("abort", () => clearInterval(ticking));
  }

  /** Remove everything, so that nothing of this session can appear in the next. */
  close() {
    this.#abort.abort();
    this.#sights.disconnect();
    this.#list.replaceChildren();
    this.#more.hidden = true;
    this.#more.onclick = null;
  }

  /** What is known of a request's text without asking for it. */
  learnText(requestId, text) {
    this.#texts.set(requestId, text);
  }

  titleOf(requestId) {
    const text = this.#texts.get(requestId);
    return text ? this.#tellTitle(text) : "";
  }

  /** Show the answer of a request as soon as it has one, without a click. */
  open(requestId) {
    this.#opened.set(requestId, true);
  }

  /** Take over what a call returned: rating, text, response. */
  learn(details) {
    this.#details.set(details.request_id, { ...this.#details.get(details.request_id), ...details });
    this.#refresh(details.request_id);
  }

  show(states) {
    this.#states = states;
    const visible = states.slice(0, this.#limit);
    const ids = new Set(visible.map((state) => state.request_id));
    const focused = document.activeElement;
    for (const [requestId, card] of this.#cards) if (!ids.has(requestId)) this.#drop(requestId, card);
    let before = this.#list.firstElementChild;
    visible.forEach((state, at) => {
      let card = this.#cards.get(state.request_id);
      if (!card) {
        card = new RequestCard(state.request_id, { ...this.#actions, toggle: (open) => this.#toggle(state.request_id, open), reload: () => this.#reload(state.request_id) });
        this.#cards.set(state.request_id, card);
        this.#sights.observe(card.node);
      }
      if (card.state?.version !== state.version) this.#failed.delete(state.request_id);
      card.state = state;
      if (at === 0 && !this.#opened.has(state.request_id)) this.#opened.set(state.request_id, true);
      this.#draw(state.request_id);
      if (card.node === before) before = before.nextElementSibling;
      else this.#list.insertBefore(card.node, before);
    });
    // What was deleted took the focus with it: leave it in the list, not at the top of the page.
    if (focused !== document.activeElement && focused?.closest && !focused.isConnected) (this.#list.querySelector("button") ?? byId("question")).focus();
    const hidden = states.length - visible.length;
    this.#more.hidden = hidden <= 0;
    if (hidden > 0) setText(this.#more, `Show older requests (${hidden} more)`);
    this.#fetchWanted();
  }

  #drop(requestId, card) {
    this.#sights.unobserve(card.node);
    card.node.remove();
    for (const memory of [this.#cards, this.#inSight, this.#failed, this.#details]) memory.delete(requestId);
  }

  #toggle(requestId, open) {
    this.#opened.set(requestId, open);
    this.#refresh(requestId);
  }

  #reload(requestId) {
    this.#failed.delete(requestId);
    this.#refresh(requestId);
    this.#fetchWanted();
  }

  #refresh(requestId) {
    if (this.#cards.has(requestId)) this.#draw(requestId);
  }

  #draw(requestId) {
    const card = this.#cards.get(requestId);
    const details = this.#details.get(requestId);
    const text = details?.request ?? this.#texts.get(requestId);
    card.draw({
      text,
      title: text ? this.#tellTitle(text) : "",
      details: details && details.version >= card.state.version ? details : null,
      rating: details?.rating ?? null,
      failed: this.#failed.has(requestId),
      open: this.#opened.get(requestId) ?? false,
    });
    card.tick(this.#clockOffset() ?? 0);
  }

  /** Every title anew: the catalogue came. */
  redraw() {
    for (const requestId of this.#cards.keys()) this.#draw(requestId);
  }

  #tick() {
    const offset = this.#clockOffset() ?? 0;
    for (const card of this.#cards.values()) card.tick(offset);
  }

  #saw(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#inSight.add(target.dataset.requestId);
      else this.#inSight.delete(target.dataset.requestId);
    }
    this.#fetchWanted();
  }

  /** Ask only for what somebody may be looking at: the text of a request, and the response of a finished one. */
  #wants(card, requestId) {
    if (this.#failed.has(requestId) || this.#loading.has(requestId)) return false;
    const details = this.#details.get(requestId);
    const text = details?.request ?? this.#texts.get(requestId);
    return !text || (card.state.terminal && !(details?.version >= card.state.version));
  }

  #fetchWanted() {
    for (const [requestId, card] of this.#cards) {
      if (this.#loading.size >= DETAILS_AT_ONCE) return;
      if (this.#inSight.has(requestId) && this.#wants(card, requestId)) this.#fetch(requestId, card.state);
    }
  }

  async #fetch(requestId, state) {
    this.#loading.add(requestId);
    const signal = this.#abort.signal;
    try {
      const details = await this.#load(state, signal);
      if (signal.aborted) return;
      // A replica or a race may answer with what was; ask again in a moment rather than in a loop.
      if (details.version < state.version) await new Promise((resume) => { setTimeout(resume, 300); });
      if (signal.aborted) return;
      this.#texts.set(requestId, details.request);
      if (this.#cards.has(requestId)) this.#details.set(requestId, details);
    } catch (error) {
      if (signal.aborted) return;
      this.#failed.add(requestId);
      const mayPass = [0, 429, 503].includes(error.status);
      if (mayPass) setTimeout(() => { if (!signal.aborted) this.#reload(requestId); }, Math.max(3_000, error.retryAfterMs ?? 0));
    } finally {
      this.#loading.delete(requestId);
    }
    this.#refresh(requestId);
    this.#fetchWanted();
  }
}

class RequestCard {
  state;
  #drawn = "";
  #body = element("div", { class: "body" });
  #chip = element("span", { class: "chip" });
  #title = element("h3");
  #text = element("code", { class: "text" });
  #meta = element("p", { class: "meta" });
  #toggle; #up; #down; #retry; #remove;
  #shown = "";

  constructor(requestId, { rate, retry, remove, toggle, reload }) {
    const bodyId = `body-${requestId}`;
    this.#body.id = bodyId;
    this.#title.id = `title-${requestId}`;
    this.reload = reload;
    this.#toggle = element("button", { type: "button", class: "button quiet small toggle", "aria-controls": bodyId, on: { click: () => toggle(this.#toggle.getAttribute("aria-expanded") !== "true") } }, icon("chevron"), element("span"));
    const action = (name, label, run) => element("button", { type: "button", class: "button quiet small icon-button", title: label, "data-action": name, on: { click: () => run(this.state, this.#title.textContent) } }, icon(name === "rate-up" ? "up" : name === "rate-down" ? "down" : name));
    this.#up = action("rate-up", "Good answer", (state) => rate(state, this.#up.getAttribute("aria-pressed") === "true" ? null : 1));
    this.#down = action("rate-down", "Poor answer", (state) => rate(state, this.#down.getAttribute("aria-pressed") === "true" ? null : -1));
    this.#retry = action("retry", "Run again", retry);
    this.#remove = action("remove", "Delete", remove);
    this.#retry.append(element("span", {}, "Run again"));
    this.node = element("li", { class: "request card", "data-request-id": requestId },
      element("article", { "aria-labelledby": this.#title.id },
        element("header", {}, element("div", { class: "names" }, this.#title, this.#text), this.#chip),
        this.#body,
        element("footer", {}, this.#meta, element("div", { class: "actions" }, this.#toggle, this.#up, this.#down, this.#retry, this.#remove))));
  }

  draw({ text, title, details, rating, failed, open }) {
    const { status, terminal, sequence_number: number, version, updated_at: updatedAt } = this.state;
    const drawn = JSON.stringify([version, status, text, title, Boolean(details), rating, failed, open]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.node.dataset.status = status;
    setText(this.#title, title || `Request ${number}`);
    setText(this.#text, text ?? "");
    this.#text.hidden = !text || text === title;
    this.#chip.replaceChildren(icon(status), statusWord(status));

    const table = details?.response ? parseTable(details.response) : null;
    const instant = new Date(updatedAt * 1_000);
    const isToday = instant.toDateString() === new Date().toDateString();
    const time = element("time", { datetime: instant.toISOString() }, (isToday ? timeFormat : dayFormat).format(instant));
    this.#meta.replaceChildren(`No. ${number} · `, time, ...(table ? [` · ${describeTable(table)}`] : []), element("span", { class: "elapsed" }));

    const name = title || `request ${number}`;
    for (const [button, label] of [[this.#up, "Good answer"], [this.#down, "Poor answer"], [this.#retry, "Run again"], [this.#remove, "Delete"]]) {
      button.setAttribute("aria-label", `${label}: ${name}, no. ${number}`);
    }
    const hasBody = terminal;
    this.#toggle.hidden = !hasBody;
    this.#toggle.setAttribute("aria-expanded", String(open));
    setText(this.#toggle.lastElementChild, open ? "Hide" : "Show");
    this.#toggle.setAttribute("aria-label", `${open ? "Hide" : "Show"} ${status === "error" ? "error" : "answer"}: ${name}, no. ${number}`);
    this.#retry.hidden = !terminal;
    this.#up.hidden = this.#down.hidden = status !== "done";
    this.#up.setAttribute("aria-pressed", String(rating > 0));
    this.#down.setAttribute("aria-pressed", String(rating < 0));
    this.#drawBody({ details, failed, open, name });
  }

  #drawBody({ details, failed, open, name }) {
    const { status, terminal, version } = this.state;
    // The table is built once per version: scrolling and the chart's choice survive a rating.
    const shown = JSON.stringify([version, Boolean(details), failed && !details, name]);
    this.#body.hidden = terminal && !open;
    if (this.#body.hidden || shown === this.#shown) return;
    this.#shown = shown;
    if (!terminal) {
      this.#body.replaceChildren(element("div", { class: "progress", role: "presentation" }, element("span")));
    } else if (details?.error) {
      this.#body.replaceChildren(element("p", { class: "failure" }, element("strong", {}, "This did not work. "), details.error));
    } else if (details && (details.response ?? "") !== "") {
      this.#body.replaceChildren(showResult(details.response, name));
    } else if (details) {
      this.#body.replaceChildren(element("p", { class: "hint" }, status === "error" ? "It failed without saying why. Run it again; if it keeps failing, ask another question." : "There is no answer text."));
    } else if (failed) {
      this.#body.replaceChildren(element("p", { class: "hint" }, "The answer is ready, but could not be fetched. "), element("button", { type: "button", class: "button small", on: { click: () => this.reload() } }, "Fetch it again"));
    } else {
      this.#body.replaceChildren(element("div", { class: "skeleton", "aria-hidden": "true" }, element("span"), element("span"), element("span")));
    }
  }

  tick(clockOffsetMs) {
    const place = this.#meta.querySelector(".elapsed");
    if (!place) return;
    const elapsedMs = Date.now() + clockOffsetMs - this.state.updated_at * 1_000;
    setText(place, this.state.status === "in_progress" && elapsedMs >= 1_000 ? ` · running for ${Math.floor(elapsedMs / 1_000)} s` : "");
  }
}

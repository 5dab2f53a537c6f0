// The page: signs in, shows the sessions, and joins the open one's live store to what is on the screen.

import { Api, idempotencyKey, recall, remember } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { QuestionForm } from "./form.js";
import { LiveSession } from "./live.js";
import { RequestList, statusWord } from "./requests.js";
import { describeMs } from "./result.js";

const TRANSPORT_CHOICE = "rowcast-transport";
const FIRST_QUESTIONS = ["sales_by_month", "every_pair", "broken"];      // a quick one, a slow one, one that fails
const NOTE_AFTER_MS = 800;
const ANNOUNCE_AFTER_MS = 1_500;
const SESSIONS_STALE_AFTER_MS = 30_000;
const CONFIG_STALE_AFTER_MS = 30_000;

const api = new Api();
let config = { transport: "sse", fallback: true };
let configReadAt = 0;
let sessions = [];
let olderSessions = null;         // where the next page of sessions starts
let sessionsReadAt = 0;
let open = null;                  // { id, live, list }: the one session on the screen
let leaving = null;               // id of the session that is being deleted here, so that its end is no news
let submission = null;            // { sessionId, text, key }: kept until it succeeded, so that trying again cannot ask twice
const askedAt = new Map();

const form = new QuestionForm({ onAsk: ask, onChange: () => { submission = null; } });

// ── the session on the screen ──

function openSession(id) {
  if (open?.id === id) return;
  closeSession();
  form.say("");
  if (id) {
    const here = { id };
    const stillHere = (run) => (...all) => { if (open === here) run(...all); };
    here.list = new RequestList({
      titleOf: (text) => form.titleOf(text),
      load: (state, signal) => api.request(id, state.sequence_number, { signal }),
      actions: { rate, retry, remove: removeRequest },
      clockOffset: () => here.live?.clockOffsetMs,
    });
    open = here;
    here.live = new LiveSession({
      api, sessionId: id, preference: byId("transport").value, measures: config.track_metrics !== false,
      report: {
        changed: stillHere(showSoon),
        status: stillHere(showStatus),
        applied: stillHere(tellUpdate),
        lag: stillHere((ms) => showLag(ms, "update", "Time from the change in the database to this page, for the last update")),
        gone: stillHere(sessionGone),
      },
    });
  } else {
    showStatus({ state: "live", transport: "none", idle: true });
  }
  showSessions();
  showNow();
}

function closeSession() {
  open?.live.stop();
  open?.list.close();
  open = null;
  submission = null;
  askedAt.clear();
  byId("lag").hidden = true;
}

let showing = 0;
function showSoon() {
  // Not animation frames: they stop in hidden tabs, and the title is to change there too.
  showing ||= setTimeout(showNow, 16);
}

function showNow() {
  clearTimeout(showing);
  showing = 0;
  const states = open ? [...open.live.requests].reverse() : [];
  open?.list.show(states);
  const underWay = states.filter((state) => !state.terminal).length;
  setText(byId("request-count"), states.length ? `${states.length} in this session${underWay ? `, ${underWay} under way` : ""}` : "");
  showEmpty(states.length === 0);
  document.title = [underWay ? `(${underWay}) ` : "", open ? `${nameOf(currentSession())} – ` : "", "Rowcast"].join("");
}

function showEmpty(isEmpty) {
  const place = byId("empty");
  place.hidden = !isEmpty;
  const picks = FIRST_QUESTIONS.filter((name) => form.has(name));
  const kind = `${open ? "session" : "start"} ${picks}`;
  if (!isEmpty || place.dataset.kind === kind) return;
  place.dataset.kind = kind;
  place.replaceChildren(
    element("h3", {}, open ? "Nothing asked yet" : "Ask your first question"),
    element("p", {}, open
      ? "Choose a question above and press Ask. Its answer appears here the moment it is committed to the database."
      : "Choose a question above and press Ask. A session is made for you, and the answer appears here by itself."),
    element("div", { class: "picks" }, ...picks.map((name) => element("button", { type: "button", class: "button small", on: { click: () => form.choose(name) } }, form.titleOf(name)))));
}

function sessionGone() {
  const { id, live } = open;
  if (id === leaving) return;
  live.stop();
  sessions = sessions.filter((session) => session.session_id !== id);
  say("This session was deleted, perhaps in another window.");
  goTo(sessions[0]?.session_id ?? null, { replace: true });
}

function tellUpdate(state) {
  const since = askedAt.get(state.request_id);
  if (since !== undefined && state.terminal) {
    // A stream's own lag is told apart; a poll knows only when the answer came.
    if (byId("connection-state").dataset.transport !== "stream") showLag(performance.now() - since, "answer", "Time from pressing Ask to the answer on this page");
    askedAt.delete(state.request_id);
    const title = open.list.titleOf(state.request_id) || `Request ${state.sequence_number}`;
    announce(`${title}: ${statusWord(state.status)}`);
  }
}

function showLag(ms, kind, explanation) {
  const lag = byId("lag");
  lag.hidden = false;
  lag.title = explanation;
  lag.dataset.lagMs = String(Math.round(ms));
  setText(lag, `Last ${kind}: ${describeMs(Math.max(1, ms))}`);      // two clocks are compared: less than 1 ms cannot be told
}

// ── the connection, in words ──

const STATE_WORDS = {
  live: () => "Live",
  "catching-up": ({ everSynced }) => (everSynced ? "Catching up" : "Connecting…"),
  reconnecting: () => "Reconnecting…",
  polling: () => "Polling",
  offline: () => "Offline",
};

const NOTES = {
  reconnecting: () => "The connection was lost. Trying again; whatever happens meanwhile is fetched afterwards.",
  "catching-up": ({ reason }) => (reason === "degraded"
    ? "The service has lost touch with its database. Updates go on by themselves when it is back."
    : ""),
  offline: () => "Your device has no network. Updates go on by themselves when it is back.",
  polling: ({ reason }) => (["switched_off", "sent_to_poll", "busy"].includes(reason)
    ? "The service asked this page to poll for now."
    : "Something between this page and the service blocks the stream, so the page asks for news instead."),
};

let noteTimer = 0;
let announceTimer = 0;
let announcedState = "live";

function showStatus(status) {
  const place = byId("connection-state");
  const words = status.idle ? "Ready" : STATE_WORDS[status.state](status);
  place.dataset.state = status.state;
  place.dataset.transport = status.transport;
  setText(byId("connection-words"), words);

  const chosenPolling = status.state === "polling" && !status.reason;
  const note = chosenPolling ? "" : NOTES[status.state]?.(status) ?? "";
  const box = byId("connection-note");
  box.dataset.state = status.state;
  byId("reconnect").hidden = status.state === "polling";
  setText(byId("connection-note-words"), note);
  // A gap of a moment is no news: the chip shows it, the page does not jump.
  if (note && box.hidden) noteTimer ||= setTimeout(() => { box.hidden = false; }, NOTE_AFTER_MS);
  else if (!note) {
    clearTimeout(noteTimer);
    noteTimer = 0;
    box.hidden = true;
  }

  clearTimeout(announceTimer);
  if (status.state !== announcedState && status.state !== "catching-up") {
    announceTimer = setTimeout(() => { announcedState = status.state; announce(`Connection: ${words}`); }, ANNOUNCE_AFTER_MS);
  }
}

function announce(words) {
  byId("announcer").textContent = words;
}

function say(words) {
  setText(byId("notice-words"), words);
  byId("notice").hidden = !words;
}

// ── what a person does ──

const underWay = new Set();

/** Run at most one call of each name at a time, so that a double click does one thing. */
async function once(name, run) {
  if (underWay.has(name)) return;
  underWay.add(name);
  try {
    say("");
    await run();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  } finally {
    underWay.delete(name);
  }
}

async function ask(text) {
  const clickedAt = performance.now();
  if (!open) await addSession();
  const here = open;
  if (submission?.text !== text || submission.sessionId !== here.id) submission = { sessionId: here.id, text, key: idempotencyKey() };
  let asked;
  try {
    asked = await api.ask(here.id, text, submission.key);
  } catch (error) {
    if (error.status !== 404 || open !== here) throw error;
    return sessionGone();
  }
  submission = null;
  if (open !== here) return;
  askedAt.set(asked.request_id, clickedAt);
  here.list.learnText(asked.request_id, text);
  here.list.open(asked.request_id);
  const known = here.live.get(asked.request_id);
  if (known?.terminal) tellUpdate(known);
  here.live.nudge();
  showNow();
}

const rate = (state, rating) => once(`rate ${state.request_id}`, async () => {
  const here = open;
  await api.changeRequest(state.request_id, { rating });
  here.list.learn({ request_id: state.request_id, rating });
});

const retry = (state) => once(`change ${state.request_id}`, async () => {
  const here = open;
  askedAt.set(state.request_id, performance.now());
  here.list.open(state.request_id);
  await api.changeRequest(state.request_id, { retry: true });
  here.live.nudge();
});

const removeRequest = (state, title) => once(`change ${state.request_id}`, async () => {
  const here = open;
  const words = state.terminal ? "Its answer is deleted with it." : "It is still under way; its answer will not come.";
  if (!(await confirm(`Delete “${title}”?`, words))) return;
  await api.deleteRequest(state.request_id);
  here.live.nudge();
});

async function addSession() {
  const session = await api.createSession(nextName());
  sessions = [session, ...sessions];
  goTo(session.session_id);
}

function nextName() {
  const numbers = sessions.map(({ name }) => Number(/^Session (\d+)$/.exec(name ?? "")?.[1] ?? 0));
  return `Session ${Math.max(0, ...numbers) + 1}`;
}

byId("new-session").addEventListener("click", () => once("new session", async () => {
  await addSession();
  form.focus();
}));

byId("rename-session").addEventListener("click", () => {
  byId("rename-input").value = currentSession()?.name ?? "";
  byId("rename-dialog").showModal();
  byId("rename-input").select();
});

byId("rename-form").addEventListener("submit", () => once("rename", async () => {
  const session = currentSession();
  const name = byId("rename-input").value.trim();
  if (!session || !name || name === session.name) return;
  Object.assign(session, await api.renameSession(session.session_id, name), { name });
  showSessions();
  showNow();
}));

byId("delete-session").addEventListener("click", () => once("delete session", async () => {
  const session = currentSession();
  if (!session || !(await confirm(`Delete “${nameOf(session)}”?`, "Its requests and their answers are deleted with it. This cannot be undone."))) return;
  const next = sessions[sessions.indexOf(session) + 1] ?? sessions[sessions.indexOf(session) - 1];
  leaving = session.session_id;
  try {
    await api.deleteSession(session.session_id);
  } catch (error) {
    if (error.status !== 404) throw error;
  } finally {
    leaving = null;
  }
  sessions = sessions.filter((each) => each.session_id !== session.session_id);
  if (open?.id === session.session_id || !open) goTo(next?.session_id ?? null, { replace: true });
  else showSessions();
}));

for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
byId("dismiss").addEventListener("click", () => say(""));
byId("reconnect").addEventListener("click", () => { if (open) open.live.reconnect(); else start(); });

function confirm(question, words) {
  const dialog = byId("confirm-dialog");
  setText(byId("confirm-heading"), question);
  setText(byId("confirm-words"), words);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

byId("transport").addEventListener("change", ({ target }) => {
  remember(TRANSPORT_CHOICE, target.value);
  open?.live.setPreference(target.value);
});

// ── the sessions ──

const currentSession = () => sessions.find((session) => session.session_id === open?.id);
const nameOf = (session) => session?.name || "Untitled session";

async function readSessions({ older = false } = {}) {
  const body = await api.call("GET", older && olderSessions ? `session?after=${encodeURIComponent(olderSessions)}` : "session");
  const known = new Set(body.sessions.map((session) => session.session_id));
  sessions = older ? [...sessions.filter((session) => !known.has(session.session_id)), ...body.sessions] : body.sessions;
  olderSessions = body.next ?? null;
  sessionsReadAt = Date.now();
}

function showSessions() {
  const list = byId("session-list");
  const focusedId = list.contains(document.activeElement) ? document.activeElement.dataset.sessionId : null;
  const items = sessions.map((session) => element("li", {},
    element("a", { href: addressOf(session.session_id), "data-session-id": session.session_id, "aria-current": session.session_id === open?.id && "page" }, nameOf(session))));
  list.replaceChildren(...(items.length ? items : [element("li", { class: "hint" }, "No sessions yet.")]));
  if (focusedId) list.querySelector(`[data-session-id="${CSS.escape(focusedId)}"]`)?.focus();

  const select = byId("session-select");
  select.replaceChildren(...sessions.map((session) => element("option", { value: session.session_id, selected: session.session_id === open?.id }, nameOf(session))));
  if (!sessions.length) select.append(element("option", { value: "" }, "No sessions yet"));
  select.disabled = !sessions.length;

  setText(byId("session-name"), open ? nameOf(currentSession()) : "Welcome");
  byId("session-actions").hidden = !open || !currentSession();
  byId("more-sessions").hidden = !olderSessions;
}

byId("session-select").addEventListener("change", ({ target }) => { if (target.value) goTo(target.value); });
byId("more-sessions").addEventListener("click", () => once("more sessions", async () => {
  await readSessions({ older: true });
  showSessions();
}));

const addressOf = (id) => (id ? `#session=${id}` : location.pathname + location.search);
const idInAddress = () => /^#session=([\w-]+)$/.exec(location.hash)?.[1] ?? null;

function goTo(id, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", addressOf(id));
  openSession(id);
}

/** The address names the session; one that is not in the list may be on an older page, and the server knows. */
async function follow() {
  const id = idInAddress();
  if (id && !sessions.some((session) => session.session_id === id)) {
    try {
      sessions = [...sessions, await api.call("GET", `session/${id}`)];
    } catch (error) {
      say(error.status === 404 ? "The session in the address does not exist, or is not yours." : error.message);
      return goTo(sessions[0]?.session_id ?? null, { replace: true });
    }
  }
  if (id) openSession(id);
  else goTo(sessions[0]?.session_id ?? null, { replace: true });
}

window.addEventListener("popstate", () => { follow(); });

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !sessionsReadAt || olderSessions || Date.now() - sessionsReadAt < SESSIONS_STALE_AFTER_MS) return;
  readSessions().then(showSessions, () => {});
  if (Date.now() - configReadAt > CONFIG_STALE_AFTER_MS) readConfig().catch(() => {});
});

// ── the start ──

async function readConfig() {
  config = await api.config();
  configReadAt = Date.now();
}

async function readQuestions() {
  try {
    form.offer(await api.questions());
    open?.list.redraw();
    showSoon();
  } catch (error) {
    form.say(`The questions could not be loaded. ${error.message}`);
    setTimeout(readQuestions, 5_000);
  }
}

api.onNewGuest = () => {
  say("Your guest visit had ended, so a new one has begun. Earlier sessions belong to the earlier visit.");
  if (sessionsReadAt) readSessions().then(() => { showSessions(); return follow(); }, () => {});
};

let starting = false;
async function start() {
  if (starting) return;
  starting = true;
  try {
    await api.signIn();
    readQuestions();
    // Without the configuration the page works with its defaults.
    await Promise.all([readSessions(), readConfig().catch(() => {})]);
    await follow();
  } catch (error) {
    showStatus({ state: navigator.onLine === false ? "offline" : "reconnecting", transport: "none", nextTrySeconds: 3 });
    if (error.status === 401 || error.status === 404) say("Guests are not let in here. Sign in to the service first, then reload this page.");
    else setTimeout(start, Math.max(3_000, error.retryAfterMs ?? 0));
  } finally {
    starting = false;
  }
}

const choice = recall(TRANSPORT_CHOICE);
if (["auto", "stream", "poll"].includes(choice)) byId("transport").value = choice;
start();

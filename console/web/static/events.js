// The page of audits: new ones appear by themselves, a row opens to all its
// fields, and the filters answer at once.
import { localInput, localize } from "./app.js";

const path = "/monitor/events";
const maxRows = 500; // the oldest are left to "Older audits"

const rows = document.getElementById("rows");
const form = document.getElementById("filters");
const live = document.getElementById("live");
const state = document.getElementById("live-state");
const pause = document.getElementById("pause");
const told = document.getElementById("told");
const older = document.getElementById("older");

// query is what the page's address asks for: it is what the server answered.
const query = new URLSearchParams(location.search);
query.delete("done");

// Filters

const fields = Object.fromEntries(["text", "type", "effect", "app", "range", "from", "to"].map((id) => [id, document.getElementById(`f-${id}`)]));
for (const field of [fields.from, fields.to]) { // their values are UTC
  const utc = field.dataset.utc;
  const d = new Date(/(Z|[+-]\d\d:\d\d)$/.test(utc) ? utc : `${utc}Z`);
  if (utc && !Number.isNaN(d.getTime())) field.value = localInput(d);
}
for (const field of Object.values(fields)) field.classList.toggle("set", field.value !== "");

function filter() {
  const next = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (value === "" || (key === "from" || key === "to")) continue;
    next.append(key, value);
  }
  if (fields.range.value === "custom") {
    for (const field of [fields.from, fields.to]) {
      if (field.value) next.set(field.name, new Date(field.value).toISOString());
    }
  }
  sessionStorage.setItem("focus", document.activeElement?.id ?? "");
  location.assign(`${path}?${next}`);
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  filter();
});
form.addEventListener("change", (event) => {
  if (event.target === fields.text) return; // Enter, or its cross
  document.getElementById("between").hidden = fields.range.value !== "custom";
  if (event.target === fields.range && fields.range.value === "custom") fields.from.focus();
  else filter();
});
fields.text.addEventListener("search", () => { // its cross, in some browsers
  if (fields.text.value === "" && query.has("text")) filter();
});
const focus = sessionStorage.getItem("focus");
sessionStorage.removeItem("focus");
if (focus) document.getElementById(focus)?.focus();

// Rows

const parse = (html) => new DOMParser().parseFromString(`<table><tbody>${html}</tbody></table>`, "text/html");
const events = (root) => [...root.querySelectorAll("tr.event")];
const cursor = (row) => BigInt(row.dataset.cursor);
const find = (id) => rows.querySelector(`tr.event[data-id="${CSS.escape(id)}"]`);
const detailOf = (row) => (row.nextElementSibling?.classList.contains("detail-row") ? row.nextElementSibling : null);

function shown() {
  const some = rows.firstElementChild !== null;
  document.getElementById("events").hidden = !some;
  const none = document.getElementById("none");
  if (none) none.hidden = some;
  document.getElementById("more").hidden = rows.dataset.older === "";
  if (rows.dataset.older) {
    const next = new URLSearchParams(query);
    next.set("before", rows.dataset.older);
    older.href = `${path}?${next}`;
  }
}

function remove(row) {
  detailOf(row)?.remove();
  row.remove();
}

// insert puts new rows where their time says. It returns how many were new.
function insert(fresh) {
  let n = 0;
  for (const row of fresh) {
    if (find(row.dataset.id)) continue;
    const after = events(rows).find((r) => cursor(r) < cursor(row));
    if (!after && rows.dataset.older !== "") continue; // it is of a later page
    row.classList.add("fresh");
    if (after) after.before(row);
    else rows.append(row);
    n++;
  }
  const all = events(rows);
  if (all.length > maxRows) {
    for (const row of all.slice(maxRows)) remove(row);
    rows.dataset.older = all[maxRows - 1].dataset.cursor;
  }
  localize(rows);
  shown();
  return n;
}

async function rowsOf(parameters) {
  const response = await fetch(`${path}/rows?${parameters}`);
  if (response.status === 401) location.reload(); // leads to signing in
  if (!response.ok) throw new Error(`rows: ${response.status}`);
  return new DOMParser().parseFromString(await response.text(), "text/html").querySelector("tbody");
}

// refresh reads the first page again: what was missed is there. Rows that are
// open stay so.
async function refresh() {
  const page = await rowsOf(query);
  const next = events(page);
  let end = rows.dataset.older;
  if (!next.some((row) => find(row.dataset.id))) {
    if (page.dataset.older !== "") rows.replaceChildren(); // more than a page was missed
    end = page.dataset.older;
    rows.dataset.older = "";
  }
  const n = insert(next);
  if (rows.dataset.older === "") rows.dataset.older = end;
  shown();
  tell(n);
}

let newRows = 0;
let telling;
function tell(n) { // for who listens; not one by one
  newRows += n;
  if (n === 0 || telling) return;
  telling = setTimeout(() => {
    told.textContent = newRows === 1 ? "1 new audit" : `${newRows} new audits`;
    newRows = 0;
    telling = undefined;
  }, 3000);
}

older.addEventListener("click", async (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const next = new URLSearchParams(query);
  next.set("before", rows.dataset.older);
  try {
    const page = await rowsOf(next);
    const first = page.querySelector("tr.event .msg");
    rows.dataset.older = page.dataset.older;
    for (const row of events(page)) if (!find(row.dataset.id)) rows.append(row);
    localize(rows);
    shown();
    first?.focus({ preventScroll: true });
  } catch {
    location.assign(older.href);
  }
});

async function toggle(row) {
  const button = row.querySelector(".expand");
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", open);
  row.classList.toggle("open", open);
  let detail = detailOf(row);
  if (detail) {
    detail.hidden = !open;
    return;
  }
  detail = document.createElement("tr");
  detail.className = "detail-row";
  detail.id = button.getAttribute("aria-controls");
  const cell = detail.insertCell();
  cell.colSpan = 5;
  row.after(detail);
  const response = await fetch(`${path}/detail?${new URLSearchParams({ id: row.dataset.id })}`).catch(() => null);
  if (response?.status === 401) location.reload();
  if (!response?.ok) {
    cell.textContent = "This audit could not be read.";
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  cell.replaceChildren(...page.body.childNodes);
}

rows.addEventListener("click", (event) => {
  const row = event.target.closest("tr.event");
  if (!row || event.ctrlKey || event.metaKey || event.shiftKey || getSelection().toString()) return;
  if (event.target.closest("a")?.classList.contains("msg")) event.preventDefault();
  else if (event.target.closest("a")) return;
  toggle(row);
});

// Live

let source;
let paused = false;
let waiting = 0;

function say(name, text) {
  live.dataset.state = name;
  state.textContent = text;
}

function connect() {
  source?.close();
  source = new EventSource(`${path}/stream?${query}`);
  source.addEventListener("ready", () => {
    if (paused) return;
    say("live", "Live");
    refresh().catch(() => retry());
  });
  source.addEventListener("rows", (event) => {
    const fresh = events(parse(event.data));
    if (paused) {
      waiting += fresh.length;
      pause.querySelector("span").textContent = `Resume (${waiting} new)`;
    } else {
      tell(insert(fresh));
    }
  });
  source.addEventListener("lost", () => {
    if (!paused) refresh().catch(() => retry());
  });
  source.onerror = () => {
    say("waiting", "Connecting again …");
    if (source.readyState === EventSource.CLOSED) retry();
  };
}

// retry looks whether the session has ended, which an EventSource cannot tell.
function retry() {
  source?.close();
  source = undefined;
  say("waiting", "Connecting again …");
  setTimeout(async () => {
    if (document.hidden) return;
    await fetch(`${path}/rows?${query}`).then((r) => { if (r.status === 401) location.reload(); }).catch(() => {});
    if (!source) connect();
  }, 3000);
}

if (live.dataset.live === "true") {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    waiting = 0;
    pause.setAttribute("aria-pressed", paused);
    pause.querySelector("span").textContent = paused ? "Resume" : "Pause";
    say(paused ? "paused" : "live", paused ? "Paused" : "Live");
    if (!paused) refresh().catch(() => retry());
  });
  // A page that nobody sees needs no connection; there are few for all tabs.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = undefined;
    } else if (!source) {
      connect();
    }
  });
  addEventListener("pagehide", () => source?.close());
  say("waiting", "Connecting …");
  if (!document.hidden) connect();
} else {
  say("", "");
}

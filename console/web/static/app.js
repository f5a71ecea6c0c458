// What all pages share. Nothing here is needed to read a page or to save.

const pad = (n) => String(n).padStart(2, "0");
const day = (d) => `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
const clock = (d) => `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;

// localInput is a time as a field of the type datetime-local wants it.
export const localInput = (d) => `${day(d)}T${clock(d)}`;

// ago says how long ago a time was, as text.go does.
function ago(date) {
  const s = Math.floor((Date.now() - date) / 1000);
  if (s < 5) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} days ago`;
}

// localize writes times as the reader's clock shows them.
export function localize(root) {
  for (const t of root.querySelectorAll("time[data-show]")) {
    const d = new Date(t.dateTime);
    if (Number.isNaN(d.getTime())) continue;
    switch (t.dataset.show) {
      case "ago":
        t.textContent = ago(d);
        t.title = `${day(d)} ${clock(d)}`;
        break;
      default: { // "event" has the date below
        const date = document.createElement("span");
        date.className = "date";
        date.textContent = day(d);
        if (t.dataset.show === "event") t.replaceChildren(clock(d), date);
        else t.replaceChildren(date, ` ${clock(d)}`);
        t.title = t.dateTime;
      }
    }
  }
  for (const zone of root.querySelectorAll("[data-zone]")) {
    zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
  }
}

localize(document);
setInterval(() => {
  for (const t of document.querySelectorAll("time[data-show=ago]")) t.textContent = ago(new Date(t.dateTime));
}, 5000);

// On a narrow window the navigation is longer than its line.
document.querySelector(".side nav [aria-current=page]")?.scrollIntoView({ block: "nearest", inline: "center" });

// The note of what was done is told once, not again on a reload.
if (document.querySelector("[data-note]")) {
  const url = new URL(location.href);
  url.searchParams.delete("done");
  history.replaceState(null, "", url);
}

// Forms with data-confirm ask first.
const dialog = document.getElementById("confirm");
let asking; // the form in question, and its button
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.confirm || form === asking?.confirmed || !dialog) return;
  event.preventDefault();
  asking = { form, button: event.submitter };
  document.getElementById("confirm-title").textContent = form.dataset.confirm;
  document.getElementById("confirm-text").textContent = form.dataset.confirmText ?? "";
  document.getElementById("confirm-yes").textContent = form.dataset.confirmYes ?? "Yes";
  dialog.showModal();
});
dialog?.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close();
  if (event.submitter?.value !== "yes") return;
  asking.confirmed = asking.form;
  asking.form.requestSubmit(asking.button);
});

// Tabs, with the arrow keys as everywhere.
for (const tablist of document.querySelectorAll("[role=tablist]")) {
  const tabs = [...tablist.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    }
  };
  select(tabs.find((tab) => tab.getAttribute("aria-selected") === "true") ?? tabs[0]);
  tablist.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) select(tab);
  });
  tablist.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const tab = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    select(tab);
    tab.focus();
  });
}

// Lists of one entry a line say how many there are.
for (const count of document.querySelectorAll("[data-count-of]")) {
  const area = document.getElementById(count.dataset.countOf);
  area.addEventListener("input", () => {
    const n = area.value.split("\n").filter((line) => line.trim() !== "").length;
    count.textContent = n || "";
    area.removeAttribute("aria-invalid");
  });
}
document.getElementById("fault-summary")?.focus();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const label = button.querySelector("span");
  try {
    await navigator.clipboard.writeText(source.textContent);
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = "Copy"; }, 2000);
  } catch { // no right to, or no TLS: select it, so that the keyboard can
    getSelection().selectAllChildren(source);
    label.textContent = "Selected";
  }
});

// Parts with data-refresh are fetched again every so many seconds.
for (const part of document.querySelectorAll("[data-refresh]")) {
  setInterval(async () => {
    const busy = () => document.hidden || dialog?.open || part.contains(document.activeElement);
    if (busy()) return;
    const response = await fetch(location.href).catch(() => null);
    if (response?.redirected) location.reload(); // the session has ended
    if (!response?.ok || busy()) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const next = page.getElementById(part.id);
    if (!next) return;
    part.replaceChildren(...next.childNodes);
    localize(part);
  }, part.dataset.refresh * 1000);
}

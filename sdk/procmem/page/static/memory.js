// What is remembered, as a grid and as a map; and forgetting, with its report and receipt.

import { at, attempt, colorOf, make, percent, pictureOf, request, send } from "./api.js";

const PAGE = 60;
let shownItems = PAGE;
let reading = false, again = false;

/** Reads the memory anew; calls while it is read lead to one more reading, not to many. */
export async function refresh() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    do {
      again = false;
      await read();
    } while (again);
  } finally {
    reading = false;
  }
}

async function read() {
  const state = await request("api/state");
  showState(state);
  if (at("map-panel").hidden) await showGrid();
  else await showMap();
}

function showState(state) {
  const labels = Object.entries(state.labels).sort(([a], [b]) => a.localeCompare(b));
  at("status").textContent =
    `${state.items} remembered · ${(state.bytes_on_disk / 1024).toFixed(0)} KiB on disk`;
  at("status").dataset.items = state.items;
  at("names").replaceChildren(...labels.map(([label]) => make("option", { value: label })));
  at("labels").replaceChildren(...labels.map(([label, count]) => {
    const button = make("button", { type: "button", className: "danger", text: `Forget ${label} (${count})` });
    button.addEventListener("click", () => forget({ label }, `everything called “${label}”`));
    return button;
  }));
  at("drop").hidden = !state.thumbnails;
  at("model").textContent =
    `${state.model}, trained on ${state.training}, on no photo; ` +
    `runs on ${state.device}; memory in ${state.vault}${state.sealed ? ", sealed" : ""}.`;
}

async function showGrid() {
  const { items, total } = await request(`api/items?limit=${Math.min(shownItems, 500)}`);
  at("grid").replaceChildren(...items.map((item) => {
    const button = make("button", { type: "button", className: "danger", text: "Forget" });
    button.setAttribute("aria-label", `Forget ${item.label ?? "item"} ${item.id}`);
    button.addEventListener("click", () => forget({ ids: [item.id] }, `this ${item.label ?? "item"}`));
    const when = new Date(1000 * item.added_seconds).toLocaleString();
    return make("li", {}, pictureOf(item), make("b", { text: item.label ?? "no label" }),
      make("span", { className: "quiet", text: when }), button);
  }));
  at("more").hidden = total <= items.length || shownItems >= 500;
  at("grid-note").textContent = total
    ? `${items.length} of ${total}. Without small pictures a tile shows the label's first letter.`
    : "Nothing yet. What is taught becomes 384 numbers, not a picture.";
}

async function showMap() {
  const { dots, explained, total } = await request("api/map");
  const svg = at("map");
  const element = (tag, properties) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) one.setAttribute(name, value);
    return one;
  };
  const most = Math.max(1e-9, ...dots.map(({ x, y }) => Math.max(Math.abs(x) / 370, Math.abs(y) / 200)));
  const around = new Map();
  svg.replaceChildren(...dots.map(({ id, label, x, y }) => {
    const place = [400 + x / most, 230 - y / most];
    if (!around.has(label)) around.set(label, []);
    around.get(label).push(place);
    const dot = element("circle", { cx: place[0], cy: place[1], r: dots.length > 500 ? 4 : 8, fill: colorOf(label),
      tabindex: 0, role: "button", "aria-label": `${label ?? "no label"}; Enter forgets it` });
    dot.append(Object.assign(element("title", {}), { textContent: label ?? "no label" }));
    const ask = () => forget({ ids: [id] }, `this ${label ?? "item"}`);
    dot.addEventListener("click", ask);
    dot.addEventListener("keydown", (event) => { if (event.key === "Enter") ask(); });
    return dot;
  }));
  const mean = (places, axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length;
  for (const [label, places] of [...around].slice(0, 40)) {
    const text = element("text", { x: mean(places, 0), y: mean(places, 1) - 14, "text-anchor": "middle" });
    text.textContent = label ?? "";
    svg.append(text);
  }
  at("map-note").textContent = total
    ? `Near dots are alike. The two axes show ${percent(explained[0] + explained[1])} of the differences` +
      `${dots.length < total ? `, ${dots.length} of ${total} items` : ""}; computed now, never stored.`
    : "Nothing to show yet.";
}

/** Says what would be forgotten, asks, forgets, and shows the report. */
async function forget(selection, what) {
  const body = JSON.stringify(selection);
  await erase("api/forget?", body, what);
}

export async function forgetSimilar(picture, least) {
  await erase(`api/forget-similar?min_similarity=${least}&`, picture, `all that look like this (${least} or more)`);
}

async function erase(address, body, what) {
  await attempt(async () => {
    const plan = await send(`${address}plan=1`, body);
    if (!plan.count) {
      at("reports").prepend(make("p", { className: "quiet", text: "Nothing remembered is that much alike." }));
      return;
    }
    if (!(await confirmed(`Forget ${what}? ${plan.count} remembered ${plan.count === 1 ? "picture" : "pictures"}, for ever.`))) return;
    showReport(await send(address.replace(/[?&]$/, ""), body), what);
    await refresh();
  });
}

function confirmed(question) {
  const dialog = at("confirm");
  at("question").textContent = question;
  dialog.returnValue = "";
  dialog.showModal();
  at("no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
at("yes").addEventListener("click", () => at("confirm").close("yes"));
at("no").addEventListener("click", () => at("confirm").close("no"));

function showReport(report, what) {
  const clean = report.purged && report.windows_found === 0;
  const facts = [
    ["Forgotten", `${report.erased_ids.length}, ${report.remaining} remain`],
    ["Purged", report.purged ? "yes: the file was written anew without them" : "pending, finished at the next start"],
    ["Searched", `${report.files_scanned.join(", ")} for ${report.windows_checked.toLocaleString("en")} pieces of 16 bytes`],
  ];
  const list = make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  const result = make("p", {
    className: clean ? "clean" : "dirty",
    text: clean ? "0 found: nothing of it is left in the vault" : `${report.windows_found} pieces are still there`,
  });
  const limits = make("details", {}, make("summary", { text: "What no program can reach" }),
    make("ul", {}, ...report.out_of_reach.map((text) => make("li", { text }))));
  const parts = [make("h3", { text: `Forgot ${what}` }), result, list, limits];
  if (report.receipt) {
    const file = new Blob([report.receipt], { type: "application/json" });
    const link = make("a", { className: "button", href: URL.createObjectURL(file),
      download: `receipt-${report.erased_ids[0]}.json`, text: "Download the signed receipt" });
    parts.push(link);
  }
  const box = make("article", { className: "report", tabIndex: -1 }, ...parts);
  at("reports").prepend(box);
  box.focus();
}

// ---- views

function choose(tab) {
  for (const name of ["grid", "map"]) {
    const chosen = name === tab;
    at(`${name}-tab`).setAttribute("aria-selected", chosen);
    at(`${name}-tab`).tabIndex = chosen ? 0 : -1;
    at(`${name}-panel`).hidden = !chosen;
  }
  attempt(refresh);
}
for (const [name, other] of [["grid", "map"], ["map", "grid"]]) {
  at(`${name}-tab`).addEventListener("click", () => choose(name));
  at(`${name}-tab`).addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow")) return;
    choose(other);
    at(`${other}-tab`).focus();
  });
}
at("more").addEventListener("click", () => {
  shownItems += PAGE;
  attempt(refresh);
});
at("drop").addEventListener("click", () => attempt(async () => {
  await request("api/thumbnails", { method: "DELETE" });
  await refresh();
}));

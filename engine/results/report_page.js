"use strict";
// Texts from outside (file and class names) are only ever set as textContent or title, never parsed as HTML.
const $ = id => document.getElementById(id);
const make = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
const read = node => JSON.parse(node.textContent);

const config = read($("config")), summary = read($("summary"));
const VAL = config.kind === "val";
const KINDS = VAL ? ["missed", "false", "wrong", "correct"] : ["box"];
const KIND_NAMES = { missed: "Missed label", false: "False box", wrong: "Wrong class", correct: "Correct" };
// One item per image: name, size [w, h], boxes [x1, y1, x2, y2, confidence, class, label or -1, IoU], labels [x1, y1, x2, y2, class],
// maps of the first boxes: area [x1, y1, x2, y2], titles of the layers, for each box a PNG in base64 of each layer
const items = [...document.querySelectorAll("script.item")].map((node, i) => ({ i, ...read(node) }));
const jpegs = document.querySelectorAll("script.jpeg");
const nameOf = c => config.names[c] ?? String(c);
const paint = c => config.palette[c % config.palette.length];
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : word.endsWith("x") ? "es" : "s"}`;

let lowest = 1;
for (const item of items) for (const b of item.boxes) if (b[4] < lowest) lowest = b[4];
lowest = lowest < 1 ? Math.floor(lowest * 100 + 1e-6) / 100 : 0;
const known = new Map(); // class -> boxes and labels at any confidence
for (const item of items) {
  for (const b of item.boxes) known.set(b[5], (known.get(b[5]) || 0) + 1);
  for (const l of item.labels || []) known.set(l[4], (known.get(l[4]) || 0) + 1);
}
const classes = [...known.keys()].sort((a, b) => known.get(b) - known.get(a) || a - b);
const boxTotal = items.reduce((n, item) => n + item.boxes.length, 0);
const SORTS = VAL
  ? { worst: "Worst first", order: "In order", name: "By name" }
  : { order: "In order", most: "Most boxes first", fewest: "Fewest boxes first", unsure: "Least certain first", name: "By name" };

// State, kept in the address after "#" --------------------------------------------------------------------------------
const defaults = () => ({
  conf: Math.max(summary.best ?? config.conf, lowest), off: new Set(), kindsOff: new Set(), q: "", sort: Object.keys(SORTS)[0],
  labels: boxTotal <= 6 * items.length && !VAL, only: false, open: -1, map: -1, look: 0,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
});
let state = defaults();

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1)), next = defaults();
  const conf = parseFloat(hash.get("conf"));
  if (conf >= 0 && conf <= 1) next.conf = conf;
  if (hash.has("classes")) {
    const on = new Set(hash.get("classes").split(",").filter(Boolean).map(Number));
    next.off = new Set(classes.filter(c => !on.has(c)));
  }
  if (hash.has("boxes")) next.kindsOff = new Set(KINDS.filter(k => !hash.get("boxes").split(",").includes(k)));
  next.q = hash.get("q") || "";
  if (hash.get("sort") in SORTS) next.sort = hash.get("sort");
  if (hash.has("labels")) next.labels = hash.get("labels") === "1";
  next.only = hash.get("only") === "1";
  if (hash.has("theme")) next.dark = hash.get("theme") === "dark";
  const open = parseInt(hash.get("open"), 10);
  if (open >= 0 && open < items.length) next.open = open;
  const map = parseInt(hash.get("map"), 10), look = parseInt(hash.get("look"), 10);
  if (map >= 0) Object.assign(next, { map, look: look >= 0 ? look : 0 });
  state = next;
}

function writeHash() {
  const hash = new URLSearchParams(), base = defaults();
  if (state.conf !== base.conf) hash.set("conf", String(+state.conf.toFixed(5)));
  if (state.off.size) hash.set("classes", classes.filter(c => !state.off.has(c)).join(","));
  if (state.kindsOff.size) hash.set("boxes", KINDS.filter(k => !state.kindsOff.has(k)).join(","));
  if (state.q) hash.set("q", state.q);
  if (state.sort !== base.sort) hash.set("sort", state.sort);
  if (state.labels !== base.labels) hash.set("labels", state.labels ? "1" : "0");
  if (state.only) hash.set("only", "1");
  if (state.dark !== base.dark) hash.set("theme", state.dark ? "dark" : "light");
  if (state.open >= 0) hash.set("open", String(state.open));
  if (state.open >= 0 && state.map >= 0) { hash.set("map", String(state.map)); hash.set("look", String(state.look)); }
  history.replaceState(null, "", "#" + hash.toString().replaceAll("%2C", ","));
}

// What is shown of one image ------------------------------------------------------------------------------------------
// Each label belongs to the box with the highest IoU of those that overlap it best, as in the confusion matrix.
function marks(item) {
  const sure = item.boxes.filter(b => b[4] >= state.conf);
  if (!VAL) return sure.map(b => ({ kind: "box", box: b, cls: b[5], text: `${nameOf(b[5])} ${b[4].toFixed(2)}` }));
  const owner = new Array(item.labels.length).fill(null);
  for (const b of sure) if (b[6] >= 0 && (!owner[b[6]] || b[7] >= owner[b[6]][7])) owner[b[6]] = b;
  const found = item.labels.flatMap((l, j) => owner[j] ? [] : [{ kind: "missed", box: l, cls: l[4], text: `${nameOf(l[4])} missed` }]);
  for (const b of sure) {
    const label = b[6] >= 0 && owner[b[6]] === b ? item.labels[b[6]] : null;
    const kind = !label ? "false" : label[4] === b[5] ? "correct" : "wrong";
    const text = `${nameOf(b[5])} ${b[4].toFixed(2)}${kind === "wrong" ? ` (is ${nameOf(label[4])})` : ""}`;
    found.push({ kind, box: b, cls: b[5], text });
  }
  return found;
}
const shown = item => marks(item).filter(m => !state.off.has(m.cls) && !state.kindsOff.has(m.kind));

// Cards: shells for all images, contents only for those near the screen ---------------------------------------------
const grid = $("grid");
const cards = items.map(item => {
  const card = make("figure", "card");
  card.tabIndex = 0;
  card.append(make("div", "pic"), make("figcaption"));
  card.lastChild.append(make("div", "name", item.name), make("div", "chips"));
  card.lastChild.firstChild.title = item.name;
  card.onclick = () => change({ open: item.i, look: 0 });
  card.onkeydown = e => { if (e.key === "Enter") change({ open: item.i, look: 0 }); };
  return card;
});
const place = new Map(cards.map((card, i) => [card, i]));
const near = new Set();
const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const i = place.get(entry.target);
    const pic = cards[i].firstChild;
    if (entry.isIntersecting && !near.has(i)) { near.add(i); pic.replaceChildren(frame(items[i], 4 / 3)); drawCard(i); }
    if (!entry.isIntersecting && near.delete(i)) pic.replaceChildren();
  }
}, { rootMargin: "800px" });
cards.forEach(card => watcher.observe(card));

function frame(item, shape) {
  const node = make("div", "frame"), image = make("img"), [w, h] = item.size;
  image.src = "data:image/jpeg;base64," + jpegs[item.i].textContent;
  image.alt = item.name;
  image.draggable = false;
  node.style.aspectRatio = `${w} / ${h}`;
  node.style[w / h > shape ? "width" : "height"] = "100%";
  node.append(image, make("div", "boxes"));
  return node;
}

function drawBoxes(node, item, names) {
  const [w, h] = item.size;
  const order = shown(item).sort((a, b) => (b.kind === "correct") - (a.kind === "correct") || (a.box[4] ?? 1) - (b.box[4] ?? 1));
  node.classList.toggle("quiet", !names);
  node.lastChild.replaceChildren(...order.map(m => {
    const [x1, y1, x2, y2] = m.box, box = make("div", `box ${m.kind}${m.kind === "correct" ? " thin" : ""}`);
    Object.assign(box.style, { left: `${100 * x1 / w}%`, top: `${100 * y1 / h}%`, width: `${100 * (x2 - x1) / w}%`, height: `${100 * (y2 - y1) / h}%` });
    if (m.kind === "box") box.style.setProperty("--c", paint(m.cls)[0]);
    box.style.setProperty("--on", m.kind === "box" ? paint(m.cls)[1] : state.dark ? "#000" : "#fff");
    if (y1 / h < 0.06) box.classList.add("low");
    if (x1 / w > 0.7) box.classList.add("right");
    if (!(names && m.kind === "correct" && VAL)) box.append(make("span", "", m.text));
    box.title = m.text;
    box.dataset.box = item.boxes.indexOf(m.box);
    return box;
  }));
}

function chips(node, item) {
  const found = new Map();
  for (const m of shown(item)) { const key = VAL ? m.kind : m.cls; found.set(key, (found.get(key) || 0) + 1); }
  const keys = VAL ? KINDS.filter(k => found.has(k)) : [...found.keys()].sort((a, b) => found.get(b) - found.get(a) || a - b);
  node.replaceChildren(...keys.map(key => {
    const chip = make("span", VAL ? key : ""), dot = make("i");
    if (!VAL) dot.style.background = paint(key)[0];
    const word = VAL ? (key === "wrong" ? "wrong class" : key) : nameOf(key);
    chip.append(dot, `${found.get(key)} ${word}`);
    return chip;
  }));
  if (!keys.length) node.append(make("span", "", "no boxes"));
}

function drawCard(i) {
  const card = cards[i];
  drawBoxes(card.firstChild.firstChild, items[i], state.labels);
  chips(card.lastChild.lastChild, items[i]);
}

// Side panels ---------------------------------------------------------------------------------------------------------
const rows = new Map();
for (const c of classes) {
  const row = make("label", "class"), box = make("input"), swatch = make("span", "swatch"), name = make("span", "name", nameOf(c));
  const bar = make("span", "bar"), fill = make("i"), n = make("span", "n");
  box.type = "checkbox";
  box.onchange = () => { box.checked ? state.off.delete(c) : state.off.add(c); change({}); };
  row.dataset.cls = c;
  name.title = nameOf(c);
  swatch.style.background = fill.style.background = paint(c)[0];
  bar.append(fill);
  row.append(box, swatch, name, n, VAL ? make("span", "detail") : bar);
  rows.set(c, { row, box, fill, n });
  $("classes").append(row);
}
$("class-panel").hidden = !classes.length;
$("toggle-all").onclick = () => change({ off: state.off.size ? new Set() : new Set(classes) });

const kindRows = new Map();
if (VAL) {
  $("kinds").hidden = false;
  for (const kind of KINDS) {
    const row = make("label", "kind"), box = make("input"), n = make("span", "n");
    box.type = "checkbox";
    box.onchange = () => { box.checked ? state.kindsOff.delete(kind) : state.kindsOff.add(kind); change({}); };
    row.dataset.kind = kind;
    row.append(box, make("span", `line ${kind}`), KIND_NAMES[kind], n);
    kindRows.set(kind, { box, n });
    $("kinds").append(row);
  }
  $("kinds").append(make("div", "hint", `A box and a label are a pair above an IoU of ${config.iou}.`));
}
for (const [value, text] of Object.entries(SORTS)) $("sort").append(Object.assign(make("option", "", text), { value }));

const BINS = 40, bins = new Array(BINS).fill(0);
const binOf = conf => Math.min(BINS - 1, Math.max(0, Math.floor((conf - lowest) / (1 - lowest || 1) * BINS)));
for (const item of items) for (const b of item.boxes) bins[binOf(b[4])]++;
const top_ = Math.max(...bins, 1);
for (const n of bins) { const bar = make("i"); bar.style.height = `${n ? Math.max(3, 100 * n / top_) : 0}%`; $("hist").append(bar); }
Object.assign($("conf"), { min: lowest, max: 1, step: 0.01 });

if (summary.metrics) {
  const table = $("metrics").firstChild, head = make("tr");
  for (const text of summary.metrics.columns) head.append(make("th", "", text));
  table.append(head);
  summary.metrics.rows.forEach((values, i) => {
    const row = make("tr", i ? "" : "all");
    for (const [j, value] of values.entries()) row.append(make("td", "", j > 2 ? value.toFixed(3) : j ? value.toLocaleString("en") : value));
    table.append(row);
  });
  $("metrics").lastChild.textContent = summary.metrics.note;
  $("metrics").hidden = false;
}

// Confidences for a purpose, below the slider
const choices = (summary.choices || []).filter(([, conf]) => conf >= lowest);
if (choices.length) {
  for (const [i, [text, conf]] of choices.entries()) $("choice").append(Object.assign(make("option", "", `${conf.toFixed(2)}: ${text}`), { value: i }));
  $("choice").append(Object.assign(make("option", "", "other"), { value: -1, hidden: true }));
  $("choice").hidden = false;
}

// One pass over everything after each change --------------------------------------------------------------------------
let drawnOrder = "";
function update() {
  const q = state.q.toLowerCase(), perClass = new Map(classes.map(c => [c, {}])), perKind = {}, hits = [];
  let visible = 0;
  for (const item of items) {
    if (q && !item.name.toLowerCase().includes(q)) continue;
    let n = 0, bad = 0, best = 0;
    for (const m of marks(item)) {
      const on = !state.off.has(m.cls), counts = perClass.get(m.cls);
      counts[m.kind] = (counts[m.kind] || 0) + 1;
      if (on) perKind[m.kind] = (perKind[m.kind] || 0) + 1;
      if (!on || state.kindsOff.has(m.kind)) continue;
      n++;
      if (m.kind !== "correct") bad++;
      best = Math.max(best, m.box[4] ?? 0);
    }
    visible += n;
    if (!state.only || (VAL ? bad : n)) hits.push({ item, n, bad, best });
  }
  const by = {
    order: (a, b) => a.item.i - b.item.i, name: (a, b) => a.item.name.localeCompare(b.item.name, "en", { numeric: true }),
    most: (a, b) => b.n - a.n, fewest: (a, b) => a.n - b.n, unsure: (a, b) => a.best - b.best, worst: (a, b) => b.bad - a.bad,
  }[state.sort];
  hits.sort((a, b) => by(a, b) || a.item.i - b.item.i);
  const order = hits.map(hit => hit.item.i).join();
  if (order !== drawnOrder) { grid.replaceChildren(...hits.map(hit => cards[hit.item.i])); drawnOrder = order; }
  for (const i of near) drawCard(i);

  const most = Math.max(1, ...[...perClass.values()].map(n => n.box || 0));
  for (const [c, { row, box, fill, n }] of rows) {
    const counts = perClass.get(c);
    box.checked = !state.off.has(c);
    row.classList.toggle("unchecked", !box.checked);
    n.textContent = (VAL ? (counts.correct || 0) : counts.box || 0).toLocaleString("en");
    fill.style.width = `${100 * (counts.box || 0) / most}%`;
    if (VAL) row.lastChild.textContent = `${counts.missed || 0} missed, ${counts.false || 0} false, ${counts.wrong || 0} wrong`;
  }
  for (const [kind, { box, n }] of kindRows) { box.checked = !state.kindsOff.has(kind); n.textContent = (perKind[kind] || 0).toLocaleString("en"); }
  [...$("hist").children].forEach((bar, i) => bar.classList.toggle("off", i < binOf(state.conf + 1e-9)));
  $("conf").value = state.conf;
  if (document.activeElement !== $("conf-number")) $("conf-number").value = state.conf.toFixed(2);
  $("choice").value = choices.findIndex(([, conf]) => Math.abs(conf - state.conf) < 1e-9);
  if (document.activeElement !== $("search")) $("search").value = state.q;
  $("sort").value = state.sort;
  $("labels").checked = state.labels;
  $("only").checked = state.only;
  document.documentElement.classList.toggle("dark", state.dark);
  $("toggle-all").textContent = state.off.size ? "all" : "none";
  const bold = n => make("b", "", n.toLocaleString("en"));
  $("totals").replaceChildren(bold(hits.length), hits.length === items.length ? "" : ` of ${items.length.toLocaleString("en")}`,
    ` image${items.length === 1 ? "" : "s"}, `, bold(visible), ` box${visible === 1 ? "" : "es"} shown`);
  $("totals").dataset.pictures = hits.length;
  $("totals").dataset.boxes = visible;
  $("empty").hidden = hits.length > 0;
  $("empty").textContent = items.length ? "No image matches this search and these filters." : "This run had no images.";
  drawBig(hits.map(hit => hit.item.i));
  writeHash();
}

let waiting = false;
function change(values) {
  Object.assign(state, values);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; update(); });
}

// The large image -----------------------------------------------------------------------------------------------------
const big = $("big");
let orderNow = [];
function drawBig(order) {
  orderNow = order;
  if (state.open < 0) { if (big.open) big.close(); return; }
  const item = items[state.open], [w, h] = item.size;
  const scale = Math.min(innerWidth * 0.9 / w, (innerHeight * 0.9 - 60) / h, Math.max(1, 1280 / Math.max(w, h)));
  const node = frame(item, Infinity), pic = big.querySelector(".pic");
  Object.assign(node.style, { width: `${Math.round(w * scale)}px`, height: `${Math.round(h * scale)}px` });
  pic.replaceChildren(node);
  drawBoxes(node, item, true);
  drawMap(node, item);
  big.querySelector(".name").textContent = item.name;
  chips(big.querySelector(".chips"), item);
  if (!big.open) big.showModal();
}
// A click on a box that has maps shows one over the image; a second click, or "no map", takes it away.
function drawMap(node, item) {
  const maps = item.maps, select = $("map"), [w, h] = item.size;
  select.hidden = !maps;
  if (!maps) return;
  const option = (text, value) => Object.assign(make("option", "", text), { value });
  select.replaceChildren(option("no map", -1), ...maps.layers.map(option));
  const png = maps.boxes[state.look]?.[state.map], order = shown(item), nodes = [...node.lastChild.children];
  const visible = png && order.some(m => item.boxes.indexOf(m.box) === state.look);
  select.value = visible ? state.map : -1;
  for (const box of nodes) {
    const i = Number(box.dataset.box), [x1, y1, x2, y2] = item.boxes[i];
    if (i >= maps.boxes.length) continue;
    box.classList.add("clickable");
    box.title += ": click to see what the model looked at";
    box.classList.toggle("chosen", i === state.look);
    box.style.zIndex = Math.round(1000 * (1 - (x2 - x1) * (y2 - y1) / (w * h))); // a box within another can be reached
    const layer = state.map >= 0 ? state.map : Math.max(0, maps.layers.length - 2);
    box.onclick = () => change({ look: i, map: i === state.look && visible ? -1 : layer });
  }
  if (!visible) return;
  const heat = make("img", "heat"), [x1, y1, x2, y2] = maps.area;
  heat.src = "data:image/png;base64," + png;
  heat.alt = maps.layers[state.map];
  Object.assign(heat.style, { left: `${100 * x1 / w}%`, top: `${100 * y1 / h}%`, width: `${100 * (x2 - x1) / w}%`, height: `${100 * (y2 - y1) / h}%` });
  node.insertBefore(heat, node.lastChild);
  node.classList.add("mapped", "quiet");
}
function step(by) {
  const at = orderNow.indexOf(state.open);
  if (orderNow.length) change({ open: orderNow[(at + by + orderNow.length) % orderNow.length], look: 0 });
}
$("prev").onclick = () => step(-1);
$("next").onclick = () => step(1);
$("close").onclick = () => change({ open: -1 });
big.addEventListener("close", () => { if (state.open >= 0) change({ open: -1 }); });
big.addEventListener("click", e => { if (e.target === big) change({ open: -1 }); });
addEventListener("keydown", e => {
  if (state.open < 0 || e.target === $("map") || (e.key !== "ArrowLeft" && e.key !== "ArrowRight")) return;
  step(e.key === "ArrowLeft" ? -1 : 1);
});

// Controls ------------------------------------------------------------------------------------------------------------
$("conf").oninput = () => change({ conf: +$("conf").value });
$("conf-number").oninput = () => { const v = +$("conf-number").value; if (v >= 0 && v <= 1) change({ conf: v }); };
$("choice").onchange = () => { const found = choices[+$("choice").value]; if (found) change({ conf: found[1] }); };
$("search").oninput = () => change({ q: $("search").value });
$("sort").onchange = () => change({ sort: $("sort").value });
$("labels").onchange = () => change({ labels: $("labels").checked });
$("only").onchange = () => change({ only: $("only").checked });
$("map").onchange = () => change({ map: +$("map").value });
$("theme").onclick = () => change({ dark: !state.dark });
addEventListener("hashchange", () => { readHash(); update(); });
$("only-text").textContent = VAL ? "Only images with errors" : "Only images with boxes";
const mapped = items.filter(item => item.maps);
if (mapped.length) {
  const most = Math.max(...mapped.map(item => item.maps.boxes.length)), limited = mapped.length < items.length ? ` of ${count(mapped.length, "image")}` : " of each image";
  $("maps-hint").textContent = `A click on a box of a large image shows what the model looked at: the best ${count(most, "box")}${limited}.`;
  $("maps-hint").hidden = false;
}
$("conf-hint").textContent = !boxTotal ? "No boxes in this run." : `${count(boxTotal, "box")} from ${lowest.toFixed(2)} up.`;
readHash();
update();

"use strict";
// Texts from outside (file and class names) are only ever set as textContent or title, never parsed as HTML.
const $ = id => document.getElementById(id);
const make = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
const read = node => JSON.parse(node.textContent);

const config = read($("config")), summary = read($("summary"));
const VAL = config.kind === "val";
const KINDS = VAL ? ["missed", "false", "wrong", "correct"] : ["box"];
const KIND_NAMES = { missed: "Missed label", false: "False box", wrong: "Wrong class", correct: "Correct" };
// One item per image: name, size [w, h], boxes [x1, y1, x2, y2, confidence, class], with labels [x1, y1, x2, y2, class] also
// label they overlap best or -1, IoU, number of the kind of error, label that this is about or -1;
// maps of the first boxes: area [x1, y1, x2, y2], titles of the layers, for each box a PNG in base64 of each layer
const items = [...document.querySelectorAll("script.item")].map((node, i) => ({ i, ...read(node) }));
const jpegs = document.querySelectorAll("script.jpeg");
const nameOf = c => config.names[c] ?? String(c);
const wordOf = error => config.errors.find(([kind]) => kind === error)[1];
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
const CROWDED = VAL || boxTotal > 6 * items.length; // small images have the names of classes without numbers
const SORTS = VAL
  ? { worst: "Worst first", sure: "Most confident errors first", order: "In order", name: "By name" }
  : { order: "In order", doubt: "Most doubt first", most: "Most boxes first", fewest: "Fewest boxes first", unsure: "Least certain first", name: "By name" };

// State, kept in the address after "#" --------------------------------------------------------------------------------
const defaults = () => ({
  conf: Math.max(summary.best ?? config.conf, lowest), off: new Set(), kindsOff: new Set(), q: "", sort: Object.keys(SORTS)[0],
  labels: true, error: "", only: false, open: -1, map: -1, look: 0,
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
  if (VAL && config.errors.some(([kind]) => kind === hash.get("error"))) next.error = hash.get("error");
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
  if (state.error) hash.set("error", state.error);
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
    const why = kind === "wrong" ? ` (is ${nameOf(label[4])})` : kind === "false" ? `: ${config.errors[b[8]][1]}` : "";
    const text = `${nameOf(b[5])} ${b[4].toFixed(2)}${why}`;
    found.push({ kind, box: b, cls: b[5], text });
  }
  return found;
}
// By kind of error, as val.py counts them: what a box is does not depend on the confidence, only what is missed does.
const LOOKS = { correct: "correct", class: "wrong", missed: "missed" }; // others look as false boxes
function judged(item) {
  const seen = new Set(), found = [];
  for (const b of item.boxes) {
    if (b[4] < state.conf) continue;
    const [error, word] = config.errors[b[8]], label = item.labels[b[9]];
    if (label) seen.add(b[9]);
    found.push({ error, kind: LOOKS[error] || "false", box: b, cls: b[5], label, text: `${nameOf(b[5])} ${b[4].toFixed(2)}: ${word}` });
  }
  item.labels.forEach((l, j) => seen.has(j) || found.push({ error: "missed", kind: "missed", box: l, cls: l[4], text: `${nameOf(l[4])} missed` }));
  return found;
}
function shown(item) {
  if (!state.error) return marks(item).filter(m => !state.off.has(m.cls) && !state.kindsOff.has(m.kind));
  const found = judged(item).filter(m => m.error === state.error && !state.off.has(m.cls));
  const truth = state.error === "correct" ? [] : found.flatMap(m => m.label ? [{ kind: "truth", box: m.label, cls: m.label[4], text: `label: ${nameOf(m.label[4])}` }] : []);
  return [...truth, ...found];
}

// How much there is to decide about an image: of each box the squared margin between "object" and "no object" in the form of
// Brust et al., "Active Learning for Deep Object Detection" (arXiv:1809.09875, equation 1), summed over the boxes as there. The
// border is the chosen confidence instead of 0.5, so each side of it is stretched to 0..1; boxes that are not shown count too.
function doubt(item) {
  const t = state.conf;
  return item.boxes.reduce((sum, b) => state.off.has(b[5]) ? sum : sum + (1 - Math.abs(b[4] - t) / ((b[4] < t ? t : 1 - t) || 1)) ** 2, 0);
}

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

function drawBoxes(node, item, names, short = false) { // short: names of classes alone, for small images
  const [w, h] = item.size;
  const order = shown(item).sort((a, b) => (b.kind === "correct") - (a.kind === "correct") || (a.box[4] ?? 1) - (b.box[4] ?? 1));
  node.classList.toggle("quiet", !names);
  node.lastChild.replaceChildren(...order.map(m => {
    const [x1, y1, x2, y2] = m.box, box = make("div", `box ${m.kind}${m.kind === "correct" || m.kind === "truth" ? " thin" : ""}`);
    Object.assign(box.style, { left: `${100 * x1 / w}%`, top: `${100 * y1 / h}%`, width: `${100 * (x2 - x1) / w}%`, height: `${100 * (y2 - y1) / h}%` });
    if (m.kind === "box") box.style.setProperty("--c", paint(m.cls)[0]);
    box.style.setProperty("--on", m.kind === "box" ? paint(m.cls)[1] : state.dark ? "#000" : "#fff");
    if (y1 / h < 0.06) box.classList.add("low");
    if (x1 / w > 0.7) box.classList.add("right");
    box.append(make("span", "", short && CROWDED ? nameOf(m.cls) : m.text));
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
    const word = !VAL ? nameOf(key) : state.error ? wordOf(state.error) : key === "wrong" ? "wrong class" : key;
    chip.append(dot, `${found.get(key)} ${word}`);
    return chip;
  }));
  if (!keys.length) node.append(make("span", "", "no boxes"));
  if (state.sort === "doubt") node.append(make("span", "", `doubt ${doubt(item).toFixed(2)}`));
}

function drawCard(i) {
  const card = cards[i];
  drawBoxes(card.firstChild.firstChild, items[i], state.labels, true);
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
  $("kinds").append(make("div", "hint", `A box and a label are a pair above an IoU of ${config.iou}, whatever their classes, as in the confusion matrix.`));
}
for (const [value, text] of Object.entries(SORTS)) $("sort").append(Object.assign(make("option", "", text), { value }));

const BINS = 40, bins = new Array(BINS).fill(0);
const binOf = conf => Math.min(BINS - 1, Math.max(0, Math.floor((conf - lowest) / (1 - lowest || 1) * BINS)));
for (const item of items) for (const b of item.boxes) bins[binOf(b[4])]++;
const top_ = Math.max(...bins, 1);
for (const n of bins) { const bar = make("i"); bar.style.height = `${n ? Math.max(3, 100 * n / top_) : 0}%`; $("hist").append(bar); }
Object.assign($("conf"), { min: lowest, max: 1, step: 0.01 });

const details = summary.details, decimals = value => value == null ? "-" : value.toFixed(3);
if (summary.metrics) {
  const table = $("metrics").firstChild, head = make("tr"), sizes = details ? Object.keys(details.sizes) : [];
  for (const text of [...summary.metrics.columns, ...details ? ["mAP75", ...sizes] : []]) head.append(make("th", "", text));
  table.append(head);
  const parts = details ? [{ map75: details.map75, ...Object.fromEntries(sizes.map(s => [`map_${s}`, details.sizes[s].map])) }, ...Object.values(details.classes)] : [];
  summary.metrics.rows.forEach((values, i) => {
    const row = make("tr", i ? "" : "all");
    for (const [j, value] of values.entries()) row.append(make("td", "", j > 2 ? value.toFixed(3) : j ? value.toLocaleString("en") : value));
    if (details) for (const key of ["map75", ...sizes.map(s => `map_${s}`)]) row.append(make("td", "", decimals(parts[i][key])));
    table.append(row);
  });
  const counts = sizes.map(s => details.sizes[s].labels.toLocaleString("en")).join(", ");
  const limits = details ? `; ${sizes.join(", ")}: mAP50-95 of ${counts} labels, from 32x32 and 96x96 pixels of the image on` : "";
  $("metrics").lastChild.textContent = summary.metrics.note + limits;
  $("metrics").hidden = false;
}

// Kinds of error, each a filter, and the calibration
const errorRows = new Map();
if (details) {
  const table = $("errors").querySelector("table"), head = make("tr"), costs = details.errors.kinds;
  for (const text of ["Kind", "Count", "Costs AP50", "What may help"]) head.append(make("th", "", text));
  table.append(head);
  const most = Math.max(1e-6, ...Object.values(costs).map(k => k.costs_map50 || 0));
  for (const [kind, word, advice] of config.errors) {
    const row = make("tr"), label = make("label", "kind"), box = make("input"), n = make("td"), cost = make("div", "cost"), bar = make("i");
    box.type = "checkbox";
    box.onchange = () => change({ error: box.checked ? kind : "" });
    label.append(box, word);
    bar.style.width = `${Math.max(0, 60 * (costs[kind].costs_map50 || 0) / most)}px`;
    if (kind !== "correct") cost.append(bar, decimals(costs[kind].costs_map50));
    for (const part of [label, n, cost, advice]) { const cell = part === n ? n : make("td"); if (part !== n) cell.append(part); row.append(cell); }
    row.dataset.error = kind;
    table.append(row);
    errorRows.set(kind, { row, box, n });
  }
  $("errors").querySelector(".hint").textContent = "Click a kind to see these boxes alone, with the labels they are about. A box is correct from an IoU of 0.5 with the label of its class " +
    `that it overlaps most, badly placed from 0.1. Costs: how much higher AP50, ${decimals(details.errors.map50_of_coco)} by COCO's rule over all confidences, would be without this kind.`;
  if (details.calibration) drawCalibration(details.calibration);
  $("details").hidden = false;
}

function drawCalibration(c) {
  const draw = (tag, values, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    node.textContent = text;
    return node;
  };
  const x = v => 42 + 270 * v, y = v => 170 - 160 * v, parts = [];
  for (const v of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(draw("line", { class: "rule", x1: x(0), x2: x(1), y1: y(v), y2: y(v) }), draw("text", { x: 37, y: y(v) + 3, "text-anchor": "end" }, v),
      draw("text", { x: x(v), y: 183, "text-anchor": "middle" }, v));
  }
  c.bins.forEach((bin, j) => {
    if (!bin.boxes) return;
    const left = x(j / c.bins.length) + 2, width = 270 / c.bins.length - 4, middle = left + width / 2;
    const bar = draw("rect", { class: bin.boxes < 10 ? "bin few" : "bin", x: left, width, y: y(bin.precision), height: 160 * bin.precision });
    bar.append(draw("title", {}, `${count(bin.boxes, "box")}, confidence ${bin.confidence.toFixed(2)}, precision ${bin.precision.toFixed(2)} (${bin.low.toFixed(2)} to ${bin.high.toFixed(2)})`));
    parts.push(bar, draw("line", { class: "spread", x1: middle, x2: middle, y1: y(bin.low), y2: y(bin.high) }));
  });
  parts.push(draw("line", { class: "diagonal", x1: x(0), x2: x(1), y1: y(0), y2: y(1) }), draw("text", { x: x(0.5), y: 196, "text-anchor": "middle" }, "confidence"),
    draw("text", { x: -90, y: 10, "text-anchor": "middle", transform: "rotate(-90)" }, "precision"));
  const chart = draw("svg", { viewBox: "0 0 318 200", role: "img", "aria-label": "Precision over confidence" }), panel = $("calibration");
  chart.append(...parts);
  panel.children[1].append(chart);
  const shown = c.error > c.chance_high, side = c.overconfident_by > 0 ? "too high" : "too low";
  const named = [...Object.entries(c.sizes), ...Object.entries(c.classes).map(([k, v]) => [nameOf(k), v]).slice(0, 10)]; // all are in metrics.yaml
  const each = named.map(([name, v]) => `${name} ${decimals(v.error)} (${decimals(v.chance_high)})`).join(", ");
  panel.querySelector(".hint").textContent = `Expected calibration error ${decimals(c.error)} over ${count(c.boxes, "box")} above ${c.from_conf}; up to ${decimals(c.chance_high)} by chance` +
    (shown ? `, so confidences are ${Math.abs(c.overconfident_by).toFixed(2)} ${side} on average` : ", so no miscalibration is shown") +
    `.${each ? ` Of each part, by chance in brackets: ${each}.` : ""} Lines: 90 % intervals. Missed labels do not enter.`;
  panel.hidden = false;
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
  const q = state.q.toLowerCase(), perClass = new Map(classes.map(c => [c, {}])), perKind = {}, perError = {}, hits = [];
  let visible = 0;
  for (const item of items) {
    if (q && !item.name.toLowerCase().includes(q)) continue;
    for (const m of marks(item)) {
      const counts = perClass.get(m.cls);
      counts[m.kind] = (counts[m.kind] || 0) + 1;
      if (!state.off.has(m.cls)) perKind[m.kind] = (perKind[m.kind] || 0) + 1;
    }
    if (errorRows.size) for (const m of judged(item)) if (!state.off.has(m.cls)) perError[m.error] = (perError[m.error] || 0) + 1;
    const seen = shown(item).filter(m => m.kind !== "truth"), errors = seen.filter(m => m.kind !== "correct"), n = seen.length;
    const sure = VAL && !state.error ? errors.filter(m => m.kind !== "missed") : seen, bad = errors.length;
    const best = sure.reduce((most, m) => Math.max(most, m.error === "missed" ? 0 : m.box[4]), 0);
    visible += n;
    if (state.error ? n : !state.only || (VAL ? bad : n)) hits.push({ item, n, bad, best, doubt: state.sort === "doubt" ? doubt(item) : 0 });
  }
  const by = {
    order: (a, b) => a.item.i - b.item.i, name: (a, b) => a.item.name.localeCompare(b.item.name, "en", { numeric: true }),
    most: (a, b) => b.n - a.n, fewest: (a, b) => a.n - b.n, unsure: (a, b) => a.best - b.best, worst: (a, b) => b.bad - a.bad,
    sure: (a, b) => b.best - a.best, doubt: (a, b) => b.doubt - a.doubt,
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
  for (const [kind, { row, box, n }] of errorRows) {
    box.checked = state.error === kind;
    row.classList.toggle("chosen", state.error === kind);
    n.textContent = (perError[kind] || 0).toLocaleString("en");
  }
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
if (!VAL) $("sort").title = "Doubt: the sum over the boxes of (1 - d)\u00b2, d from 0 at the chosen confidence to 1 at confidence 0 or 1";
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

"use strict";
// Data come in scripts that call these; a card's file is asked for when a card of it is shown.
const suite = {}, texts = {}, groups = {}, cards = {};
const given = {
  suite: found => Object.assign(suite, found),
  tokens: found => Object.assign(texts, found),
  group: (name, columns) => { groups[name] = columns; },
  cards: (name, n, found) => { cards[name + "-" + n] = found; },
};
const byId = id => document.getElementById(id);
const STEP = 100; // rows that are drawn at once
const rows = { found: [], shown: 0 };
let here = null; // { group, at, layer }: the feature that is shown, by its place in the group

function load(name) {
  return new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "data/" + name + ".js";
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
}

// An element with what it holds. Text becomes text, whatever it says.
function make(kind, settings = {}, ...inside) {
  const isDrawn = ["svg", "rect", "title"].includes(kind);
  const element = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(settings))
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  element.append(...inside.filter(each => each !== null));
  return element;
}

const token = (id, kind = "code") => make(kind, { class: "token", dir: "auto" }, texts[id] ?? "");
const written = value => value === null ? "–" : value >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toPrecision(3));
const percent = part => part === 0 ? "never" : part < 1e-4 ? (100 * part).toExponential(0) + "%" : +(100 * part).toPrecision(2) + "%";
const layersOf = name => suite.groups.find(each => each.name === name).layers;
const nameOf = (name, index, layer) => "#" + name + "/" + index + (layer === undefined ? "" : "@" + layer);
const sum = values => values.reduce((a, b) => a + b, 0);
const profile = (columns, at) => columns.density.map(layer => layer[at]);

// --- the list ---

const depth = densities => sum(densities.map((value, n) => value * n)) / (sum(densities) || 1);
const values = {
  index: (columns, at) => columns.index[at] + (sum(profile(columns, at)) ? 0 : 1e9), // those that never fire last
  densest: (columns, at) => -sum(profile(columns, at)),
  rarest: (columns, at) => sum(profile(columns, at)) || Infinity,
  highest: (columns, at) => -Math.max(...columns.highest.map(layer => layer[at])),
  specific: (columns, at) => columns.entropy[at] ?? Infinity,
  spread: (columns, at) => -(columns.entropy[at] ?? -Infinity),
  depth: (columns, at) => sum(profile(columns, at)) ? depth(profile(columns, at)) : Infinity,
  token: (columns, at) => (texts[columns.peaks[at]] ?? "\uffff").trim().toLowerCase(),
};

function list() {
  const asked = byId("search").value.trim().toLowerCase(), order = values[byId("order").value], found = [];
  for (const group of suite.groups) {
    const columns = groups[group.name];
    if (byId("group").value && byId("group").value !== group.name) continue;
    for (let at = 0; at < columns.index.length; at++)
      if (isAsked(group.name, columns, at, asked)) found.push({ group: group.name, at, by: order(columns, at) });
  }
  found.sort((a, b) => a.by < b.by ? -1 : a.by > b.by ? 1 : 0);
  rows.found = found;
  rows.shown = 0;
  byId("rows").replaceChildren();
  byId("count").textContent = found.length.toLocaleString("en") + (found.length === 1 ? " feature" : " features");
  showRows();
}

function isAsked(name, columns, at, asked) {
  if (!asked) return true;
  if (/^\d+$/.test(asked) && columns.index[at] === Number(asked)) return true;
  if ((name + "/" + columns.index[at]) === asked) return true;
  return [columns.peaks[at], columns.raised?.[at]].some(id => (texts[id] ?? "").toLowerCase().includes(asked));
}

function showRows(upTo = 0) {
  do {
    const next = rows.found.slice(rows.shown, rows.shown + STEP);
    byId("rows").append(...next.map(row));
    rows.shown += next.length;
  } while (rows.shown <= upTo && rows.shown < rows.found.length);
  byId("more").hidden = rows.shown >= rows.found.length;
  mark();
}

function row({ group, at }) {
  const columns = groups[group], densities = profile(columns, at);
  return make("li", {}, make("a", { href: nameOf(group, columns.index[at]) },
    make("span", {}, make("b", {}, group.replace("layers_", "") + "/"), String(columns.index[at])),
    token(columns.peaks[at], "span"), bars(densities)));
}

// How often it fires on each layer, the lowest layer left.
function bars(densities) {
  const most = Math.max(...densities) || 1, width = 9;
  const drawn = densities.map((value, n) => {
    const height = value && Math.max(1, 16 * value / most);
    return make("rect", { class: "bar", x: n * width, y: 16 - height, width: width - 2, height });
  });
  return make("svg", { width: densities.length * width, height: 16, role: "img", "aria-label": "how often on each layer" }, ...drawn);
}

function mark() {
  for (const old of document.querySelectorAll("#rows [aria-current]")) old.removeAttribute("aria-current");
  if (!here) return;
  const link = document.querySelector('#rows a[href="' + nameOf(here.group, groups[here.group].index[here.at]) + '"]');
  if (!link) return;
  link.setAttribute("aria-current", "true");
  const box = byId("rows"), from = link.offsetTop - box.offsetTop - box.scrollTop;
  if (from < 0 || from > .8 * box.clientHeight) box.scrollTop += from - box.clientHeight / 3; // not the page, as scrollIntoView would
}

// --- a feature's card ---

async function show() {
  const match = /^#(layers_[\d-]+)\/(\d+)(?:@(\d+))?$/.exec(location.hash);
  const columns = match && groups[match[1]];
  const at = columns ? columns.index.indexOf(Number(match[2])) : -1;
  if (at < 0) return missing(match);
  const layers = layersOf(match[1]), densities = profile(columns, at);
  const layer = match[3] === undefined ? layers[densities.indexOf(Math.max(...densities))] : Number(match[3]);
  const file = match[1] + "-" + Math.floor(at / suite.per_file);
  here = { group: match[1], at, layer: layers.includes(layer) ? layer : layers[0] };
  if (!cards[file]) await load(file);
  if (!here || here.at !== at || here.group !== match[1]) return; // something else was asked for meanwhile
  draw(cards[file][at % suite.per_file]);
  if (document.body.dataset.ready) toCard();
  mark();
}

// On a phone it stands below the list.
function toCard() {
  if (matchMedia("(max-width: 800px)").matches) byId("card").scrollIntoView();
}

function missing(match) {
  here = null;
  const what = match ? match[0].slice(1) + " was not looked at." : "No feature is found.";
  byId("card").replaceChildren(make("p", { class: "facts" }, what));
  mark();
}

const go = (group, at, layer) => { location.hash = nameOf(group, groups[group].index[at], layer); };

function draw(card) {
  const { group, at, layer } = here, columns = groups[group], layers = layersOf(group), n = layers.indexOf(layer);
  byId("card").replaceChildren(
    make("div", { class: "top" }, make("h2", {}, "Feature " + columns.index[at] + " of " + (layers.length > 1 ? "layers " : "layer ") + group.replace("layers_", "")),
      make("span", { class: "facts" }, "steer(model, suite, \"" + group + "/" + columns.index[at] + "\")")),
    make("h3", {}, "Where in depth it fires ", make("small", {}, spreadInWords(columns.entropy[at], layers.length))),
    depthTable(columns, at, layers, layer),
    make("div", { class: "side" },
      make("div", {}, make("h3", {}, "Activations on layer " + layer), histogram(card.histogram[n])),
      make("div", { class: "near" }, make("h3", {}, "Nearest features ", make("small", {}, "cosine of their directions")),
        near("next group", card.next, group, 1), near("previous group", card.previous, group, -1),
        elsewhere(card.elsewhere), baseline(card.baseline[n]))),
    lens(card.lens[card.lens.length > 1 ? n : 0]),
    ...(suite.shows_texts ? suite.strata.map((name, s) => examples(name, card, card.examples[n][s], n, columns.highest, at)) : []));
}

const spreadInWords = (entropy, n) => n === 1 || entropy === null ? "" : "entropy " + written(entropy) + " of at most " + written(Math.log2(n)) + " bits";

function depthTable(columns, at, layers, chosen) {
  const densities = profile(columns, at), most = Math.max(...densities) || 1;
  const lines = layers.map((layer, n) => make("tr", { "aria-selected": String(layer === chosen), click: () => go(here.group, at, layer) },
    make("td", {}, make("button", { type: "button", "data-layer": layer, "aria-label": "layer " + layer }, String(layer))),
    make("td", {}, make("div", { class: "meter", style: "width:" + (100 * densities[n] / most) + "%" })),
    make("td", {}, percent(densities[n])), make("td", {}, written(columns.highest[n][at]))));
  const head = make("tr", {}, ...["layer", "", "of tokens", "highest"].map(name => make("th", {}, name)));
  return make("table", { class: "layers" }, make("thead", {}, head), make("tbody", {}, ...lines.reverse()));
}

function histogram(counts) {
  if (!counts.length) return make("p", { class: "facts" }, "It never fires here.");
  const [first, ...filled] = counts, most = Math.max(...filled), width = 100 / filled.length;
  const drawn = filled.map((count, n) => {
    const height = count && Math.max(1, 60 * count / most), from = suite.edges[first + n - 1] ?? 0, to = suite.edges[first + n];
    const title = make("title", {}, count + " tokens: " + written(from) + (to === undefined ? " and more" : " to " + written(to)));
    return make("rect", { class: "bar", x: n * width + .3, y: 60 - height, width: width - .6, height }, title);
  });
  const ends = written(suite.edges[first - 1] ?? 0) + " to " + written(suite.edges[first + filled.length - 1] ?? suite.edges.at(-1));
  return make("div", {}, make("svg", { viewBox: "0 0 100 60", preserveAspectRatio: "none", width: "100%", height: 70, role: "img", "aria-label": "histogram of activations" }, ...drawn),
    make("p", { class: "facts" }, ends + ", each bar √2 times the one before"));
}

function near(title, found, group, step) {
  if (!found) return null;
  const other = suite.groups[suite.groups.findIndex(each => each.name === group) + step].name;
  return nearList(title, found.map(([index, cosine]) => nearOne(other, index, cosine, step)));
}

// In groups that are no neighbours, one of each; the link leads to the layer that was compared.
function elsewhere(found) {
  const groupOf = layer => suite.groups.find(each => each.layers.includes(layer)).name;
  return found && nearList("elsewhere", found.map(([layer, index, cosine]) => nearOne(groupOf(layer), index, cosine, null, layer)));
}

function nearOne(group, index, cosine, step, layer) {
  const at = groups[group].index.indexOf(index), text = group.replace("layers_", "") + "/" + index;
  return make("li", {}, at < 0 ? text : make("a", { href: nameOf(group, index, layer), "data-step": step }, text), " " + written(cosine) + " ",
    at < 0 ? null : token(groups[group].peaks[at]));
}

const nearList = (title, items) => make("div", {}, title, make("ul", {}, ...items));

const baseline = found => found && make("div", {}, suite.baseline + ": ", found.map(([index, cosine]) => index + " (" + written(cosine) + ")").join(", "));

function lens(found) {
  if (!found) return make("div");
  const part = (title, tokens) => make("div", {}, make("h3", {}, title), make("div", { class: "tokens" },
    ...tokens.map(([id, by]) => make("span", {}, token(id), " ", make("small", {}, written(by))))));
  return make("div", { class: "side" }, part("Tokens it raises", found[0]), part("Tokens it lowers", found[1]));
}

const TITLES = { top: "Where it fires highest", middle: "Of a draw of all: the middle third of its range", low: "The low third" };

function examples(name, card, chosen, n, highest, at) {
  const most = highest.map(layer => layer[at]);
  const others = name === "top" ? chosen : chosen.filter(text => !card.examples[n][0].includes(text));
  if (!others.length) return make("div");
  return make("section", {}, make("h3", {}, TITLES[name] + " ", make("small", {}, name === "top" ? "below each text a line per layer, the highest layer on top" : "")),
    ...others.map(text => example(card.texts[text], n, most)));
}

// Position -> activation.
function pairs(flat, unit) {
  const found = new Map();
  for (let n = 0; n < flat.length; n += 2) found.set(flat[n], flat[n + 1] * unit);
  return found;
}

function example([tokens, flat], n, most) {
  const layers = flat.map((thousandths, layer) => pairs(thousandths, most[layer] / 1000)), values = layers[n], peak = Math.max(...[...values.values()].map(Math.abs));
  const shade = (value, layer) => Math.min(1, Math.abs(value) / (most[layer] || 1));
  const spans = tokens.map((id, position) => {
    const span = token(id, "span"), value = values.get(position);
    if (value === undefined) return span;
    span.style.background = "rgb(var(--fire) / " + (.12 + .75 * shade(value, n)) + ")";
    span.title = layers.map((found, layer) => "layer " + layersOf(here.group)[layer] + ": " + written(found.get(position) ?? 0)).reverse().join("\n");
    if (Math.abs(value) === peak) span.classList.add("peak");
    return span;
  });
  const line = 6, cells = layers.flatMap((found, layer) => [...found].map(([position, value]) => make("rect",
    { x: position, y: (layers.length - 1 - layer) * line, width: 1, height: line - 1, "fill-opacity": .12 + .88 * shade(value, layer) })));
  const strip = make("svg", { viewBox: "0 0 " + tokens.length + " " + layers.length * line, height: layers.length * line, preserveAspectRatio: "none", role: "img", "aria-label": "the same text on each layer" }, ...cells);
  return make("div", { class: "example" }, make("div", {}, ...spans), layers.length > 1 ? strip : null);
}

// --- what is asked for ---

function step(by) {
  const at = here ? rows.found.findIndex(each => each.group === here.group && each.at === here.at) : -1;
  const next = rows.found[Math.max(0, Math.min(rows.found.length - 1, at + by))];
  if (!next) return;
  showRows(at + by);
  go(next.group, next.at);
}

function up(by) {
  const layers = here ? layersOf(here.group) : [], layer = layers[layers.indexOf(here?.layer) + by];
  if (layer !== undefined) go(here.group, here.at, layer);
}

const keys = {
  "/": () => byId("search").focus(), j: () => step(1), k: () => step(-1), u: () => up(1), d: () => up(-1),
  n: () => document.querySelector('a[data-step="1"]')?.click(), p: () => document.querySelector('a[data-step="-1"]')?.click(),
  Backspace: () => history.back(),
};

addEventListener("keydown", event => {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

function scores() {
  const names = Object.keys(suite.scores), lines = suite.scores.layer.map((_, n) => names.map(name => suite.scores[name][n]));
  const cell = value => typeof value === "number" ? written(value) : String(value ?? "–");
  byId("scores").hidden = names.length < 3;
  byId("scores").querySelector("table").append(make("tr", {}, ...names.map(name => make("th", {}, name.replaceAll("_", " ")))),
    ...lines.map(line => make("tr", {}, ...line.map(value => make("td", {}, cell(value))))));
  if (suite.has_report) byId("links").append(make("a", { href: "../report.html" }, "The report of all layers"));
}

async function start() {
  await Promise.all([load("suite"), load("tokens")]);
  await Promise.all(suite.groups.map(group => load(group.name)));
  byId("group").append(make("option", { value: "" }, "all groups"),
    ...suite.groups.map(group => make("option", { value: group.name }, group.name.replace("_", " "))));
  scores();
  for (const id of ["search", "group", "order"]) byId(id).addEventListener("input", list);
  byId("search").addEventListener("keydown", event => { if (event.key === "Enter" && rows.found.length) { event.target.blur(); go(rows.found[0].group, rows.found[0].at); } });
  byId("more").addEventListener("click", () => showRows());
  addEventListener("hashchange", show);
  list();
  const isAskedFor = location.hash.length > 1;
  if (!isAskedFor && rows.found.length) history.replaceState(null, "", nameOf(rows.found[0].group, groups[rows.found[0].group].index[rows.found[0].at]));
  await show();
  if (isAskedFor) toCard();
  document.body.dataset.ready = "yes";
}

start();


(() => {
const {settings, baseline, differences, metrics, layers: allLayers, changed, layout: base} = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const [QUALITIES, L0] = [metrics.slice(0, 2), metrics[2]];
// Okabe and Ito's colours, which all people can tell apart, each with a shape of its own.
const LOOKS = [["#0072b2", "circle"], ["#d55e00", "square"], ["#009e73", "triangle-up"], ["#cc79a7", "pentagon"],
  ["#56b4e9", "hexagon"], ["#e69f00", "star"], ["#555555", "cross"], ["#8a6d00", "triangle-down"]];
const MOST_LABELS = 8;
const TICKS = [-1, 0, 1, 2, 3, 4].flatMap(power => [1, 2, 5].map(digit => Number(`${digit}e${power}`)));
const MARKS = {better: "▲ ", worse: "▼ ", "": ""};
const CONFIG = {displayModeBar: false, responsive: true};
let chosen = null; // the index of a setting

const writtenAs = {l0: v => v.toFixed(1), dead_features: v => (100 * v).toFixed(1) + "%"};
const written = (metric, v) => v === null ? "–" : (writtenAs[metric] ?? (v => v.toFixed(4)))(v);
const interval = (metric, [, low, high]) => typeof low === "number" && typeof high === "number"
  ? `[${written(metric, low)}, ${written(metric, high)}]` : "";
const escaped = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// What a setting scores at the layer that is looked at, or in the mean: [value, low, high].
function score(setting, metric, layer = byId("which").value) {
  if (layer === "") return setting.means[metric];
  return setting.layers[metric][allLayers.indexOf(Number(layer))] ?? [null];
}

const value = (setting, metric) => score(setting, metric)[0];
const isDrawn = metric => setting => value(setting, metric) !== null && value(setting, "l0") !== null;

const sites = [...new Set(settings.map(setting => setting.site))];

// The settings at a site that no other one there beats.
function front(metric, site) {
  const drawn = settings.filter(setting => setting.site === site).filter(isDrawn(metric));
  const beats = (a, b) => value(a, "l0") <= value(b, "l0") && value(a, metric) >= value(b, metric)
    && (value(a, "l0") < value(b, "l0") || value(a, metric) > value(b, metric));
  return drawn.filter(one => !drawn.some(other => beats(other, one)))
    .sort((a, b) => value(a, "l0") - value(b, "l0"));
}

// The settings by their value of the field that is shown in colours, in the order of the sweep.
function byColour() {
  const field = byId("colours")?.value;
  const groups = new Map();
  for (const setting of settings) {
    const key = field ? setting.changes[field] ?? "–" : "";
    groups.set(key, [...groups.get(key) ?? [], setting]);
  }
  return [...groups].map(([key, members], n) => ({name: key && `${field} ${key}`, members, look: LOOKS[n % LOOKS.length]}));
}

const colourOf = setting => byColour().find(({members}) => members.includes(setting)).look[0];

function bars(drawn, metric, colour) {
  const end = (setting, n) => Math.abs((score(setting, metric)[n] ?? value(setting, metric)) - value(setting, metric));
  return {type: "data", symmetric: false, array: drawn.map(s => end(s, 2)), arrayminus: drawn.map(s => end(s, 1)), color: colour, thickness: 1, width: 0};
}

function told(setting, metric) {
  const lines = [L0, metrics.find(of => of.name === metric)].map(({name, label}) =>
    `${label} ${written(name, value(setting, name))} ${interval(name, score(setting, name))}`);
  return [`<b>${escaped(setting.name)}</b>`, ...lines].join("<br>");
}

function points(drawn, metric, trace) {
  return {type: "scatter", mode: "markers", x: drawn.map(s => value(s, "l0")), y: drawn.map(s => value(s, metric)),
    customdata: drawn.map(s => settings.indexOf(s)), hovertext: drawn.map(s => told(s, metric)), hovertemplate: "%{hovertext}<extra></extra>", ...trace};
}

function scatter(metric) {
  const fronts = sites.map(site => front(metric, site)), best = fronts.flat();
  const isFew = settings.length <= MOST_LABELS;
  const l0s = settings.filter(isDrawn(metric)).map(s => value(s, "l0")), [least, most] = [Math.min(...l0s), Math.max(...l0s)];
  const isLog = least > 0 && most > 6 * least;
  const onAxis = isLog ? Math.log10 : x => x;
  const isRight = s => onAxis(value(s, "l0")) > (onAxis(least) + onAxis(most)) / 2; // so that a label has room to the left
  const groups = byColour();
  const traces = groups.map(({name, members, look: [colour, symbol]}) => {
    const drawn = members.filter(isDrawn(metric));
    return points(drawn, metric, {name: escaped(name), showlegend: name !== "", mode: "markers+text",
      text: drawn.map(s => isFew ? escaped(s.name) : ""), textposition: drawn.map(s => isRight(s) ? "bottom left" : "bottom right"), cliponaxis: false,
      marker: {color: colour, size: 10, line: {width: 1.5, color: colour}, symbol: drawn.map(s => symbol + (best.includes(s) ? "" : "-open"))},
      error_x: bars(drawn, "l0", colour + "88"), error_y: bars(drawn, metric, colour + "88")});
  });
  const dashed = fronts.map(of => points(of, metric, {mode: "lines", line: {color: "#888", width: 1.5, dash: "dash"}, name: "Pareto front", showlegend: false, hoverinfo: "skip", hovertemplate: null}));
  const compared = baseline && isDrawn(metric)(baseline) ? [{...points([baseline], metric, {name: `baseline ${escaped(baseline.name)}`}),
    customdata: null, marker: {color: "#111", size: 11, symbol: "x"}, showlegend: true}] : [];
  const own = chosen === null ? [] : [settings[chosen]].filter(isDrawn(metric));
  const ring = points(own, metric,
    {marker: {size: 20, symbol: "circle-open", color: "#111", line: {width: 3}}, name: "chosen", showlegend: false});
  const labels = isFew ? [] : own.map(s => ({x: onAxis(value(s, "l0")), y: value(s, metric), text: escaped(s.name), showarrow: false, yshift: 22,
    xanchor: isRight(s) ? "right" : "left", bgcolor: "#ffffffcc"}));
  const ticks = isLog ? {type: "log", tickvals: TICKS, ticktext: TICKS.map(String)} : {type: "linear"};
  return [[...dashed, ...compared, ...traces, ring], {height: 380, annotations: labels, xaxis: {title: {text: L0.label}, ...ticks}, yaxis: {}}];
}

function band(setting, metric) {
  const known = allLayers.filter((_, n) => typeof setting.layers[metric][n]?.[1] === "number");
  const at = (layer, n) => setting.layers[metric][allLayers.indexOf(layer)][n];
  return {type: "scatter", mode: "lines", x: [...known, ...[...known].reverse()], fill: "toself", fillcolor: "#1113", line: {width: 0},
    y: [...known.map(l => at(l, 1)), ...[...known].reverse().map(l => at(l, 2))], hoverinfo: "skip", showlegend: false};
}

function lines(metric) {
  const line = (setting, look) => ({type: "scatter", mode: "lines+markers", x: allLayers, showlegend: false,
    y: allLayers.map((_, n) => setting.layers[metric][n]?.[0] ?? null), customdata: allLayers.map(() => settings.indexOf(setting)),
    hovertemplate: `<b>${escaped(setting.name)}</b><br>layer %{x}: %{y:${metric === "dead_features" ? ".1%" : metric === "l0" ? ".1f" : ".4f"}}<extra></extra>`, ...look});
  const isOther = setting => settings.indexOf(setting) !== chosen;
  const others = settings.filter(isOther).map(setting => {
    const colour = colourOf(setting) + (chosen === null ? "" : "66");
    return line(setting, {line: {color: colour, width: 1.3}, marker: {size: 4, color: colour}});
  });
  const own = chosen === null ? [] : [band(settings[chosen], metric), line(settings[chosen], {line: {color: "#111", width: 3}, marker: {size: 7, color: "#111"}})];
  const step = Math.max(1, Math.ceil(allLayers.length / 14));
  const layer = byId("which").value;
  const shapes = layer === "" ? [] : [{type: "line", x0: layer, x1: layer, yref: "paper", y0: 0, y1: 1, line: {color: "#888", width: 1, dash: "dot"}}];
  return [[...others, ...own], {height: 280, hovermode: "closest", shapes, xaxis: {title: {text: "layer"}, tickvals: allLayers.filter((_, n) => n % step === 0)},
    yaxis: metric === "dead_features" ? {tickformat: ".0%", rangemode: "tozero"} : {}}];
}

function draw(id, [traces, own]) {
  const layout = {...base, dragmode: false, ...own, xaxis: {...base.xaxis, ...own.xaxis}, yaxis: {...base.yaxis, ...own.yaxis}};
  const plot = byId(id), isNew = !plot.data;
  Plotly.react(plot, traces, layout, CONFIG);
  if (isNew) plot.on("plotly_click", ({points: [point]}) => { if (typeof point.customdata === "number") choose(point.customdata); });
}

// By how much a setting differs from the chosen one in the mean: [value, low, high], or nothing.
function difference(index, metric) {
  if (chosen === null || index === chosen || byId("which").value !== "" || !differences[metric]) return null;
  if (index > chosen) return differences[metric][index][chosen];
  if (differences[metric][chosen][index] === null) return null; // of another site
  const [value, low, high] = differences[metric][chosen][index];
  return low === null ? [-value, null, null] : [-value, -high, -low];
}

function fillTable() {
  const layer = byId("which").value;
  const compared = chosen !== null && layer === "" ? `; small: minus those of ${settings[chosen].name}` : "";
  byId("scores_of").textContent = layer === "" ? `mean of the layers${compared}` : `layer ${layer}`;
  const fronts = Object.fromEntries(QUALITIES.map(({name}) => [name, sites.flatMap(site => front(name, site))]));
  for (const row of document.querySelectorAll("#layers tbody tr")) {
    const setting = settings[row.dataset.setting], isChosen = Number(row.dataset.setting) === chosen;
    row.setAttribute("aria-selected", isChosen);
    const box = row.closest(".scroll"), top = row.offsetTop - box.scrollTop;
    if (isChosen && (top < row.parentNode.offsetTop || top + row.offsetHeight > box.clientHeight)) box.scrollTop = row.offsetTop - box.clientHeight / 2;
    row.querySelector("button").setAttribute("aria-pressed", isChosen);
    for (const cell of row.querySelectorAll("[data-metric]")) {
      const metric = cell.dataset.metric, found = score(setting, metric);
      cell.dataset.value = found[0] ?? "";
      const to = difference(Number(row.dataset.setting), metric);
      const [low, high] = to?.[1] === null ? [0, 0] : to?.slice(1) ?? [0, 0];
      const judged = low > 0 ? "better" : high < 0 ? "worse" : "";
      const small = to === null ? element("small", interval(metric, found))
        : element("small", `${MARKS[judged]}${to[0] < 0 ? "" : "+"}${written(metric, to[0])} ${interval(metric, to)}`, {className: judged});
      cell.replaceChildren(written(metric, found[0]), " ", small);
      const isBest = fronts[metric]?.includes(setting) ?? false;
      cell.classList.toggle("on_front", isBest);
      cell.title = isBest ? `On the Pareto front: no other setting${sites.length > 1 ? " at its site" : ""} has a better score with as few features per token.` : "";
    }
  }
}

function element(name, text = "", attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(text);
  return made;
}

async function copy(button, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch { // where a page may not: whoever asked can
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function showChosen() {
  const place = byId("setting");
  if (chosen === null) {
    place.replaceChildren(element("p", "No setting is chosen yet: click a point, a line or a row, or take one from the list above. What to go on with then stands here."));
    return;
  }
  const setting = settings[chosen];
  const title = element("h2", setting.name);
  title.append(element("small", changed.filter(name => name in setting.changes).map(name => `${name} ${setting.changes[name]}`).join(", ")));
  const figures = element("div", "", {id: "figures"});
  for (const {name, label} of metrics) {
    const figure = element("div");
    figure.append(element("b", written(name, value(setting, name))), label, element("small", interval(name, score(setting, name))));
    figures.append(figure);
  }
  const commands = setting.commands.flatMap(({title, text}) => {
    const code = element("code", text), button = element("button", "Copy", {type: "button", className: "copy", title: "Copy this to the clipboard"});
    button.addEventListener("click", () => copy(button, code));
    const heading = element("h3", title), block = element("pre");
    heading.append(button);
    block.append(code);
    return [heading, block];
  });
  place.replaceChildren(title, figures, ...commands);
}

function show() {
  for (const {name} of QUALITIES) draw(`scatter_${name}`, scatter(name));
  for (const {name} of metrics) draw(`lines_${name}`, lines(name));
  byId("chosen").value = chosen === null ? "" : settings[chosen].name;
  fillTable();
  showChosen();
}

function choose(index) {
  chosen = index;
  history.replaceState(null, "", location.href.split("#")[0] + (index === null ? "" : "#" + encodeURIComponent(settings[index].name)));
  show();
}

function chooseByName(name) {
  const index = settings.findIndex(setting => setting.name === name);
  choose(index < 0 ? null : index);
}

byId("chosen").addEventListener("change", () => chooseByName(byId("chosen").value));
byId("which").addEventListener("change", show);
if (byId("colours")) {
  // By the site, or else by the field of the fewest values, the last of those: what is left is a curve each.
  const nValues = field => new Set(settings.map(setting => setting.changes[field])).size;
  const fields = changed.filter(field => nValues(field) > 1 && nValues(field) <= LOOKS.length);
  const first = fields.reverse().sort((a, b) => nValues(a) - nValues(b))[0] ?? "";
  byId("colours").value = sites.length > 1 && fields.includes("hook_name") ? "hook_name" : first;
  byId("colours").addEventListener("change", show);
}
for (const row of document.querySelectorAll("#layers tbody tr"))
  row.addEventListener("click", event => { if (!event.target.closest("a")) choose(Number(row.dataset.setting)); });
addEventListener("hashchange", () => chooseByName(decodeURIComponent(location.hash.slice(1))));
chooseByName(settings.length === 1 ? settings[0].name : decodeURIComponent(location.hash.slice(1)));
document.body.dataset.ready = "yes";
})();

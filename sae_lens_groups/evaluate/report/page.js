"use strict";

// A drawing takes its width while the page is still being read, and the page's changes later.
window.addEventListener("load", () =>
  document.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot)));

// The table: a click on a heading sorts, a second one turns the order round.
const table = document.getElementById("layers");
const headings = [...table.tHead.rows[1].cells];

function sortBy(column) {
  const heading = headings[column];
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  headings.forEach(other => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const value = row => row.cells[column].dataset.value;
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
    return ascending ? a - b : b - a;
  }));
}

headings.forEach((heading, column) =>
  heading.firstElementChild.addEventListener("click", () => sortBy(column)));

// The curves of faithfulness: one layer of all tasks at a time.
const slider = document.getElementById("layer");

function showLayer(layer) {
  document.getElementById("chosen_layer").textContent = layer;
  for (const curves of document.querySelectorAll("[id^=curves_]"))
    Plotly.restyle(curves, {visible: curves.data.map(line => line.meta === layer)});
  for (const over of document.querySelectorAll("[id^=sufficient_]"))
    Plotly.relayout(over, {"shapes": [...(over.layout.shapes ?? []).filter(shape => shape.name !== "chosen"),
      {type: "line", name: "chosen", opacity: 1, yref: "paper", y0: 0, y1: 1, x0: layer, x1: layer, line: {color: "#d1495b", width: 2}}]});
}

if (slider) {
  const layers = slider.dataset.layers.split(" ").map(Number);
  const show = () => showLayer(layers[Number(slider.value)]);
  slider.addEventListener("input", show);
  for (const over of document.querySelectorAll("[id^=sufficient_]"))
    over.on("plotly_click", event => {
      const index = layers.indexOf(event.points[0].x);
      if (index < 0) return; // a layer without a curve
      slider.value = index;
      show();
    });
  show();
}

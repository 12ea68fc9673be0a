"use strict";
// The page of a comparison: the true posterior of a data point, one guide at a time.

const page = JSON.parse($("payload").textContent);
const x = unpack(page.x), [numData, numValues] = page.x.shape;
const quantum = page.shape ? page.white / 255 : 1; // one step of the pictures, which are bytes
const guides = page.guides.map((guide) => ({
  ...guide, axisValues: unpack(guide.axes), num: guide.axes.shape[2],
  network: guide.decoder && mlp(guide.decoder),
  densities: { posterior: unpack(guide.posterior.density), guide: unpack(guide.guide.density) },
}));
const state = { datum: 0, guide: 0, place: null };
const row = (n) =>
  Float64Array.from(x.subarray(n * numValues, (n + 1) * numValues), (v) => v * quantum);

/** One axis of the grid of the chosen data point. */
function axisOf(guide, which, n = state.datum) {
  const start = (2 * n + which) * guide.num;
  return Array.from(guide.axisValues.subarray(start, start + guide.num));
}

/** A density of the chosen data point, as rows along the second axis. */
function rows(guide, name) {
  const start = state.datum * guide.num ** 2, values = guide.densities[name];
  return Array.from({ length: guide.num }, (_, j) =>
    Array.from({ length: guide.num }, (_, i) => values[start + i * guide.num + j]));
}

/** The range of both axes that has the posterior and the guide, of any guide on the same data. */
function ranges(guide) {
  return [0, 1].map((which) => {
    const axis = axisOf(guide, which), shown = axis.map(() => false);
    for (const name of ["posterior", "guide"]) {
      const level = guide[name].levels[state.datum][0] / 4;
      rows(guide, name).forEach((line, j) => line.forEach((value, i) => {
        if (value > level) shown[which ? j : i] = true;
      }));
    }
    return [axis[shown.indexOf(true)], axis[shown.lastIndexOf(true)]];
  });
}

function traces(guide) {
  const result = [], grid = { x: axisOf(guide, 0), y: axisOf(guide, 1) };
  if ($("posterior").checked) {
    result.push({
      type: "heatmap", ...grid, z: rows(guide, "posterior"), name: "true posterior", zsmooth: "best",
      colorscale: [[0, "rgba(42,111,187,0)"], [1, css("--accent")]], showscale: false,
      hovertemplate: "p(z | x) = %{z:.3g}<extra></extra>",
    });
  }
  if ($("guide").checked) {
    const levels = guide.guide.levels[state.datum];
    result.push(...contours({ ...grid, z: rows(guide, "guide") }, levels, css("--second"), "guide"));
  }
  return result;
}

function draw() {
  const guide = guides[state.guide], [horizontal, vertical] = ranges(guide);
  return Plotly.react($("plane"), traces(guide), themed({
    xaxis: { title: { text: "first latent number", standoff: 8 }, range: horizontal },
    yaxis: { title: { text: "second latent number", standoff: 8 }, range: vertical, scaleanchor: "x" },
    uirevision: `${state.datum}`,
  }), PLOT_OPTIONS);
}

/** Bars of both gaps of every guide, the chosen one in full color. */
function drawGaps() {
  const known = guides.filter((guide) => guide.approximation);
  $("gaps").hidden = !known.length;
  if (!known.length) return;
  const names = known.map((guide) => guide.name), n = state.datum;
  const chosen = guides[state.guide].name;
  const bar = (key, color) => ({
    type: "bar", orientation: "h", name: `${key} gap`, y: names, x: known.map((g) => g[key][n]),
    marker: { color, opacity: names.map((name) => (name === chosen ? 1 : 0.35)) },
    hovertemplate: `%{y}: ${key} gap %{x:.3f} nats<extra></extra>`,
  });
  $("gaps").style.setProperty("--bars", `${6.5 + 1.5 * names.length}rem`);
  Plotly.react($("gaps"), [
    bar("approximation", css("--accent")), bar("amortization", css("--second")),
  ], themed({
    barmode: "relative", margin: { l: 8, r: 8, t: 4, b: 38 }, showlegend: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    xaxis: { title: { text: "nats, of this data point", standoff: 10, font: { size: 12 } },
             automargin: true, fixedrange: true },
    yaxis: { automargin: true, autorange: "reversed", fixedrange: true, type: "category" },
  }), { responsive: true, displayModeBar: false });
}

function showNumbers() {
  const guide = guides[state.guide], n = state.datum;
  const parts = [`log p(x) = ${guide.log_likelihood[n].toFixed(2)} nats`];
  for (const key of ["approximation", "amortization"]) {
    if (guide[key] && n < guide[key].length) parts.push(`${key} gap ${guide[key][n].toFixed(3)}`);
  }
  $("numbers").textContent = parts.join(" · ");
}

function showDatum() {
  const label = page.labels && page.labels[state.datum] >= 0
    ? `, label ${groupName(page, "labels", page.labels[state.datum])}` : "";
  show(page, "datum", row(state.datum), `data point ${state.datum}${label}`);
}

/** The mean of x, in the units of the data, at a place of the plane, by a guide's model. */
function decode(place, number = state.guide) {
  const guide = guides[number];
  if (!guide.network) return null;
  const mean = guide.network(Array.from(place)), { scale, shift } = guide.decoder;
  return scale ? mean.map((v, i) => v * scale[i] + shift[i]) : mean;
}

function showPlace() {
  const mean = state.place && decode(state.place);
  if (!mean) return;
  const at = state.place.map((v) => v.toFixed(2)).join(", ");
  show(page, "decoded", mean, `decoded at (${at})`);
}

let follow = () => {};
function moveTo(place) {
  if (!guides[state.guide].network) return;
  state.place = place;
  follow();
  showPlace();
}

/** The place of the highest true density: where the marker starts for a data point. */
function mode(guide) {
  const start = state.datum * guide.num ** 2, values = guide.densities.posterior;
  let best = 0;
  for (let k = 1; k < guide.num ** 2; k++) if (values[start + k] > values[start + best]) best = k;
  return [axisOf(guide, 0)[Math.floor(best / guide.num)], axisOf(guide, 1)[best % guide.num]];
}

function choose(change) {
  Object.assign(state, change);
  for (const [box, chosen] of [[$("data"), state.datum], [$("guides"), state.guide]]) {
    box.querySelectorAll("button").forEach((button, i) => {
      button.setAttribute("aria-pressed", i === chosen);
    });
  }
  if (guides[state.guide].network && "datum" in change) state.place = mode(guides[state.guide]);
  showDatum();
  showNumbers();
  showPlace();
  drawGaps();
  return draw();
}

for (let n = 0; n < numData; n++) {
  const button = document.createElement("button");
  button.title = `data point ${n}`;
  if (page.shape) {
    const canvas = document.createElement("canvas");
    paint(canvas, row(n), page.shape, page.white);
    button.append(canvas);
  } else {
    button.textContent = n;
  }
  button.addEventListener("click", () => choose({ datum: n }));
  $("data").append(button);
}
guides.forEach((guide, i) => {
  const button = document.createElement("button");
  button.textContent = guide.name;
  button.addEventListener("click", () => choose({ guide: i }));
  $("guides").append(button);
});
$("chart").hidden = Boolean(page.shape);
for (const id of ["posterior", "guide"]) $(id).addEventListener("change", draw);
choose({ datum: 0 }).then((plot) => {
  document.querySelector(".place").hidden = !state.place;
  if (state.place) {
    follow = clickable($("box"), plot, () => state.place, moveTo);
    follow();
  }
  onThemeChange(() => { draw(); drawGaps(); if (!page.shape) chart(page); });
});
window.explorer = { decode, state, page, guides, moveTo, choose };

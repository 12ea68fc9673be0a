"use strict";
// The page of one pair: its latent plane, data points, and what any place decodes to.

const page = JSON.parse($("payload").textContent);
const codes = unpack(page.codes), x = unpack(page.x), reconstructions = unpack(page.reconstructions);
const [numData, numUnits] = page.codes.shape, numValues = page.x.shape[1];
const [first, second] = page.axes;
const conditions = page.condition && unpack(page.condition.values);
const state = { units: new Float64Array(numUnits), condition: 0, datum: null, color: null };
const quantum = page.shape ? page.white / 255 : 1; // one step of the pictures, which are bytes

const code = (n) => codes.subarray(n * numUnits, (n + 1) * numUnits);
const row = (values, n) =>
  Float64Array.from(values.subarray(n * numValues, (n + 1) * numValues), (v) => v * quantum);

// ---------------------------------------------------------------------- decoding

const network = page.decoder.layers && mlp(page.decoder);
const nodes = page.decoder.images && unpack(page.decoder.images);

/** The mean of x, in the units of the data, at a point of the latent space. */
function decodeExactly(units, condition) {
  const inputs = page.decoder.inputs.flatMap(([source, start, size]) => {
    const at = start + (source === "condition" ? condition * page.condition.values.shape[1] : 0);
    return Array.from((source === "condition" ? conditions : units).slice(at, at + size));
  });
  const mean = network(inputs), { scale, shift, join } = page.decoder;
  const width = join && page.condition.values.shape[1];
  const c = join && conditions.subarray(condition * width);
  const whole = join ? Float64Array.from(join, (i) => (i >= 0 ? mean[i] : c[-1 - i])) : mean;
  return scale ? whole.map((v, i) => v * scale[i] + shift[i]) : whole;
}

/** The same from pictures decoded on a grid of the plane, interpolated. */
function decodeFromGrid(units, condition) {
  const { low, high, num } = page.decoder, result = new Float64Array(numValues);
  for (const [i, j, weight] of bilinear(low, high, num, [units[first], units[second]])) {
    const start = ((condition * num + i) * num + j) * numValues;
    for (let p = 0; p < numValues; p++) result[p] += weight * nodes[start + p] * quantum;
  }
  return result;
}

const decode = network ? decodeExactly : decodeFromGrid;

// ---------------------------------------------------------------------- pictures

function showPlace() {
  const at = [first, second].map((u) => state.units[u].toFixed(2)).join(", ");
  const names = `${page.units[first]}, ${page.units[second]}`;
  show(page, "decoded", decode(state.units, state.condition), `decoded at (${names}) = (${at})`);
}

function showDatum(n) {
  state.datum = n;
  const label = page.labels && page.labels[n] >= 0 ? `, label ${groupName(page, "labels", page.labels[n])}` : "";
  const component = page.components
    ? `, ${page.group} ${groupName(page, "components", page.components[n])}` : "";
  show(page, "datum", row(x, n), `data point ${n}${label}${component}`);
  show(page, "reconstruction", row(reconstructions, n), "its reconstruction");
  $("adopt").hidden = false;
}

// ---------------------------------------------------------------------- the plane

function points() {
  const groups = state.color ? page[state.color] : null;
  const kinds = groups ? [...new Set(groups)].sort((a, b) => a - b) : [null];
  const title = state.color === "labels" ? "label" : page.group;
  return kinds.map((kind) => {
    const rows = [...Array(numData).keys()].filter((n) => kind === null || groups[n] === kind);
    const known = kind !== null && kind >= 0;
    const name = known ? groupName(page, state.color, kind) : "none";
    return {
      type: "scatter", mode: "markers", customdata: rows, name,
      showlegend: kind !== null, legendgrouptitle: { text: title },
      x: rows.map((n) => code(n)[first]), y: rows.map((n) => code(n)[second]),
      hovertemplate: `data point %{customdata}${known ? `, ${title} ${name}` : ""}<extra></extra>`,
      marker: {
        size: numData > 800 ? 5 : 7, opacity: 0.8,
        color: known ? colorOf(kind) : css("--points"),
        symbol: known ? MARKERS[Math.floor(kind / COLORS.length) % MARKERS.length] : "circle",
      },
    };
  });
}

function density(values, color, name) {
  const { low, high, num } = page.window, step = [0, 1].map((i) => (high[i] - low[i]) / (num - 1));
  const flat = unpack(values.density), z = [];
  for (let j = 0; j < num; j++) z.push(Array.from({ length: num }, (_, i) => flat[i * num + j]));
  const grid = { x0: low[0], dx: step[0], y0: low[1], dy: step[1], z };
  return contours(grid, values.levels, color, name);
}

function traces() {
  const result = [];
  if ($("encodings").checked) result.push(...points());
  if ($("aggregate").checked) {
    result.push(...density(page.aggregate, css("--second"), "aggregate posterior"));
  }
  if ($("prior").checked) {
    const at = page.prior.length > 1 ? state.condition : 0;
    result.push(...density(page.prior[at], css("--accent"), "prior"));
  }
  if (page.ellipses && $("ellipses").checked) {
    const many = page.ellipses.length > 12;  // thin ones do not bury the encodings
    page.ellipses.forEach(({ name, curve, center }) => {
      const color = state.color === "components" ? colorOf(name) : css(many ? "--soft" : "--ink");
      result.push({ type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip",
                    name: "component", x: curve[0], y: curve[1], line: { color, width: many ? 0.8 : 2 } });
      if (many) return;
      result.push({ type: "scatter", mode: "text", showlegend: false, hoverinfo: "skip",
                    name: "component", x: [center[0]], y: [center[1]], text: [`<b>${name}</b>`],
                    textfont: { color: css("--ink") } });
    });
  }
  return result;
}

const TILES = 16;

/** Decoded places side by side, as one picture behind the plane. */
function background() {
  if (!page.shape || !$("tiles").checked) return [];
  const { low, high } = page.window, [, height, width] = page.shape;
  const canvas = document.createElement("canvas"), tile = document.createElement("canvas");
  [canvas.width, canvas.height] = [TILES * (width + 1), TILES * (height + 1)]; // a gap of a pixel
  const context = canvas.getContext("2d"), units = state.units.slice();
  const middle = (axis, i) => low[axis] + ((i + 0.5) / TILES) * (high[axis] - low[axis]);
  for (let i = 0; i < TILES; i++) {
    for (let j = 0; j < TILES; j++) {
      [units[first], units[second]] = [middle(0, i), middle(1, j)];
      paint(tile, decode(units, state.condition), page.shape, page.white);
      context.drawImage(tile, i * (width + 1), (TILES - 1 - j) * (height + 1));
    }
  }
  return [{ source: canvas.toDataURL(), xref: "x", yref: "y", layer: "below", sizing: "stretch",
            x: low[0], y: high[1], sizex: high[0] - low[0], sizey: high[1] - low[1],
            opacity: $("encodings").checked ? 0.75 : 1 }];
}

const axis = (i) => ({ title: { text: page.units[page.axes[i]], standoff: 8 }, zeroline: true,
                       range: [page.window.low[i], page.window.high[i]] });

function draw() {
  const isNarrow = innerWidth < 840;
  return Plotly.react($("plane"), traces(), themed({
    xaxis: axis(0), yaxis: { ...axis(1), scaleanchor: "x" }, images: background(),
    uirevision: "the reader's zoom is kept",
    legend: isNarrow ? { orientation: "h", y: 1.02, yanchor: "bottom" } : { itemsizing: "constant" },
  }), PLOT_OPTIONS);
}

let follow = () => {};
function moveTo([a, b]) {
  [state.units[first], state.units[second]] = [a, b];
  follow();
  showPlace();
}

// ---------------------------------------------------------------------- controls

/** Redraw what depends on the other units or on the condition. */
function refresh() {
  showPlace();
  if ((page.shape && $("tiles").checked) || page.prior.length > 1) draw();
}

function setUnit(unit, value) {
  state.units[unit] = value;
  const slider = $(`unit-${unit}`);
  slider.value = value;
  slider.parentElement.querySelector("output").textContent = Number(value).toFixed(2);
}

function addSliders() {
  const others = page.order.filter((u) => u !== first && u !== second);
  $("others").hidden = !network || !others.length;
  if (!network) return;
  $("others").querySelector("summary").textContent = `Other units of the latents (${others.length})`;
  for (const unit of others) {
    const line = document.createElement("label");
    line.className = "slider";
    line.innerHTML = `<span></span><input type="range" step="0.05" min="${-page.reach}"
      max="${page.reach}" value="0" id="unit-${unit}"><output>0.00</output>`;
    line.querySelector("span").textContent = page.units[unit];
    line.querySelector("input").addEventListener("input", (event) => {
      setUnit(unit, Number(event.target.value));
      refresh();
    });
    $("sliders").append(line);
  }
  $("zero").addEventListener("click", () => { others.forEach((u) => setUnit(u, 0)); refresh(); });
  $("adopt").addEventListener("click", () => {
    const values = code(state.datum);
    others.forEach((u) => setUnit(u, values[u]));
    if (page.condition) setCondition(page.condition.of_data[state.datum]);
    moveTo([values[first], values[second]]);
    refresh();
  });
}

function setCondition(index) {
  if (index === null || index >= page.condition.values.shape[0]) return;
  state.condition = index;
  $("condition").value = index;
  refresh();
}

function addCondition() {
  $("conditions").hidden = !page.condition;
  if (!page.condition) return;
  $("conditions").querySelector("legend").textContent = page.condition.title;
  page.condition.names.forEach((name, i) => $("condition").add(new Option(name, i)));
  $("condition").addEventListener("input", (event) => setCondition(Number(event.target.value)));
}

function addColors() {
  const names = { labels: "label", components: page.group };
  const known = Object.keys(names).filter((key) => page[key]);
  $("colors").hidden = !known.length;
  state.color = known[0] || null;
  for (const key of [...known, null]) {
    const label = document.createElement("label");
    label.innerHTML = `<input type="radio" name="color" value="${key || ""}"> `;
    label.append(key ? names[key] : "none");
    label.firstChild.checked = key === state.color;
    label.firstChild.addEventListener("change", () => { state.color = key; draw(); });
    $("colors").append(label);
  }
}

if (!page.shape && numValues === 2) {
  page.planar = [0, 1].map((i) => Array.from({ length: numData }, (_, n) => row(x, n)[i]));
}
$("tiles").parentElement.hidden = !page.shape;
$("ellipses").parentElement.hidden = !page.ellipses;
$("chart").hidden = Boolean(page.shape);
addSliders();
addCondition();
addColors();
for (const id of ["encodings", "prior", "aggregate", "ellipses", "tiles"]) {
  $(id).addEventListener("change", draw);
}
draw().then((plot) => {
  follow = clickable($("box"), plot, () => [state.units[first], state.units[second]], moveTo);
  plot.on("plotly_hover", ({ points: [point] }) => {
    if (point.customdata !== undefined) showDatum(point.customdata);
  });
  plot.on("plotly_click", ({ points: [point] }) => {
    if (point.customdata === undefined) return;
    showDatum(point.customdata);
    if (page.condition && !page.condition.is_class) {
      setCondition(page.condition.of_data[point.customdata]);
    }
  });
  showPlace();
  follow();
  onThemeChange(() => { draw(); if (!page.shape) chart(page); });
});
window.explorer = { decode, state, page, moveTo, showDatum };

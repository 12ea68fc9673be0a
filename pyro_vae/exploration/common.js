"use strict";
// What both pages share: arrays, the decoder, pictures, and clicks on a plane.

const COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
                "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
/** The color of a group; lighter in dark mode. */
function colorOf(group) {
  const color = COLORS[group % COLORS.length], lighter = Number(css("--lighter"));
  const mixed = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16))
    .map((v) => Math.round(v + lighter * (255 - v)));
  return `rgb(${mixed})`;
}

/** The name of a label, component or class. */
const groupName = (page, key, k) => (page.names[key] ? page.names[key][k] : `${k}`);

const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down"];
const PLOT_OPTIONS = { responsive: true, displayModeBar: false, scrollZoom: true };
const $ = (id) => document.getElementById(id);

/** A typed array from `{dtype, shape, data}`, data in base64. */
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  return packed.dtype === "u1" ? bytes : new Float32Array(bytes.buffer);
}

const ACTIVATIONS = {
  relu: (v) => Math.max(v, 0),
  tanh: Math.tanh,
  softplus: (v) => (v > 20 ? v : Math.log1p(Math.exp(v))),
  elu: (v) => (v > 0 ? v : Math.expm1(v)),
  silu: (v) => v / (1 + Math.exp(-v)),
};

const MEANS = {
  sigmoid: (v) => 1 / (1 + Math.exp(-v)),
  identity: (v) => v,
  rate: (v) => Math.exp(15 * Math.tanh(v / 15)),
  "continuous-bernoulli": (v) =>
    Math.abs(v) < 0.1 ? 0.5 + v / 12 - v ** 3 / 720 : -1 / Math.expm1(-v) - 1 / v,
};

/** A function from the decoder's inputs to the mean of x, for a fully connected decoder. */
function mlp(arrays) {
  const layers = arrays.layers.map(([weight, bias]) => [unpack(weight), unpack(bias)]);
  const activation = ACTIVATIONS[arrays.activation], mean = MEANS[arrays.mean];
  return (inputs) => {
    let values = inputs;
    layers.forEach(([weight, bias], number) => {
      const width = values.length, output = new Float64Array(bias.length);
      for (let i = 0; i < bias.length; i++) {
        let sum = bias[i];
        for (let j = 0, at = i * width; j < width; j++) sum += weight[at + j] * values[j];
        output[i] = number < layers.length - 1 ? activation(sum) : mean(sum);
      }
      values = output;
    });
    return values;
  };
}

/** The four nodes around a place of a grid with `num` nodes per axis, with their weights. */
function bilinear(low, high, num, [a, b]) {
  const at = [a, b].map((v, i) => {
    const t = ((v - low[i]) / (high[i] - low[i])) * (num - 1);
    return Math.min(Math.max(t, 0), num - 1 - 1e-9);
  });
  const [i, j] = at.map(Math.floor), [s, t] = [at[0] - i, at[1] - j];
  return [[i, j, (1 - s) * (1 - t)], [i + 1, j, s * (1 - t)],
          [i, j + 1, (1 - s) * t], [i + 1, j + 1, s * t]];
}

/** Paint values (0 black, `white` white) of an image `[C, H, W]` on a canvas. */
function paint(canvas, values, [channels, height, width], white) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const size = height * width;
  for (let p = 0; p < size; p++) {
    for (let c = 0; c < 3; c++) {
      const value = values[(channels === 3 ? c : 0) * size + p];
      image.data[4 * p + c] = Math.min(Math.max((255 * value) / white, 0), 255);
    }
    image.data[4 * p + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Plotly's layout in the colors of the page. */
function themed(layout) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  return {
    margin: { l: 60, r: 8, t: 8, b: 46 }, dragmode: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--ink"), family: "system-ui, sans-serif", size: 13 },
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
}

const onThemeChange = (redraw) =>
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

/** A line of densities' contours, one per level. */
function contours(grid, levels, color, name) {
  return levels.map((level, i) => ({
    type: "contour", ...grid, name, showscale: false, hoverinfo: "skip", showlegend: false,
    autocontour: false, contours: { start: level, end: level, size: 1, coloring: "none" },
    line: { color, width: 1 + 0.6 * i },
  }));
}

/** Call `onPlace([a, b])` for a click or a drag in a plot; keep a marker at `place()`. */
function clickable(box, plot, place, onPlace) {
  const marker = box.querySelector(".place");
  let isDown = false;
  const axes = () => [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
  const placeOf = (event) => {
    const corner = plot.getBoundingClientRect(), [x, y] = axes();
    const px = event.clientX - corner.left - x._offset, py = event.clientY - corner.top - y._offset;
    const inside = px >= 0 && px <= x._length && py >= 0 && py <= y._length;
    return inside ? [x.p2l(px), y.p2l(py)] : null;
  };
  const move = (event) => {
    const at = placeOf(event);
    if (at) onPlace(at);
    return at !== null;
  };
  box.addEventListener("pointerdown", (event) => { isDown = event.button === 0 && move(event); });
  window.addEventListener("pointermove", (event) => { if (isDown) move(event); });
  for (const end of ["pointerup", "pointercancel"]) {
    window.addEventListener(end, () => { isDown = false; });
  }
  const follow = () => {
    const [x, y] = axes(), [a, b] = place();
    const px = x.l2p(a), py = y.l2p(b);
    marker.hidden = px < 0 || py < 0 || px > x._length || py > y._length;
    marker.style.left = `${x._offset + px}px`;
    marker.style.top = `${y._offset + py}px`;
  };
  plot.on("plotly_afterplot", follow);
  plot.on("plotly_relayouting", follow);
  return follow;
}

/** Draw x: as an image on a canvas, or as a line of the chart that all x share. */
function show(page, id, values, caption) {
  const figure = $(id);
  figure.hidden = false;
  figure.querySelector("figcaption").textContent = caption;
  figure.querySelector("canvas").hidden = !page.shape;
  if (page.shape) paint(figure.querySelector("canvas"), values, page.shape, page.white);
  page.lines = { ...page.lines, [id]: Array.from(values) };
  if (!page.shape) chart(page);
}

/** A name, cut to a length. */
const short = (name, length = 14) =>
  (name.length > length ? `${name.slice(0, length - 1)}…` : name);

/** The chart of tables: the decoded place, the data point and its reconstruction. */
function chart(page) {
  const kinds = { decoded: "decoded", datum: "data point", reconstruction: "reconstruction" };
  const colors = { decoded: css("--second"), datum: css("--ink"), reconstruction: css("--accent") };
  const planar = page.planar !== undefined, { names, mean, sd } = page.columns;
  const nameOf = (i) => (names ? names[i] : `column ${i}`);
  const scaled = (x) => x.map((v, i) => (Number.isNaN(v) ? null : mean ? (v - mean[i]) / sd[i] : v));
  const said = (v) => (Number.isNaN(v) ? "missing" : `${Number(v.toPrecision(4))}`);
  const traces = Object.entries(page.lines || {}).map(([id, x]) => ({
    name: kinds[id], marker: { color: colors[id], size: 10 }, line: { color: colors[id] },
    ...(planar ? { x: [x[0]], y: [x[1]], mode: "markers", type: "scatter" } : {
      x: x.map((_, i) => i), y: scaled(x), hovertext: x.map((v, i) => `${nameOf(i)}: ${said(v)}`),
      hovertemplate: `%{hovertext}<extra>${kinds[id]}</extra>`,
      ...(x.length <= 24 ? { type: "bar" } : { type: "scatter", mode: "lines" }),
    }),
  }));
  if (planar) {
    traces.unshift({ x: page.planar[0], y: page.planar[1], mode: "markers", showlegend: false,
                     hoverinfo: "skip", marker: { size: 3, color: css("--points"), opacity: 0.5 } });
  }
  const size = Math.max(0, ...Object.values(page.lines || {}).map((x) => x.length));
  const named = names && size <= 24 && !planar, labels = named ? names.map((n) => short(n)) : [];
  const ticks = named ? {
    tickmode: "array", tickvals: labels.map((_, i) => i), ticktext: labels,
    tickangle: labels.join("").length > 30 ? -40 : 0, ticklabeloverflow: "allow",
  } : {};
  const scale = [...(named ? [] : ["column"]), ...(mean ? ["standard deviations from the mean"] : [])]
    .join(", ");
  const axis = (text) => ({ title: { text, standoff: 10, font: { size: 11 } }, automargin: true,
                            fixedrange: true });
  Plotly.react($("chart"), traces, themed({
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } }, dragmode: false,
    margin: { l: 36, r: 4, t: 4, b: 34 },
    xaxis: { ...axis(planar ? nameOf(0) : scale), ...ticks },
    yaxis: axis(planar ? nameOf(1) : ""),
  }), { responsive: true, displayModeBar: false });
}

/** Plots follow the size of their boxes, whatever changes it. */
const followSize = new ResizeObserver((entries) => entries.forEach(({ target, contentRect }) => {
  if (target.data && contentRect.width && contentRect.height) Plotly.Plots.resize(target);
}));
for (const id of ["plane", "chart", "gaps"]) if ($(id)) followSize.observe($(id));

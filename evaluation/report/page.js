"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const PAPER = { width: 680, height: 620 };  // pixels: what fits between the margins of A4 and of Letter
let printing = false, unfolded = false;

const element = (tag, text, attributes = {}) => {
  const node = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
};
const option = (value, text, selected) => element("option", text ?? value, { value, selected: Boolean(selected) });
const number = (value, digits, unit = "") => (value === null || value === undefined ? "" : value.toFixed(digits) + unit);
const signed = (value, digits, unit) =>
  value === null || value === undefined ? "" : (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(digits) + unit;
const colour = (curve) => (dark.matches && !printing ? curve.colour_dark : curve.colour);

// ---- rate and quality ------------------------------------------------------------------------------------------
for (const [key, { title }] of Object.entries(data.metrics)) $("metric").append(option(key, title));
// The first view shows most of what was measured: one codec that goes on to 15 bpp would leave the others a corner.
const measuredRates = data.curves.filter((c) => !c.published)
  .flatMap((c) => c.points.filter((p) => !p.lossless && p.values.bpp !== undefined).map((p) => p.values.bpp)).sort((a, b) => a - b);
const spans = [0.25, 0.5, 1, 2, 4, 8];
const firstSpan = spans.find((bpp) => bpp >= measuredRates[Math.floor(0.75 * measuredRates.length)]) ?? "";
$("span").append(option("", "all"), ...spans.map((bpp) => option(String(bpp), `${bpp} bpp`, bpp === firstSpan)));
const toggles = data.curves.map((curve) => {
  if (!curve.points.some((point) => !point.lossless)) return null;
  // others' mean curves are not comparable with files made for a rate, so whoever wants them asks for them
  const box = element("input", null, { type: "checkbox", checked: !curve.mean_of_others });
  const swatch = element("span", null, { className: "swatch" + (curve.published ? " dash" : "") });
  swatch.style.borderTopColor = colour(curve);
  const label = element("label");
  label.append(box, swatch, curve.codec);
  $("toggles").append(label);
  box.addEventListener("change", plot);
  box.dataset.codec = curve.codec;
  return { curve, box, swatch };
}).filter(Boolean);

function series(curve, metric, hypothetical) {
  return curve.points
    .filter((p) => p.images === p.of && !p.lossless && p.hypothetical === hypothetical && p.point !== data.bound && p.values[metric] !== undefined)
    .sort((a, b) => a.values.bpp - b.values.bpp);
}

function plot() {
  const style = getComputedStyle(document.documentElement);
  const ink = printing ? "#000" : style.getPropertyValue("--ink").trim();
  const line = printing ? "#bbb" : style.getPropertyValue("--line").trim();
  const metric = $("metric").value, limit = Number($("span").value) || Infinity, log = $("log").checked;
  const traces = [];
  toggles.forEach(({ curve, box, swatch }, index) => {
    swatch.style.borderTopColor = colour(curve);
    if (!box.checked) return;
    for (const hypothetical of [false, true]) {
      const points = series(curve, metric, hypothetical);
      if (!points.length) continue;
      traces.push({
        x: points.map((p) => p.values.bpp), y: points.map((p) => p.values[metric]),
        text: points.map((p) => p.point), name: curve.codec + (hypothetical ? " (hypothetical)" : ""),
        mode: curve.published ? "lines" : "lines+markers",
        line: { color: colour(curve), width: curve.published ? 1.5 : 2.5, dash: curve.published ? "dash" : hypothetical ? "dot" : "solid" },
        marker: { symbol: index % 8, size: 8 },
        hovertemplate: "%{text}<br>%{x:.4f} bpp<br>%{y:.4f}<extra>%{fullData.name}</extra>",
      });
    }
  });
  const bounds = toggles.filter((t) => t.box.checked).flatMap(({ curve }) => curve.points
    .filter((p) => p.point === data.bound && p.values[metric] !== undefined)
    .map((p) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: p.values[metric], y1: p.values[metric],
      line: { color: colour(curve), width: 1, dash: "dot" }, label: { text: `${curve.codec}: ${p.point}`, font: { size: 11 } } })));
  const inside = traces.flatMap((t) => t.x.map((x, i) => [x, t.y[i]])).filter(([x]) => x <= limit);
  const low = Math.min(...inside.map(([, y]) => y)), high = Math.max(...inside.map(([, y]) => y)), pad = (high - low) * 0.05;
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true };
  const smallest = Math.min(...inside.map(([x]) => x));
  const range = limit === Infinity ? undefined : log ? [Math.log10(smallest * 0.9), Math.log10(limit)] : [0, limit];
  Plotly.react("plot", traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    margin: { l: 60, r: 15, t: 15, b: 50 }, showlegend: printing, hovermode: "closest", shapes: bounds,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: ink },
    ...(printing ? PAPER : { width: undefined, height: undefined }),
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
    xaxis: { ...axis, title: { text: "bits per pixel" }, type: log ? "log" : "linear", range, rangemode: "tozero" },
    yaxis: { ...axis, title: { text: data.metrics[metric].title }, range: inside.length && limit !== Infinity ? [low - pad, high + pad] : undefined },
  }, { responsive: true, displaylogo: false, scrollZoom: false, modeBarButtons: [["toImage", "resetScale2d"]] });
  $("plot").dataset.traces = traces.length;
  $("plot").dataset.bounds = bounds.length;
}
for (const id of ["metric", "log", "span"]) $(id).addEventListener("change", () => { plot(); summary(); });
$("all").addEventListener("click", () => { toggles.forEach((t) => { t.box.checked = true; }); plot(); });
$("measured").addEventListener("click", () => { toggles.forEach((t) => { t.box.checked = !t.curve.published; }); plot(); });
dark.addEventListener("change", plot);
addEventListener("beforeprint", () => { unfolded = $("every").open; printing = $("every").open = true; plot(); });
addEventListener("afterprint", () => { $("every").open = unfolded; printing = false; plot(); });

// ---- tables ----------------------------------------------------------------------------------------------------
function fill(table, head, rows) {
  table.replaceChildren();
  const top = element("tr");
  head.forEach((text) => top.append(element("th", text, { scope: "col" })));
  const thead = element("thead"), body = element("tbody");
  thead.append(top);
  rows.forEach(([className, ...cells]) => {
    const row = element("tr", null, { className });
    cells.forEach((text) => row.append(element("td", text)));
    body.append(row);
  });
  table.append(thead, body);
}
const anchors = new Set(Object.values(data.bd).flatMap(Object.keys).concat(Object.values(data.mean_bd).flatMap(Object.keys)));
for (const curve of data.curves.filter((c) => anchors.has(c.codec)))
  $("anchor").append(option(curve.codec, curve.codec, curve.codec === data.anchor));
$("means-section").hidden = !Object.keys(data.mean_bd).length;
$("means-note").textContent = data.mean_note;
function summary() {
  const metric = $("metric").value, anchor = $("anchor").value, unit = metric.startsWith("psnr") ? " dB" : "";
  const { digits } = data.metrics[metric];
  fill($("summary"), ["Codec", "BD-rate", "Images", "Over", unit ? "BD-PSNR" : "BD-quality", "Encode s/MP", "Decode s/MP",
    "Encode MiB/MP", "Decode MiB/MP", "First picture, bytes", "Model"],
    data.summary.map((s) => {
      const bd = data.bd[metric]?.[anchor]?.[s.codec];
      const over = bd ? bd.over.map((value) => value.toFixed(Math.max(digits - 1, 1))).join(" to ") + unit : "";
      return [s.published ? "published" : "", s.codec,
        s.codec === anchor ? "anchor" : signed(bd?.rate, 1, " %"), bd ? `${bd.images} of ${bd.of}` : "", over,
        signed(bd?.quality, digits, unit), number(s.encode_s, 3), number(s.decode_s, 3),
        number(s.encode_mib, 0), number(s.decode_mib, 0), number(s.first_bytes, 0), s.fingerprint];
    }));
  const means = data.mean_bd[metric]?.[anchor] ?? {};
  fill($("means"), ["Mean curve", "BD-rate"], Object.keys(means).map((codec) => ["", codec, signed(means[codec].rate, 1, " %")]));
}
$("anchor").addEventListener("change", summary);
const exact = data.summary.filter((s) => s.lossless_bpd !== null).sort((a, b) => a.lossless_bpd - b.lossless_bpd);
$("lossless-section").hidden = !exact.length;
fill($("lossless"), ["Codec", "Bits per dimension", "Bits per pixel"],
  exact.map((s) => ["", s.codec, number(s.lossless_bpd, 3), number(3 * s.lossless_bpd, 3)]));
const keys = Object.entries(data.metrics);
fill($("points"), ["Codec", "Point", "bpp", ...keys.map(([, { title }]) => title), "Encode s", "Decode s"],
  data.curves.filter((c) => !c.published).flatMap((c) => c.points.map((p) => ["", c.codec,
    p.point + (p.hypothetical ? " (hypothetical)" : "") + (p.images < p.of ? ` (${p.images} of ${p.of} images)` : ""),
    number(p.values.bpp, 4), ...keys.map(([key, { digits }]) => (p.lossless ? "exact" : number(p.values[key], digits))),
    number(p.values.encoding_time, 3), number(p.values.decoding_time, 3)])));

// ---- pictures --------------------------------------------------------------------------------------------------
const pictures = data.pictures;
const caption = (p) => (p.codec === "original" ? "original"
  : `${p.codec}, ${p.point}: ${p.bpp.toFixed(3)} bpp` + (p.psnr === null ? ", exact" : `, ${p.psnr.toFixed(2)} dB`));
const ofImage = (name) => pictures.filter((p) => p.image === name && !p.progress);
const names = [...new Set(pictures.map((p) => p.image))];
$("view-section").hidden = !names.length;
function choices() {
  const list = ofImage($("image").value);
  const keep = [$("left").value, $("right").value];
  ["left", "right"].forEach((id, side) => {
    $(id).replaceChildren(...list.map((p, i) => option(String(i), caption(p))));
    const wanted = keep[side] && keep[side] < list.length ? keep[side] : String(side === 0 ? 0 : closest(list, 0.5));
    $(id).value = wanted;
  });
  show();
}
function closest(list, bpp) {
  let best = 0;
  list.forEach((p, i) => {
    if (p.codec !== "original" && (best === 0 || Math.abs(p.bpp - bpp) < Math.abs(list[best].bpp - bpp))) best = i;
  });
  return best;
}
function show() {
  const list = ofImage($("image").value), left = list[$("left").value], right = list[$("right").value];
  if (!left || !right) return;
  $("under").src = right.src; $("under").alt = caption(right); $("rightcap").textContent = caption(right);
  $("over").src = left.src; $("over").alt = caption(left); $("leftcap").textContent = caption(left);
  wipe();
}
function wipe() {
  const part = Number($("wipe").value);
  $("over").style.clipPath = `inset(0 ${100 - part}% 0 0)`;
  $("edge").style.left = `calc(${part}% - 1px)`;
}
names.forEach((name) => { $("image").append(option(name)); });
$("image").addEventListener("change", choices);
for (const id of ["left", "right"]) $(id).addEventListener("change", show);
$("wipe").addEventListener("input", wipe);
$("compare").addEventListener("pointermove", (event) => {
  if (!event.buttons) return;
  const box = $("compare").getBoundingClientRect();
  $("wipe").value = Math.round((100 * (event.clientX - box.left)) / box.width);
  wipe();
});

const steps = pictures.filter((p) => p.progress);
$("progress-section").hidden = !steps.length;
const stepsNow = () => steps.filter((p) => p.image === $("pimage").value && p.codec === $("pcodec").value);
function restep() {
  const list = stepsNow();
  $("steps").max = Math.max(list.length - 1, 0);
  $("steps").value = Math.min(Math.floor(list.length / 2), list.length - 1);
  step();
}
function step() {
  const picture = stepsNow()[Number($("steps").value)];
  if (!picture) { $("step").removeAttribute("src"); $("stepcap").textContent = ""; return; }
  $("step").src = picture.src; $("step").alt = caption(picture); $("stepcap").textContent = caption(picture);
  $("steps").setAttribute("aria-valuetext", caption(picture));
}
[...new Set(steps.map((p) => p.image))].forEach((name) => $("pimage").append(option(name)));
[...new Set(steps.map((p) => p.codec))].forEach((name) => $("pcodec").append(option(name)));
for (const id of ["pimage", "pcodec"]) $(id).addEventListener("change", restep);
$("steps").addEventListener("input", step);

// ---- origin ----------------------------------------------------------------------------------------------------
$("command").textContent = data.command;
for (const [key, value] of Object.entries({ ...data.machine, ...data.versions }))
  $("origin").append(element("dt", key), element("dd", value));
for (const curve of data.curves.filter((c) => c.fingerprint))
  $("origin").append(element("dt", `model of ${curve.codec}`), element("dd", curve.fingerprint));
for (const curve of data.curves.filter((c) => c.published))
  $("origin").append(element("dt", curve.codec), element("dd", curve.published));
data.notes.forEach((note) => $("notes").append(element("li", note)));
const kinds = [];
if (data.curves.some((c) => c.published)) kinds.push("Dashed: figures published by others, not measured here.");
if (data.curves.some((c) => c.points.some((p) => p.hypothetical))) kinds.push("Dotted: hypothetical, no such file exists.");
$("kinds").textContent = kinds.join(" ");
plot();
summary();
if (names.length) choices();
if (steps.length) restep();
document.documentElement.dataset.ready = "yes";

// The explorer: looks up the network that was trained with what the sliders say, and draws it.

const erf = (x) => { // Abramowitz and Stegun 7.1.26
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
  return x < 0 ? -y : y;
};
const ACT = {
  identity: (z) => z, relu: (z) => Math.max(z, 0), leaky_relu: (z) => (z > 0 ? z : 0.01 * z), tanh: Math.tanh,
  sigmoid: (z) => 1 / (1 + Math.exp(-z)), softplus: (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))),
  gelu: (z) => (z / 2) * (1 + erf(z / Math.SQRT2)), silu: (z) => z / (1 + Math.exp(-z)),
};
const floats = (packed) => new Float32Array(Uint8Array.from(atob(packed.data), (char) => char.charCodeAt(0)).buffer);
const cells = page.cells.map((cell) => ({ weights: floats(cell.weights), errors: floats(cell.errors), spread: unpack(cell.spread).values, places: cell.spread.shape.at(-1) }));
const KNOBS = { frame: page.updates, decay: page.decays, dropout: page.dropouts, hidden: page.hidden, fold: ["no point", ...page.x.map((x) => `x = ${x}`)] };
const now = { frame: page.updates.length - 1, decay: 0, dropout: 0, hidden: 1, fold: 0, activation: 0 };
const [folds, decays, records] = [page.x.length + 1, page.decays.length, page.records];

/** What belongs to the sliders' places. */
function chosen() {
  const cell = cells[(now.activation * page.hidden.length + now.hidden) * page.dropouts.length + now.dropout];
  const units = page.hidden[now.hidden];
  const place = (now.frame * folds + now.fold) * decays + now.decay;
  const w = cell.weights.subarray(place * (3 * units + 1), (place + 1) * (3 * units + 1));
  const act = ACT[page.activations[now.activation]];
  const unit = (j, x) => w[2 * units + j] * act(w[j] * x + w[units + j]);
  const network = (x) => { let sum = w[3 * units]; for (let j = 0; j < units; j++) sum += unit(j, x); return sum; };
  const band = (which) => Array.from({ length: cell.places }, (_, i) => [i / (cell.places - 1), cell.spread[(place * 2 + which) * cell.places + i]]);
  const curve = (which) => records.map((update, e) => [update, cell.errors[((e * 2 + which) * folds + now.fold) * decays + now.decay]]);
  return { units, unit, network, band, curve, weights: w };
}

/** Axes for a range, and functions from values to pixels. */
function axes(canvas, [x0, x1], [y0, y1], { log = false, labels = true } = {}) {
  const { pen, width, height } = surface(canvas);
  const [left, bottom] = [50, height - 26];
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - 14);
  const py = (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - 12);
  pen.strokeStyle = color("line"); pen.fillStyle = color("soft"); pen.textBaseline = "middle"; pen.textAlign = "right";
  for (const y of log ? Array.from({ length: Math.floor(y1) - Math.ceil(y0) + 1 }, (_, i) => Math.ceil(y0) + i) : ticks(y0, y1)) {
    pen.beginPath(); pen.moveTo(left, py(y)); pen.lineTo(width - 14, py(y)); pen.stroke();
    pen.fillText(log ? short(10 ** y) : short(y), left - 6, py(y));
  }
  pen.textAlign = "center";
  if (labels) for (const x of ticks(x0, x1, 5)) pen.fillText(short(x), px(x), bottom + 14);
  const line = (points, shade, thick = 2, dash = []) => { pen.setLineDash(dash); pen.strokeStyle = shade; pen.lineWidth = thick; pen.lineJoin = "round"; pen.beginPath(); points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](px(x), py(y))); pen.stroke(); pen.setLineDash([]); };
  const clip = () => { pen.beginPath(); pen.rect(left, 4, width - left - 10, bottom - 4); pen.clip(); };
  return { pen, px, py, line, clip };
}

const XS = Array.from({ length: 301 }, (_, i) => i / 300);

function drawFunction({ network, band }) {
  const span = Math.max(...page.t) - Math.min(...page.t);
  const { pen, px, py, line, clip } = axes($("function"), [-0.02, 1.02], [Math.min(...page.t) - 0.3 * span, Math.max(...page.t) + 0.3 * span]);
  pen.save(); clip();
  const [low, high] = [band(0), band(1)];
  pen.globalAlpha = 0.22; pen.fillStyle = color("second"); pen.beginPath();
  [...low, ...high.reverse()].forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](px(x), py(y)));
  pen.fill(); pen.globalAlpha = 1;
  line(XS.map((x) => [x, network(x)]), color("second"), 2.5);
  const out = now.fold - 1;
  if (out >= 0) line([[page.x[out], page.t[out]], [page.x[out], network(page.x[out])]], color("first"), 2, [4, 3]);
  page.x.forEach((x, i) => { pen.fillStyle = color(i === out ? "first" : "ink"); pen.beginPath(); pen.arc(px(x), py(page.t[i]), i === out ? 7 : 5, 0, 7); pen.fill(); });
  pen.restore();
}

function drawErrors({ curve }) {
  const floor = 1e-6;
  const [seen, held] = [0, 1].map((which) => curve(which).map(([x, y]) => [x, Math.log10(Math.max(y, floor))]));
  const values = [...seen, ...held].map((p) => p[1]);
  const { line, pen, px } = axes($("errors"), [0, records.at(-1)], [Math.min(-3, ...values) - 0.1, Math.max(0.1, ...values) + 0.1], { log: true });
  line(seen, color("second")); line(held, color("first"));
  const update = page.updates[now.frame];
  pen.strokeStyle = color("ink"); pen.lineWidth = 1.5; pen.beginPath(); pen.moveTo(px(update), 8); pen.lineTo(px(update), $("errors").clientHeight - 26); pen.stroke();
  const best = held.reduce((a, b) => (b[1] < a[1] ? b : a));
  pen.fillStyle = color("first"); pen.beginPath(); pen.arc(px(best[0]), axesY(best[1], values), 5, 0, 7); pen.fill();
  return { best: best[0], at: records.indexOf(update) };
}
/** A height in the errors' picture. */
function axesY(y, values) {
  const bottom = $("errors").clientHeight - 26;
  const [y0, y1] = [Math.min(-3, ...values) - 0.1, Math.max(0.1, ...values) + 0.1];
  return bottom - ((y - y0) / (y1 - y0)) * (bottom - 12);
}

function drawUnits({ units, unit, network, weights }) {
  const shares = Array.from({ length: units }, (_, j) => XS.map((x) => [x, unit(j, x)]));
  const whole = XS.map((x) => [x, network(x)]);
  const all = [...shares.flat(), ...whole].map((p) => p[1]);
  const [low, high] = [Math.min(-1.5, ...all), Math.max(1.5, ...all)];
  const { line } = axes($("units"), [-0.02, 1.02], [low - 0.05 * (high - low), high + 0.05 * (high - low)]);
  shares.forEach((points) => line(points, color("either"), 1));
  line(whole, color("second"), 2.5);
  let [largest, norm] = [0, 0];
  for (let i = 0; i < 3 * units; i++) if (i < units || i >= 2 * units) { largest = Math.max(largest, Math.abs(weights[i])); norm += weights[i] ** 2; }
  $("units-text").textContent = `The largest weight is ${short(largest)}, the length of all weights ${short(Math.sqrt(norm))}.`;
}

function sentence(curve, { best, at }) {
  const [seen, held] = [curve(0)[at][1], curve(1)[at][1]];
  const update = page.updates[now.frame];
  const other = now.fold ? `the point at x = ${page.x[now.fold - 1]}, which it never saw, it misses by ${short(Math.sqrt(held))}` : `a point left out it would miss by ${short(Math.sqrt(held))} (leave-one-out over all points)`;
  const when = update < best ? `Held-out error still falls until ${best} updates.` : update > best ? `Held-out error was least after ${best} updates: stop there.` : "Here held-out error is least: early stopping stops now.";
  return `After ${update} updates the network misses the points it sees by ${short(Math.sqrt(seen))} (root mean square); ${other}. ${when}`;
}

function draw() {
  const found = chosen();
  drawFunction(found);
  drawUnits(found);
  const place = drawErrors(found);
  const { curve } = found;
  for (const name of Object.keys(KNOBS)) { $(name).value = now[name]; $(`${name}-value`).textContent = KNOBS[name][now[name]]; $(name).setAttribute("aria-valuetext", KNOBS[name][now[name]]); }
  $("errors-text").replaceChildren(el("i", { className: "swatch second" }), "points it sees ", el("i", { className: "swatch first" }), now.fold ? "the point held out" : "each point when it is held out", `, mean squared error over ${page.seeds} seeds; the dot is the least`);
  $("says").textContent = sentence(curve, place);
  const state = { ...now, update: page.updates[now.frame], seen: curve(0)[place.at][1], held: curve(1)[place.at][1], curve: page.x.map(found.network) };
  document.documentElement.dataset.state = JSON.stringify(state);
}

function choices(id, labels, checked, onChoose) {
  labels.forEach((label, i) => {
    const input = el("input", { type: "radio", name: id, checked: i === checked });
    input.addEventListener("change", () => onChoose(i));
    $(id).append(el("label", {}, input, el("span", { className: "option" }, label)));
  });
}
function choose(index) {
  const preset = page.presets[index];
  Object.assign(now, { frame: preset.frame, decay: preset.decay, dropout: preset.dropout, hidden: page.hidden.indexOf(10), fold: 0, activation: 0 });
  $("activation").querySelector("input").checked = true;
  const { loo_mse: honest, loo_low: low, loo_high: high, updates, weight_decay: decay, dropout } = preset.row;
  $("table-row").textContent = `In the table: λ ${decay}, p ${dropout}, ${updates} updates; leave-one-out error ${honest} (95 % interval ${low} to ${high}), each choice made without the point it is scored on.`;
  draw();
}
const LETTERS = { "early stopping": "(a) early stopping", "weight decay": "(b) weight decay", dropout: "(c) dropout" };
choices("presets", page.presets.map((p) => LETTERS[p.name] ?? p.name), 0, choose);
choices("activation", page.activations, 0, (i) => { now.activation = i; draw(); });
for (const name of Object.keys(KNOBS)) {
  $(name).max = KNOBS[name].length - 1;
  $(name).addEventListener("input", () => {
    now[name] = Number($(name).value);
    for (const input of $("presets").querySelectorAll("input")) input.checked = false;
    $("table-row").textContent = "";
    draw();
  });
}
choose(0);
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.documentElement.dataset.ready = "";

// A line chart on a canvas with a cursor, by mouse, touch or arrow keys.

const redraws = [];
const short = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(1) : String(Number(v.toPrecision(3))));

/** A canvas sized to its box, and its context in CSS pixels. */
function surface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px sans-serif";
  return { pen, width, height };
}

/** Round steps that cover a range. */
function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

/** series: {name, color, points, dots}; options: {title, x, mark, xRange, yRange, diagonal}. */
function chart(parent, series, options = {}) {
  const canvas = el("canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", options.title || "chart");
  const text = el("p");
  const names = el("p", {}, ...series.filter((s) => s.name).flatMap((s) => [el("i", { className: `swatch ${s.color}` }), `${s.name}  `]));
  parent.append(el("div", { className: "chart" }, options.title ? el("h3", {}, options.title) : null, names, canvas, text));
  const all = series.flatMap((s) => s.points);
  const xs = [...new Set(all.map((p) => p[0]))].sort((a, b) => a - b);
  let [x0, x1] = options.xRange || [xs[0], xs.at(-1)];
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  let [y0, y1] = options.yRange || [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
  if (y0 === y1) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const margin = options.yRange ? 0 : (y1 - y0) * 0.06;
  [y0, y1] = [y0 - margin, y1 + margin];
  let cursor = null;
  const draw = () => {
    const { pen, width, height } = surface(canvas);
    const [left, bottom] = [48, height - 24];
    const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - 10);
    const py = (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - 8);
    const [line, soft, ink] = ["line", "soft", "ink"].map(color);
    pen.strokeStyle = line; pen.fillStyle = soft; pen.textBaseline = "middle"; pen.textAlign = "right";
    for (const y of ticks(y0, y1)) { pen.beginPath(); pen.moveTo(left, py(y)); pen.lineTo(width - 10, py(y)); pen.stroke(); pen.fillText(short(y), left - 6, py(y)); }
    pen.textAlign = "center";
    for (const x of ticks(x0, x1, width < 420 ? 4 : 6)) pen.fillText(short(x), px(x), bottom + 13);
    const vertical = (x, dash) => { pen.setLineDash(dash); pen.strokeStyle = soft; pen.beginPath(); pen.moveTo(px(x), 8); pen.lineTo(px(x), bottom); pen.stroke(); pen.setLineDash([]); };
    if (options.mark != null && options.mark >= x0 && options.mark <= x1) vertical(options.mark, [4, 4]);
    if (options.diagonal) { pen.setLineDash([4, 4]); pen.strokeStyle = soft; pen.beginPath(); pen.moveTo(px(0), py(0)); pen.lineTo(px(1), py(1)); pen.stroke(); pen.setLineDash([]); }
    for (const s of series) {
      pen.strokeStyle = pen.fillStyle = color(s.color); pen.lineWidth = s.color === "faded" ? 1 : 2; pen.lineJoin = "round";
      if (!s.dots) { pen.beginPath(); s.points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](px(x), py(y))); pen.stroke(); }
      if (s.dots || (s.points.length < 25 && s.color !== "faded")) for (const [x, y] of s.points) { pen.beginPath(); pen.arc(px(x), py(y), s.dots ? 5 : 3, 0, 7); pen.fill(); }
    }
    pen.lineWidth = 1;
    if (cursor != null) {
      vertical(cursor, []);
      const near = series.flatMap((s) => { const point = s.points.find((p) => p[0] === cursor); return point ? [[s, point]] : []; });
      text.textContent = `${options.x || "x"} ${short(cursor)}: ` + near.map(([s, p]) => `${s.name || "value"} ${short(p[1])}`).join(", ");
    }
    canvas.dataset.drawn = series.length;
  };
  const move = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = x0 + ((event.clientX - box.left - 48) / (box.width - 58)) * (x1 - x0);
    cursor = xs.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a));
    draw();
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerdown", move);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const i = cursor == null ? xs.length - 1 : xs.indexOf(cursor) + step;
    cursor = xs[Math.max(0, Math.min(xs.length - 1, i))];
    draw();
  });
  redraws.push(draw);
  return draw;
}

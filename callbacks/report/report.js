// The report's sections: each is shown if there is something to show.

const show = (id) => ($(`${id}-section`).hidden = false);
const STAGE = { step: ["each step", "faded"], train: ["training", "second"], val: ["validation", "first"], test: ["test", "either"] };
const epochName = (epoch) => (epoch < 0 ? "at the end" : `epoch ${epoch + 1}`);

/** Radio buttons that look like one control. */
function segmentedControl(id, labels, onChoose) {
  labels.forEach((label, i) => {
    const input = el("input", { type: "radio", name: id, checked: i === 0 });
    input.addEventListener("change", () => onChoose(i));
    $(id).append(el("label", {}, input, el("span", { className: "option" }, label)));
  });
}

function thumb(sheet, image, index, size) {
  const canvas = el("canvas", { width: size, height: Math.max(1, Math.round((size * sheet.height) / sheet.width)) });
  paint(canvas, sheet, image, index);
  return canvas;
}
function paint(canvas, sheet, image, index) {
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = sheet.width > 80;
  const scale = Math.min(canvas.width / sheet.width, canvas.height / sheet.height);
  const [w, h] = [sheet.width * scale, sheet.height * scale];
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, (index % sheet.columns) * sheet.width, Math.floor(index / sheet.columns) * sheet.height, sheet.width, sheet.height, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
}

function startResults() {
  const entries = Object.entries(page.tested);
  if (page.test) entries.unshift(["95 % interval", page.test.interval.map((v) => `${(100 * v).toFixed(1)}`).join(" to ") + " %"]);
  for (const [name, value] of entries.slice(0, 8)) $("results").append(el("dt", {}, name), el("dd", {}, typeof value === "string" ? value : value.toFixed(4)));
}

function startCurves() {
  if (!page.curves.length) return;
  show("curves");
  if (page.best) $("best").textContent = `The dashed line is the best epoch, ${page.best.epoch}, by ${page.best.monitor} (${short(page.best.value)}).`;
  for (const { name, series, tested } of page.curves) {
    const title = tested == null ? name : `${name}, test ${short(tested)}`;
    chart($("curves"), series.map((s) => ({ name: STAGE[s.stage][0], color: STAGE[s.stage][1], points: s.points })), { title, x: "epoch", mark: page.best?.epoch });
  }
}

function startFits() {
  if (!page.fits) return;
  show("fits");
  const { frames, points } = page.fits;
  const splits = Object.entries(points).map(([split, [x, t]]) => ({ name: `${STAGE[split]?.[0] ?? split} points`, color: split === "val" ? "first" : split === "test" ? "either" : "ink", dots: true, points: x.map((v, i) => [v, t[i]]) }));
  const curve = { name: "model", color: "second", points: [] };
  const pairs = (frame) => frame.curve[0].map((x, i) => [x, frame.curve[1][i]]);
  const values = [...frames.flatMap((f) => f.curve[1]), ...splits.flatMap((s) => s.points.map((p) => p[1]))];
  curve.points = pairs(frames.at(-1));
  const draw = chart($("fits"), [curve, ...splits], { x: "x", yRange: [Math.min(...values) - 0.1, Math.max(...values) + 0.1] });
  const slider = $("fits-slider");
  Object.assign(slider, { max: frames.length - 1, value: frames.length - 1 });
  const choose = () => { curve.points = pairs(frames[slider.value]); $("fits-epoch").textContent = epochName(frames[slider.value].epoch); draw(); };
  slider.addEventListener("input", choose);
  $("fits-epoch").textContent = epochName(frames.at(-1).epoch);
}

async function startMap() {
  const layouts = page.layouts.maps;
  if (!layouts.length) return;
  show("map");
  const sheets = await Promise.all(page.layouts.sheets.map((sheet) => loaded(sheet?.sheet)));
  let [which, by, at, chosen] = [Math.max(0, layouts.findIndex((l) => l.name !== "pixels" && l.frames.length > 1)), 0, 0, 0];
  const BY = ["label", "prediction", "split"];
  const now = () => layouts[which];
  const frame = () => now().frames[at];
  let places = [];
  const draw = () => {
    const { pen, width, height } = surface($("map"));
    const { labels, held_out: held, colors } = now();
    const all = now().frames.map((f) => unpack(f.points).values);
    const values = all[at];
    let [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
    for (const one of all) for (let i = 0; i < one.length; i++) { low[i % 2] = Math.min(low[i % 2], one[i]); high[i % 2] = Math.max(high[i % 2], one[i]); }
    const scale = (Math.min(width, height) - 28) / (Math.max(high[0] - low[0], high[1] - low[1]) || 1);
    const [first, second, ink, paper] = ["first", "second", "ink", "card"].map(color);
    places = labels.map((_, i) => [width / 2 + (values[2 * i] - (low[0] + high[0]) / 2) * scale, height / 2 + (values[2 * i + 1] - (low[1] + high[1]) / 2) * scale]);
    const radius = labels.length > 500 ? 3 : 4.5;
    places.forEach(([x, y], i) => {
      const value = by === 1 ? frame().predictions[i] : labels[i];
      pen.fillStyle = by === 2 ? (held[i] ? first : second) : colors[value] ?? ink;
      pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.fill();
      pen.lineWidth = 0.6; pen.strokeStyle = paper; pen.stroke();
      if (frame().predictions[i] !== labels[i]) { pen.strokeStyle = ink; pen.lineWidth = 1.4; pen.beginPath(); pen.arc(x, y, radius + 3, 0, 7); pen.stroke(); }
    });
    if (places[chosen]) { pen.strokeStyle = ink; pen.lineWidth = 3; pen.beginPath(); pen.arc(...places[chosen], radius + 7, 0, 7); pen.stroke(); }
    $("map-epoch").textContent = epochName(frame().epoch);
    say();
  };
  const say = () => {
    const { classes, labels, held_out: held, held_out_name: other, sheet } = now();
    const pictures = page.layouts.sheets[sheet];
    const wrong = labels.filter((l, i) => l !== frame().predictions[i]).length;
    $("map-count").textContent = `${wrong} of ${labels.length} taken for something else`;
    const [label, said] = [classes[labels[chosen]], classes[frame().predictions[chosen]]];
    $("map-text").textContent = `${label}, ${label === said ? "recognised" : `taken for ${said}`}; ${held[chosen] ? other : "training"} image.`;
    if (pictures) paint($("map-picture"), pictures, sheets[sheet], chosen);
  };
  const key = () => {
    const entries = by === 2 ? [["training", "var(--second)"], [now().held_out_name, "var(--first)"]] : now().classes.map((name, k) => [name, now().colors[k]]);
    $("map-key").replaceChildren(...entries.map(([name, shade]) => { const dot = el("i", { className: "swatch" }); dot.style.background = shade; return el("li", {}, dot, name); }));
  };
  const reset = () => {
    at = now().frames.length - 1;
    chosen = Math.max(0, now().labels.findIndex((l, i) => l !== frame().predictions[i]));
    Object.assign($("map-slider"), { max: at, value: at });
    $("map-time").hidden = at === 0;
    $("map-picture").getContext("2d").clearRect(0, 0, 140, 140);
    key(); draw();
  };
  segmentedControl("map-layer", layouts.map((l) => l.name), (i) => { which = i; reset(); });
  $("map-layer").querySelectorAll("input")[which].checked = true;
  segmentedControl("map-color", BY, (i) => { by = i; key(); draw(); });
  $("map-slider").addEventListener("input", () => { at = Number($("map-slider").value); draw(); });
  const point = (event) => {
    const box = $("map").getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const distance = (p) => (p[0] - x) ** 2 + (p[1] - y) ** 2;
    chosen = places.reduce((best, p, i) => (distance(p) < distance(places[best]) ? i : best), 0);
    draw();
  };
  $("map").addEventListener("pointermove", point);
  $("map").addEventListener("pointerdown", point);
  $("map").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    chosen = (chosen + step + places.length) % places.length;
    draw();
  });
  reset();
  redraws.push(draw);
}

async function startMatrix() {
  if (!page.test) return;
  show("matrix");
  const { classes, cells, pictures, where } = page.test;
  const [n, image] = [classes.length, await loaded(pictures?.sheet)];
  const counts = new Map(cells.map(([t, p, c]) => [t * n + p, c]));
  const rows = classes.map((_, t) => cells.filter((c) => c[0] === t).reduce((sum, c) => sum + c[2], 0));
  const confused = cells.filter(([t, p]) => t !== p).sort((a, b) => b[2] - a[2]);
  let cell = confused.length ? confused[0].slice(0, 2) : [cells[0][0], cells[0][1]];
  const labelled = n <= 20;
  const draw = () => {
    const { pen, width, height } = surface($("matrix"));
    const left = labelled ? 70 : 6;
    const [side, hue, ink, paper, soft] = [(Math.min(width, height) - left - 6) / n, color("second"), color("ink"), color("paper"), color("soft")];
    const box = (t, p) => [left + p * side, left + t * side, Math.max(side - (n > 40 ? 0 : 1), 0.5), Math.max(side - (n > 40 ? 0 : 1), 0.5)];
    pen.fillStyle = color("well"); pen.fillRect(left, left, n * side, n * side);
    pen.textAlign = "center"; pen.textBaseline = "middle";
    for (const [t, p, count] of cells) {
      const share = count / rows[t];
      pen.globalAlpha = t === p ? 0.15 + 0.6 * share : Math.min(1, 0.25 + 2 * share);
      pen.fillStyle = t === p ? hue : color("first");
      pen.fillRect(...box(t, p));
      pen.globalAlpha = 1;
      pen.fillStyle = ink;
      if (side > 22) pen.fillText(count, left + (p + 0.5) * side, left + (t + 0.5) * side);
    }
    pen.fillStyle = soft;
    if (labelled) classes.forEach((name, k) => {
      pen.textAlign = "right"; pen.fillText(name.slice(0, 9), left - 6, left + (k + 0.5) * side);
      pen.save(); pen.translate(left + (k + 0.5) * side, left - 6); pen.rotate(name.length > 2 ? -0.7 : 0); pen.textAlign = name.length > 2 ? "left" : "center"; pen.fillText(name.slice(0, 9), 0, name.length > 2 ? 0 : -5); pen.restore();
    });
    pen.strokeStyle = ink; pen.lineWidth = 2.5; pen.strokeRect(...box(...cell));
  };
  const open = (t, p) => {
    cell = [t, p];
    const count = counts.get(t * n + p) ?? 0;
    $("cell-text").textContent = t === p ? `${classes[t]}: ${count} of ${rows[t]} right` : `${classes[t]}, taken for ${classes[p]}: ${count} of ${rows[t]}`;
    const found = where.find((w) => w[0] === t && w[1] === p);
    $("cell-pictures").replaceChildren(...(found && image ? Array.from({ length: found[3] }, (_, i) => thumb(pictures, image, found[2] + i, 64)) : []));
    draw();
  };
  $("matrix").addEventListener("click", (event) => {
    const box = $("matrix").getBoundingClientRect();
    const left = labelled ? 70 : 6;
    const side = (Math.min(box.width, box.height) - left - 6) / n;
    const inside = (v) => Math.max(0, Math.min(n - 1, Math.floor((v - left) / side)));
    open(inside(event.clientY - box.top), inside(event.clientX - box.left));
  });
  $("matrix").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    open(...cell.map((v, i) => Math.max(0, Math.min(n - 1, v + step[i]))));
  });
  $("pairs").append(...confused.slice(0, 8).map(([t, p, count]) => {
    const button = el("button", { type: "button" }, `${classes[t]} → ${classes[p]}, ${count} of ${rows[t]}`);
    button.addEventListener("click", () => open(t, p));
    return el("li", {}, button);
  }));
  if (!confused.length) $("pairs").append(el("li", {}, "nothing"));
  open(...cell);
  redraws.push(draw);
  show("calibration");
  const { calibration, calibration_error: error } = page.test;
  $("calibration-text").textContent = `Of the images that it was so sure of, how many it got right. On the dashed line it would be exactly as often right as it says; on average it is ${(100 * error).toFixed(1)} % off.`;
  chart($("calibration"), [{ name: "share that is right", color: "second", points: calibration.map((r) => [r.confidence, r.accuracy]) }], { x: "confidence", xRange: [0, 1], yRange: [0, 1.02], diagonal: true });
}

const over = (base, map) => el("div", { className: map ? "over dim" : "over" }, el("img", { src: base, alt: "" }), map ? el("img", { src: map, alt: "" }) : null);

function startMistakes() {
  if (!page.mistakes.length) return;
  show("mistakes");
  for (const m of page.mistakes) $("mistakes").append(el("li", {}, el("div", { className: "trio" }, over(m.picture), over(m.picture, m.for_predicted), over(m.picture, m.for_true)),
    el("p", { className: "caption" }, el("b", { className: "second" }, m.label), ` ${percent(m.p_true)}, taken for `, el("b", { className: "first" }, m.predicted), ` ${percent(m.p_predicted)}`)));
}

function startSaliency() {
  for (const set of page.saliency) {
    show("saliency");
    const [word, strips] = [el("span", { className: "label" }), el("div")];
    const slider = el("input", { type: "range", className: "saliency-slider", min: 0, max: set.frames.length - 1, value: set.frames.length - 1 });
    slider.setAttribute("aria-label", "epoch");
    const draw = () => {
      const frame = set.frames[slider.value];
      word.textContent = epochName(frame.epoch);
      const several = Object.keys(frame.maps).length > 1;
      strips.replaceChildren(...Object.entries(frame.maps).flatMap(([row, maps]) => [several ? el("p", { className: "faint" }, row) : null, el("div", { className: "strip" }, ...maps.map((map, i) => {
        const [said, p] = frame.said[i];
        return el("div", { title: row }, over(set.images[i], map), el("span", { className: said === set.labels[i] ? "" : "wrong" }, `${said}, ${percent(p)}`));
      }))].filter(Boolean)));
    };
    slider.addEventListener("input", draw);
    const label = el("label", { className: "slider" }, word, slider);
    label.hidden = set.frames.length < 2;
    $("saliency").append(label, strips);
    draw();
  }
}

async function start() {
  startResults(); startCurves(); startFits(); startMistakes(); startSaliency();
  await startMap();
  await startMatrix();
  const all = () => redraws.forEach((draw) => draw());
  all();
  addEventListener("resize", all);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  document.documentElement.dataset.ready = "";
}
start();

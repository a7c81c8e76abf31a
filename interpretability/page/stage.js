// The picture and what is drawn over it.

const photos = []; // filled by start()
const sheets = [];
const groupSheets = [];

const stage = $("stage");
const overlay = $("overlay");
const CAPTIONS = {
  evidence: () => [
    "Each square is a place of this layer; the larger, the more it argues ",
    el("b", { className: "first" }, el("i", { className: "swatch first" }), `for ${firstName()}`),
    " or ",
    el("b", { className: "second" }, el("i", { className: "swatch second" }), secondName() ? `for ${secondName()}` : "against it"),
    ".",
  ],
  detectors: () => ["At each place, the detector that fires most there; the larger, the more it fires. This is the picture in the layer’s own words."],
  groups: () => ["At each place, the colour of the neuron group that fires most there. Point at a group further down to see it alone."],
  plain: () => ["The picture as the network gets it."],
};

/** Draw a detector's picture, or the piece of the photo where it fires most, into a rectangle. */
function drawDetector(context, layer, channel, x, y, width, height) {
  const position = layer.pictured.indexOf(channel);
  const sheet = sheets[page.layers.indexOf(layer)];
  if (position >= 0) return drawFromSheet(context, sheet, layer, position, layer.pictured.length, x, y, width, height);
  const [rows, columns] = layer.grid;
  const index = at(layer.strongest, channel);
  drawCrop(context, photos[0], (Math.floor(index / columns) + 0.5) / rows, ((index % columns) + 0.5) / columns, x, y, width, height);
}

function drawFromSheet(context, sheet, layer, position, count, x, y, width, height) {
  const [w, h] = [sheet.naturalWidth / layer.columns, sheet.naturalHeight / Math.ceil(count / layer.columns)];
  context.imageSmoothingEnabled = w > 40;
  context.drawImage(sheet, (position % layer.columns) * w, Math.floor(position / layer.columns) * h, w, h, x, y, width, height);
}

/** A fifth of the photo about a place, kept inside it. */
function drawCrop(context, photo, fy, fx, x, y, width, height) {
  const [w, h] = [photo.naturalWidth, photo.naturalHeight];
  const side = Math.min(w, h) * (w < 64 ? 0.36 : 0.17);
  const left = Math.min(w - side, Math.max(0, fx * w - side / 2));
  const top = Math.min(h - side, Math.max(0, fy * h - side / 2));
  context.imageSmoothingEnabled = w >= 64;
  context.drawImage(photo, left, top, side, side, x, y, width, height);
}

function tile(layer, channel) {
  const pictured = layer.pictured.includes(channel);
  const canvas = el("canvas", { className: pictured ? "tile" : "tile patch", width: 96, height: 96 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", pictured ? `What excites detector ${channel}` : `Where detector ${channel} fires most`);
  drawDetector(canvas.getContext("2d"), layer, channel, 0, 0, 96, 96);
  return canvas;
}

function groupTile(index, group) {
  const layer = page.layers[index];
  const canvas = el("canvas", { className: "tile", width: 96, height: 96 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `What excites group ${group + 1} of ${layer.name}`);
  drawFromSheet(canvas.getContext("2d"), groupSheets[index], layer, group, layer.groups.count, 0, 0, 96, 96);
  return canvas;
}

/** Squares whose area is the value's share of the largest, at every cell. */
function drawSquares(context, values, paint) {
  const [rows, columns] = layerNow().grid;
  const [w, h] = [overlay.width / columns, overlay.height / rows];
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  values.forEach((value, i) => {
    const size = Math.sqrt(Math.abs(value) / largest) * 0.94;
    if (size < 0.12) return;
    const [row, column] = [Math.floor(i / columns), i % columns];
    paint(value, i, (column + (1 - size) / 2) * w, (row + (1 - size) / 2) * h, size * w, size * h);
  });
}

function square(context, fill, x, y, width, height) {
  context.fillStyle = fill;
  context.beginPath();
  context.roundRect(x, y, width, height, Math.min(width, height) * 0.22);
  context.fill();
}

const PAINTERS = {
  evidence(context) {
    const [positive, negative] = ["#ff9f45", "#6ea8ff"];
    drawSquares(context, evidence(), (value, i, ...box) => square(context, value > 0 ? positive : negative, ...box));
  },
  detectors(context) {
    const first = layerNow().grid[0] * layerNow().grid[1];
    const channels = unpack(viewNow().top).values;
    drawSquares(context, unpack(viewNow().activations).values.slice(0, first).map((value) => Math.max(0, value)), (value, i, ...box) =>
      drawDetector(context, layerNow(), channels[i], ...box));
  },
  groups(context) {
    const groups = layerNow().groups;
    if (!groups) return;
    const cells = layerNow().grid[0] * layerNow().grid[1];
    const places = groupPlaces();
    const owners = new Uint8Array(cells);
    const strongest = Float32Array.from({ length: cells }, (_, i) => {
      for (let g = 1; g < groups.count; g++) if (places[g * cells + i] > places[owners[i] * cells + i]) owners[i] = g;
      return places[owners[i] * cells + i];
    });
    drawSquares(context, strongest, (value, i, ...box) => square(context, groupColor(owners[i]), ...box));
  },
  plain() {},
};

/** The places (G · h · w) of the layer's groups in the picture now shown. */
function groupPlaces() {
  const { values, shape } = unpack(layerNow().groups.places);
  const size = shape[1] * shape[2] * shape[3];
  return values.subarray(state.view * size, (state.view + 1) * size);
}

function drawStage() {
  $("photo").src = page.views[state.view].picture;
  const context = overlay.getContext("2d");
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  overlay.width = Math.round(stage.clientWidth * ratio);
  overlay.height = Math.round(stage.clientHeight * ratio);
  const cells = layerNow().grid[0] * layerNow().grid[1];
  stage.dataset.mode = state.mode;
  if (state.group !== null && layerNow().groups) {
    stage.dataset.mode = "groups";
    const places = groupPlaces().slice(state.group * cells, (state.group + 1) * cells);
    drawSquares(context, places, (value, i, ...box) => square(context, groupColor(state.group), ...box));
  } else if (state.channel !== null) {
    stage.dataset.mode = "groups";
    drawSquares(context, firingOf(state.channel), (value, i, ...box) => square(context, "#ffffff", ...box));
  } else PAINTERS[state.mode](context);
  drawCaption();
}

function drawCaption() {
  const alone = state.group !== null ? `Where group ${state.group + 1} fires.` : state.channel !== null ? `Where detector ${state.channel} is among the strongest.` : null;
  $("stage-caption").replaceChildren(...(alone ? [alone] : CAPTIONS[state.mode]()));
}

function drawCursor() {
  const fractions = state.hover ?? state.place;
  $("cursor").hidden = fractions === null;
  if (fractions === null) return;
  const [rows, columns] = layerNow().grid;
  const [row, column] = cellAt(fractions);
  const style = $("cursor").style;
  style.left = `${(100 * column) / columns}%`;
  style.top = `${(100 * row) / rows}%`;
  style.width = `${100 / columns}%`;
  style.height = `${100 / rows}%`;
}

function fractionsOf(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function moveOnStage(event) {
  const move = MOVES[event.key];
  if (!move) return;
  event.preventDefault();
  const cell = cellAt(state.place);
  update({ hover: null, place: centreOf(cellAt(centreOf([cell[0] + move[0], cell[1] + move[1]]))) });
}

function startStage() {
  const [height, width] = page.size;
  $("photo").classList.toggle("pixelated", width < 64);
  $("photo").width = width;
  $("photo").height = height;
  stage.addEventListener("pointermove", (event) => event.pointerType === "mouse" && update({ hover: fractionsOf(event) }));
  stage.addEventListener("pointerleave", () => update({ hover: null }));
  stage.addEventListener("click", (event) => update({ hover: null, place: centreOf(cellAt(fractionsOf(event))) }));
  stage.addEventListener("keydown", moveOnStage);
  new ResizeObserver(drawStage).observe(stage);
  watch(["view", "layer", "first", "second", "mode", "channel", "group"], drawStage);
  watch(["view", "layer", "place", "hover"], drawCursor);
}

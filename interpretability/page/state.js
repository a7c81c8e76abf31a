// The one state of the page, and what follows from it.

const state = {
  view: 0, // 0 the photo, 1 its adversarial twin
  layer: Math.max(0, page.layers.length - 2),
  first: 0,
  second: page.classes.length > 1 ? 1 : -1, // -1: against nothing
  mode: "evidence",
  place: null, // what is kept, as fractions [y, x] of the picture
  hover: null, // what is pointed at, likewise
  channel: null, // the detector pointed at
  group: null, // the group pointed at or chosen
};

const watchers = [];
function watch(keys, redraw) {
  watchers.push([keys, redraw]);
}

/** Change the state and redraw what depends on the keys that changed. */
function update(changes) {
  const changed = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  Object.assign(state, changes);
  for (const [keys, redraw] of watchers) if (keys.some((key) => changed.includes(key))) redraw();
}

const layerNow = () => page.layers[state.layer];
const viewNow = () => layerNow().views[state.view];
const firstName = () => page.classes[state.first];
const secondName = () => (state.second < 0 ? null : page.classes[state.second]);

/** Class against class: entries [k, …] of a packed array for the first class, less those for the second. */
function versus(packed, ...rest) {
  return at(packed, state.first, ...rest) - (state.second < 0 ? 0 : at(packed, state.second, ...rest));
}

/** The cell [row, column] of the layer now shown under fractions of the picture. */
function cellAt(fractions) {
  const [rows, columns] = layerNow().grid;
  const inside = (fraction, count) => Math.min(count - 1, Math.max(0, Math.floor(fraction * count)));
  return [inside(fractions[0], rows), inside(fractions[1], columns)];
}

const centreOf = ([row, column]) => [(row + 0.5) / layerNow().grid[0], (column + 0.5) / layerNow().grid[1]];

/** The detectors that fire at a cell, strongest first. */
function detectorsAt([row, column]) {
  const { top, activations, effects } = viewNow();
  const found = [];
  for (let rank = 0; rank < top.shape[0]; rank++) {
    const activation = at(activations, rank, row, column);
    if (activation <= 0) break;
    found.push({ channel: at(top, rank, row, column), activation, effect: versus(effects, rank, row, column) });
  }
  return found;
}

/** Where a channel is among the strongest: its activation by cell, 0 elsewhere. */
function firingOf(channel) {
  const { top, activations } = viewNow();
  const [ranks, rows, columns] = top.shape;
  const [channels, strengths] = [unpack(top).values, unpack(activations).values];
  const found = new Float32Array(rows * columns);
  for (let i = 0; i < ranks * found.length; i++) if (channels[i] === channel) found[i % found.length] = strengths[i];
  return found;
}

/** The evidence of each cell for the first class against the second. */
function evidence() {
  const [rows, columns] = layerNow().grid;
  return Float32Array.from({ length: rows * columns }, (_, i) => versus(viewNow().spatial, Math.floor(i / columns), i % columns));
}

function strongestCell() {
  const values = evidence();
  const index = values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  return [Math.floor(index / layerNow().grid[1]), index % layerNow().grid[1]];
}

const GROUP_COLORS = ["#e9a100", "#3aa6e8", "#12a67c", "#d6619f", "#8d6be8", "#d4572a", "#8a9a2b", "#7f8a95"];
const groupColor = (group) => GROUP_COLORS[group % GROUP_COLORS.length];

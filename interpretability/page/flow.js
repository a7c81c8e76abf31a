// From layer to layer: groups as columns of pictures, bands between them.

const BANDS = 14; // the strongest between two layers are drawn
const SVG = "http://www.w3.org/2000/svg";

function column(title, nodes, className = "") {
  return el("div", { className: `column ${className}` }, el("h3", {}, title),
    el("div", { className: "nodes" }, ...nodes.map((node) => el("div", { className: "node" }, node))));
}

function groupNode(index, group) {
  const canvas = groupTile(index, group);
  canvas.style.setProperty("--group", groupColor(group));
  return canvas;
}

/** Bands [from, to, value, title] between columns of so many nodes; thickness relative to `largest`. */
function bands(links, left, right, largest) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const room = 0.8 * (100 / Math.max(left, right));
  links.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  for (const [from, to, value, title] of links.slice(0, BANDS)) {
    const half = (room * Math.abs(value)) / largest / 2;
    const [y, z] = [(100 * (from + 0.5)) / left, (100 * (to + 0.5)) / right];
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", `M0 ${y - half}C50 ${y - half} 50 ${z - half} 100 ${z - half}V${z + half}C50 ${z + half} 50 ${y + half} 0 ${y + half}Z`);
    path.setAttribute("class", value >= 0 ? "first" : "second");
    path.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
    svg.append(path);
  }
  return svg;
}

function linksBetween(index) {
  const flow = page.flows[index];
  const [, , left, right] = flow.shape;
  const value = (k, i, j) => (k < 0 ? 0 : at(flow, state.view, k, i, j));
  const links = [];
  for (let i = 0; i < left; i++)
    for (let j = 0; j < right; j++) {
      const carried = value(state.first, i, j) - value(state.second, i, j);
      links.push([i, j, carried, `group ${i + 1} → group ${j + 1}: ${effect(carried)}`]);
    }
  return links;
}

function drawFlow() {
  const grouped = page.layers.every((layer) => layer.groups);
  $("flow-section").hidden = !grouped;
  if (!grouped) return;
  const last = page.layers.length - 1;
  const final = Array.from({ length: page.layers[last].groups.count }, (_, group) => {
    const value = groupEffect(last, group);
    return [group, value >= 0 ? 0 : 1, value, `group ${group + 1}: ${effect(value)}`];
  });
  const all = [...page.flows.map((_, index) => linksBetween(index)), final];
  const largest = Math.max(...all.flat().map((link) => Math.abs(link[2]))) || 1;
  const parts = [];
  page.layers.forEach((layer, index) => {
    parts.push(column(layer.name, Array.from({ length: layer.groups.count }, (_, group) => groupNode(index, group))));
    parts.push(bands(all[index], layer.groups.count, index < last ? page.layers[index + 1].groups.count : 2, largest));
  });
  parts.push(column("decision", [el("span", { className: "first" }, firstName()),
    el("span", { className: "second" }, secondName() ?? `not ${firstName()}`)], "ends"));
  $("flow").replaceChildren(...parts);
}

function startFlow() {
  watch(["view", "first", "second"], drawFlow);
}

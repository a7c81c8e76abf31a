// What stands beside and under the picture.

const TILES = 10;

/** A bar from the left, or, for effects, from the middle. */
function bar(value, largest, className = "") {
  const share = Math.min(1, Math.abs(value) / (largest || 1));
  const fill = el("i");
  const two = className === "effect";
  fill.style.width = `${share * (two ? 50 : 100)}%`;
  fill.style.left = two && value < 0 ? `${50 - share * 50}%` : two ? "50%" : "0";
  return el("div", { className: `bar ${two ? `two ${value < 0 ? "second" : "first"}` : className}` }, fill);
}

const sideOf = (value) => (value >= 0 ? `for ${firstName()}` : secondName() ? `for ${secondName()}` : `against ${firstName()}`);

const largestOf = (packed) => unpack(packed).values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function drawInspector() {
  const cell = cellAt(state.hover ?? state.place);
  const [fy, fx] = centreOf(cell);
  drawCrop($("place-crop").getContext("2d"), photos[state.view], fy, fx, 0, 0, 96, 96);
  const value = versus(viewNow().spatial, ...cell);
  $("place-title").textContent = `Row ${cell[0] + 1}, column ${cell[1] + 1} of ${layerNow().grid.join(" × ")}`;
  $("place-sum").replaceChildren("This place argues ", el("b", { className: value >= 0 ? "first" : "second" }, `${magnitude(Math.abs(value))} ${sideOf(value)}`));
  const found = detectorsAt(cell);
  const largest = largestOf(viewNow().activations);
  const most = largestOf(viewNow().effects);
  const rows = found.map((one) => {
    const row = el("li", { className: "detector" }, tile(layerNow(), one.channel), el("div", {},
      el("p", { className: "name" }, `Detector ${one.channel}`),
      el("div", { className: "bars" },
        el("span", {}, "fires"), bar(one.activation, largest), el("output", {}, `${Math.round((100 * one.activation) / largest)} %`),
        el("span", {}, "effect"), bar(one.effect, most, "effect"), el("output", { title: sideOf(one.effect) }, effect(one.effect)))));
    row.addEventListener("pointerenter", () => update({ channel: one.channel }));
    row.addEventListener("pointerleave", () => update({ channel: null }));
    return row;
  });
  $("detectors").replaceChildren(...(rows.length ? rows : [el("li", { className: "caption" }, "Nothing fires here in this layer.")]));
}

function drawChannels() {
  const layer = layerNow();
  const sums = Array.from({ length: layer.channels }, (_, channel) => [channel, versus(viewNow().channel, channel)]);
  sums.sort((a, b) => b[1] - a[1]);
  const largest = Math.max(Math.abs(sums[0][1]), Math.abs(sums.at(-1)[1]));
  const list = (side, rows) => $(`channels-${side}`).replaceChildren(...rows.map(([channel, value]) => {
    const item = el("li", {}, tile(layer, channel), bar(value, largest, side), el("b", {}, magnitude(Math.abs(value))), el("small", {}, `no. ${channel}`));
    item.addEventListener("pointerenter", () => update({ channel }));
    item.addEventListener("pointerleave", () => update({ channel: null }));
    return item;
  }));
  list("first", sums.filter(([, value]) => value > 0).slice(0, TILES));
  list("second", sums.filter(([, value]) => value < 0).slice(-TILES).reverse());
  $("channels-first-title").textContent = `For ${firstName()}`;
  $("channels-second-title").textContent = secondName() ? `For ${secondName()}` : `Against ${firstName()}`;
}

/** The photo where a group fires, darker elsewhere. */
function groupPlace(group) {
  const [rows, columns] = layerNow().grid;
  const mask = el("canvas", { width: columns, height: rows });
  const values = groupPlaces().slice(group * rows * columns, (group + 1) * rows * columns);
  const largest = values.reduce((most, value) => Math.max(most, value), 0) || 1;
  const pixels = mask.getContext("2d").createImageData(columns, rows);
  values.forEach((value, i) => { pixels.data[4 * i + 3] = 255 * (0.1 + 0.9 * Math.sqrt(value / largest)); });
  mask.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = el("canvas", { className: "tile", width: 192, height: 192 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Where group ${group + 1} fires`);
  const context = canvas.getContext("2d");
  context.drawImage(mask, 0, 0, 192, 192);
  context.globalCompositeOperation = "source-in";
  context.imageSmoothingEnabled = page.size[1] >= 64;
  context.drawImage(photos[state.view], 0, 0, 192, 192);
  return canvas;
}

function groupCard(group, largest) {
  const { groups } = layerNow();
  const net = groupEffect(state.layer, group);
  const rows = page.classes.slice(0, 6).flatMap((name, k) => {
    const value = at(groups.effects, state.view, k, group);
    return [el("span", { title: name, className: k === state.first ? "first" : k === state.second ? "second" : "" }, name),
      bar(value, largest, "effect"), el("output", {}, effect(value))];
  });
  const card = el("li", { className: "group", tabIndex: 0 },
    el("h3", {}, `Group ${group + 1}`, el("span", { className: net >= 0 ? "first" : "second" }, `${magnitude(Math.abs(net))} ${sideOf(net)}`)),
    el("div", { className: "pair" }, groupTile(state.layer, group), groupPlace(group)),
    el("div", { className: "bars" }, ...rows));
  card.style.setProperty("--group", groupColor(group));
  card.setAttribute("role", "button");
  card.setAttribute("aria-pressed", "false");
  const toggle = () => {
    const chosen = card.getAttribute("aria-pressed") !== "true";
    for (const other of $("groups").children) other.setAttribute("aria-pressed", "false");
    card.setAttribute("aria-pressed", String(chosen));
    update({ group: chosen ? group : null });
  };
  card.addEventListener("click", toggle);
  card.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && (event.preventDefault(), toggle()));
  return card;
}

/** What a group does for the first class against the second, in the picture now shown. */
function groupEffect(index, group) {
  const { effects } = page.layers[index].groups;
  return at(effects, state.view, state.first, group) - (state.second < 0 ? 0 : at(effects, state.view, state.second, group));
}

function drawGroups() {
  const { groups } = layerNow();
  update({ group: null });
  if (!groups) {
    $("groups-error").textContent = "";
    return $("groups").replaceChildren(el("li", { className: "caption" }, "This layer is silent on this image: nothing to group."));
  }
  const count = groups.count;
  $("groups-error").textContent = `Here ${count} groups account for ${percent(1 - groups.error ** 2)} of what fires (squared).`;
  const largest = largestOf(groups.effects);
  $("groups").replaceChildren(...Array.from({ length: count }, (_, group) => groupCard(group, largest)));
}

function drawMethods() {
  $("methods-class").textContent = firstName();
  $("methods").replaceChildren(...page.methods.map((method) => {
    const picture = method.maps
      ? el("div", { className: "map" }, el("img", { src: page.views[state.view].picture, alt: "" }),
          el("img", { src: method.maps[state.view][state.first], alt: `${method.title} for ${firstName()}` }))
      : el("p", { className: "caption" }, `Not for this model: ${method.missing}`);
    if (method.maps) for (const image of picture.children) image.classList.toggle("pixelated", page.size[1] < 64);
    return el("li", {}, picture, el("h3", {}, method.title), el("p", { className: "caption" }, method.text));
  }));
}

function drawPredictions() {
  $("predictions-title").textContent = state.view ? "What it says of the twin" : "What it says";
  $("predictions").replaceChildren(...page.views[state.view].predictions.map(([name, probability]) => {
    const fill = el("i");
    fill.style.width = `${100 * probability}%`;
    return el("li", {}, el("b", {}, name), el("span", {}, percent(probability)), el("div", { className: "meter" }, fill));
  }));
}

function drawTwin() {
  const [photo, twin] = page.views.map((view) => view.predictions[0]);
  const { largest, picture } = page.noise;
  const fooled = photo[0] !== twin[0];
  $("twin-text").textContent = !largest
    ? "No change was allowed, so the twin is the original."
    : `No pixel differs by more than ${largest} of 255 levels, and yet ` +
      (fooled ? `the network now says ${twin[0]}. Look inside it: what changed is which detectors fire, not what you see.`
        : `nothing within reach made the network change its mind: it still says ${twin[0]}.`);
  const figure = (uri, title, text, ...more) => {
    const image = el("img", { src: uri, alt: title });
    image.classList.toggle("pixelated", page.size[1] < 64);
    return el("figure", {}, image, el("figcaption", {}, el("b", {}, title), el("br"), text, ...more));
  };
  const look = el("button", { type: "button", textContent: "Look inside the twin" });
  look.addEventListener("click", () => { choose("views", 1); window.scrollTo({ top: 0 }); stage.focus(); });
  $("twin").replaceChildren(
    figure(page.views[0].picture, "The original", `${photo[0]}, ${percent(photo[1])}`),
    figure(picture, "The change", largest ? `shown ${Math.max(1, Math.round(127 / largest))} times as strong` : "none"),
    figure(page.views[1].picture, "Its twin", `${twin[0]}, ${percent(twin[1])}`, el("br"), look));
}

function startPanels() {
  watch(["view", "layer", "first", "second", "place", "hover"], drawInspector);
  watch(["view", "layer", "first", "second"], drawChannels);
  watch(["view", "layer", "first", "second"], drawGroups);
  watch(["view", "first"], drawMethods);
  watch(["view"], drawPredictions);
  $("fade").addEventListener("input", () => $("methods").style.setProperty("--fade", $("fade").value / 100));
}

// Controls, keyboard, theme, and the start.

const MODES = [["evidence", "Evidence"], ["detectors", "Detectors"], ["groups", "Groups"], ["plain", "Plain"]];

/** Radio buttons that look like one segmented control; options are [value, label, tooltip]. */
function segmented(id, options, current, onChoose) {
  for (const [value, label, title = ""] of options) {
    const input = el("input", { type: "radio", name: id, value, checked: value === current });
    input.addEventListener("change", () => {
      onChoose(value);
      input.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    $(id).append(el("label", { title }, input, el("span", { className: "option" }, label)));
  }
}

/** Choose the option at `index` of a segmented control as a click would. */
function choose(id, index) {
  const input = $(id).querySelectorAll("input")[index];
  if (input && !input.checked) input.click();
}

function startControls() {
  segmented("views", [[0, "Original"], [1, "Twin", "The adversarial twin"]], state.view, (view) => update({ view }));
  segmented("layers", page.layers.map((layer, i) => [i, layer.name, `${layer.grid.join(" × ")} places, ${layer.channels} detectors`]), state.layer, (layer) => update({ layer }));
  segmented("modes", MODES, state.mode, (mode) => update({ mode, group: null }));
  for (const [id, extra] of [["first", []], ["second", [[-1, "nothing"]]]]) {
    $(id).append(...[...page.classes.map((name, k) => [k, name]), ...extra].map(([value, label]) => el("option", { value, textContent: label })));
    $(id).value = state[id];
    $(id).addEventListener("change", () => setClasses({ [id]: Number($(id).value) }, id));
  }
  $("swap").addEventListener("click", swap);
  $("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
}

/** Choose classes; where both would be the same, the other one gives way. */
function setClasses(changes, kept) {
  const next = { first: state.first, second: state.second, ...changes };
  if (next.first === next.second) {
    if (kept === "first") next.second = state.first === next.first ? -1 : state.first;
    else next.first = state.second >= 0 && state.second !== next.second ? state.second : page.classes.findIndex((_, k) => k !== next.second);
  }
  $("first").value = next.first;
  $("second").value = next.second;
  update(next);
}

function swap() {
  if (state.second >= 0) setClasses({ first: state.second, second: state.first });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=range]")) return;
  const key = event.key.toLowerCase();
  const mode = MODES.findIndex(([name]) => name[0] === key);
  if (mode >= 0) choose("modes", mode);
  else if (key >= "1" && key <= "9") choose("layers", Number(key) - 1);
  else if (key === "s") swap();
  else if (key === "t") choose("views", 1 - state.view);
}

async function start() {
  photos.push(...(await Promise.all(page.views.map((view) => loaded(view.picture)))));
  sheets.push(...(await Promise.all(page.layers.map((layer) => loaded(layer.sheet)))));
  groupSheets.push(...(await Promise.all(page.layers.map((layer) => loaded(layer.groups?.sheet)))));
  startControls();
  startStage();
  startPanels();
  startFlow();
  drawTwin();
  document.addEventListener("keydown", onKey);
  state.place = centreOf(strongestCell());
  for (const redraw of new Set(watchers.map(([, redraw]) => redraw))) redraw();
  document.documentElement.dataset.ready = "";
}

start();

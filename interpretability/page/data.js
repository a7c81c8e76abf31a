// What the page knows, and small helpers to read it and to build elements. Text is only ever set as text.

const page = JSON.parse(document.getElementById("data").textContent);
const decoded = new WeakMap();

/** An array as Python packed it: {shape, values}. */
function unpack(packed) {
  if (!decoded.has(packed)) {
    const bytes = Uint8Array.from(atob(packed.data), (char) => char.charCodeAt(0));
    const numbers = new DataView(bytes.buffer);
    const values = Float32Array.from({ length: bytes.length / 2 }, (_, i) => numbers.getInt16(2 * i, true) * packed.scale);
    decoded.set(packed, { shape: packed.shape, values });
  }
  return decoded.get(packed);
}

/** One number of a packed array, by its indices. */
function at(packed, ...indices) {
  const { shape, values } = unpack(packed);
  return values[indices.reduce((offset, index, axis) => offset * shape[axis] + index, 0)];
}

const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function loaded(uri) {
  if (!uri) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = uri;
  });
}

const effect = (value) => (Math.abs(value) < 0.0005 ? "0" : (value < 0 ? "−" : "+") + magnitude(Math.abs(value)));
const percent = (value) => (value > 0.9995 ? "> 99.9 %" : value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`);

function magnitude(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toFixed(3);
}

/** A colour of the style sheet as canvas understands it, in the theme that is on. */
function color(name) {
  const probe = document.body.appendChild(el("i"));
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

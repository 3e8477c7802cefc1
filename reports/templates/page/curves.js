// A small figure a curve, each in its own range; their texts come with them.
const SVG = "http://www.w3.org/2000/svg";

function drawing(tag, attributes, ...inside) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function curveOf({ name, x, y, low, high, first, last, span }) {
  const [width, height] = [240, 70];
  const [least, most] = [Math.min(...y), Math.max(...y)];
  const across = (value) => 2 + (value - x[0]) / (x.at(-1) - x[0] || 1) * (width - 4);
  const down = (value) => height - 3 - (value - least) / (most - least || 1) * (height - 6);
  const points = x.map((value, place) => `${across(value).toFixed(1)},${down(y[place]).toFixed(1)}`).join(" ");
  return make("figure", { class: "curve" },
    make("figcaption", {}, make("b", {}, name), ` ${first} → ${last}`),
    make("div", { class: "range" }, make("small", {}, high), make("small", {}, low)),
    drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", preserveAspectRatio: "none" },
      drawing("title", {}, `${name} from ${first} to ${last} over ${span}, between ${low} and ${high}`),
      drawing("polyline", { points, "vector-effect": "non-scaling-stroke" })));
}

// What the page is of, and how its elements are made: texts are set as text, never as markup.
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const metrics = new Map(page.metrics.map((metric) => [metric.key, metric]));
const rows = Object.keys(page.colours);
const found = new Map();
for (const one of page.cases) for (const take of one.takes) if (take.id) found.set(take.id, { take, of: one });

function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside.filter((one) => one !== null && one !== undefined));
  return element;
}

const number = (take, key) => take.values?.[key]?.[0];
const named = (one) => `${one.clip}, “${one.prompt}”, seed ${one.seed}`;
const ended = (take) => !["ok", "absent", "planned"].includes(take.status);

// Numbers that are not there come last, whatever the direction; equal ones keep their order.
function byNumber(list, numberOf, sign) {
  const known = new Map(list.map((one, place) => [one, [numberOf(one), place]]));
  return [...list].sort((a, b) => {
    const [[left, first], [right, second]] = [known.get(a), known.get(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined) || first - second;
    return sign * (left - right) || first - second;
  });
}

// Better first: -1 where higher is better.
const better = (key) => (metrics.get(key)?.lower ? 1 : -1);

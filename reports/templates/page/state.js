// What the reader chose stands in the address, so that a link or a reload shows the same.
const DEFAULTS = {
  metric: page.first.metric, row: page.first.row, table: "", order: "plan", find: "", group: "",
  failed: "", hide: [], at: "", take: "", beside: "",
};
const state = { ...DEFAULTS };
const watchers = [];

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const before = { ...state };
  for (const [key, usual] of Object.entries(DEFAULTS)) {
    state[key] = Array.isArray(usual) ? given.getAll(key) : given.get(key) ?? usual;
  }
  // An address may be older than the page.
  if (!metrics.has(state.metric)) state.metric = DEFAULTS.metric;
  if (!rows.includes(state.row)) state.row = DEFAULTS.row;
  if (!found.has(state.take)) state.take = "";
  return before;
}

function address(changes = {}) {
  const chosen = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...state, ...changes })) {
    if (Array.isArray(value)) value.forEach((one) => chosen.append(key, one));
    else if (value !== DEFAULTS[key]) chosen.set(key, value);
  }
  return `#${chosen}`;
}

function tell(before) {
  const same = (key) => String(before[key]) === String(state[key]);
  const changed = new Set(Object.keys(DEFAULTS).filter((key) => !same(key)));
  if (changed.size) watchers.forEach((watcher) => watcher(changed));
}

// `step`: the browser's Back leads to before it.
function choose(changes, step = false) {
  const before = { ...state };
  Object.assign(state, changes);
  const target = address();
  if (target !== (location.hash || "#")) {
    if (step) history.pushState(null, "", target);
    else history.replaceState(history.state, "", target);
  }
  tell(before);
}

addEventListener("popstate", () => tell(readAddress()));

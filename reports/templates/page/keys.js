// Dark and light: the system's choice until one is made here.
function remember(value) {
  try { // From disk a browser may refuse to store anything.
    if (value === undefined) return localStorage.getItem("vmtbench-theme");
    localStorage.setItem("vmtbench-theme", value);
  } catch { /* not remembered */ }
  return null;
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
}

function toggleTheme() {
  const { theme: chosen } = document.documentElement.dataset;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme(dark ? "light" : "dark");
  remember(document.documentElement.dataset.theme);
}

// From case to case, or from take to take in a take's own view.
function move(by) {
  if ($("take").open) return neighbour(by);
  const places = [...list.children];
  const now = places.indexOf(document.activeElement.closest?.(".case"));
  const next = places[now < 0 ? Math.max(0, places.findIndex((place) => place.id === state.at)) : Math.min(Math.max(0, now + by), places.length - 1)];
  if (!next) return undefined;
  goTo(next.id);
  return next.focus({ preventScroll: true });
}

const keys = {
  " ": () => play(!clock.playing),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Home: () => seek(0),
  "-": () => faster(-1),
  "+": () => faster(1),
  "=": () => faster(1),
  j: () => move(1),
  k: () => move(-1),
  f: () => { $("find").focus(); },
  t: () => { $("tracks").click(); },
  d: toggleTheme,
  "?": () => $("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !Object.hasOwn(keys, key)) return;
  // Away from the videos the browser's own scrolling keys stay what they are.
  if (!near.size && [" ", "ArrowLeft", "ArrowRight", "Home"].includes(key)) return;
  // What the focused control does with the key itself comes first; the time is ours.
  if (target.matches("input[type=search], select, #size, #cut")) return;
  if (key === " " && target.matches("button, a, summary, input[type=checkbox]")) return;
  if (key.length > 1 && target.matches(".scroll")) return;
  event.preventDefault();
  keys[key]();
});

$("theme").addEventListener("click", toggleTheme);
$("help").addEventListener("click", () => $("keys").showModal());
for (const link of document.querySelectorAll("a[data-to]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    goTo(link.dataset.to);
    $(link.dataset.to).focus({ preventScroll: true });
  });
}
$("copy")?.addEventListener("click", () => navigator.clipboard.writeText($("bibtex").textContent));

// All cases: an empty place each, filled as it comes near.
const list = $("cases");
const caseOf = new Map();
const placeOf = new Map();
for (const one of page.cases) {
  const place = sized(make("li", { class: "case unfilled", id: `case-${one.id}`, tabindex: "-1" }), one);
  caseOf.set(place, one);
  placeOf.set(one, place);
}

function shotOf(one, take) {
  const caption = make("figcaption", {}, make("b", {}, take.row));
  caption.style.setProperty("--colour", page.colours[take.row]);
  if (take.values) {
    caption.append(make("dl", {}, ...Object.entries(take.values).map(([key, [, text]]) =>
      make("div", { "data-key": key }, make("dt", {}, metrics.get(key).label), make("dd", {}, text)))));
  }
  return make("figure", { class: `shot ${take.status}`, "data-row": take.row }, frameOf(one, take), caption);
}

function fill(place) {
  const one = caseOf.get(place);
  if (!place.classList.replace("unfilled", "filled")) return;
  const kind = one.kind === "target" ? "" : `, ${one.kind}`;
  const group = $("group") ? `, ${one.group}` : "";
  place.append(
    make("h3", {}, one.clip, " ", make("q", {}, one.prompt), " ", make("small", {}, `seed ${one.seed}${kind}${group}`)),
    make("div", { class: "shots" },
      make("figure", { class: "shot reference" }, referenceOf(one), make("figcaption", {}, make("b", {}, "reference"))),
      make("div", { class: "rows" }, ...one.takes.map((take) => shotOf(one, take)))));
  mark(place);
}

// Cases of one page are about equally high: those to come take as much room as the first.
function estimate() {
  const [first] = list.children;
  if (!first) return;
  fill(first);
  first.style.contentVisibility = "visible"; // Out of sight it has no height of its own.
  list.style.setProperty("--estimate", `${first.offsetHeight}px`);
  first.style.contentVisibility = "";
}

const coming = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) fill(target);
}, { rootMargin: "60% 0px" });

function mark(place) {
  for (const figure of place.querySelectorAll("[data-row]")) figure.hidden = state.hide.includes(figure.dataset.row);
  for (const entry of place.querySelectorAll("dl > div")) entry.classList.toggle("sorted", entry.dataset.key === state.metric);
}

const has = (text, part) => text.toLowerCase().includes(part);

function fits(one) {
  const part = state.find.trim().toLowerCase();
  return (has(one.clip, part) || has(one.prompt, part))
    && (!state.group || one.group === state.group)
    && (!state.failed || one.takes.some((take) => ended(take) && !state.hide.includes(take.row)));
}

// The chosen row's number, or how far the shown rows lie apart.
function score(one) {
  if (state.order !== "differ") return number(one.takes.find((take) => take.row === state.row) ?? {}, state.metric);
  const numbers = one.takes.filter((take) => !state.hide.includes(take.row))
    .map((take) => number(take, state.metric)).filter((value) => value !== undefined);
  return numbers.length > 1 ? Math.max(...numbers) - Math.min(...numbers) : undefined;
}

function ordered() {
  const shown = page.cases.filter(fits);
  if (state.order === "plan") return shown;
  const sign = state.order === "differ" ? -1 : better(state.metric) * (state.order === "best" ? 1 : -1);
  return byNumber(shown, score, sign);
}

function arrange() {
  const shown = ordered();
  list.replaceChildren(...shown.map((one) => placeOf.get(one)));
  for (const place of list.querySelectorAll(".filled")) mark(place);
  estimate();
  $("count").textContent = `${shown.length} of ${page.cases.length} clips`;
  $("nothing").hidden = shown.length > 0;
  $("find").value = state.find;
  $("order").value = state.order;
  $("order-of").textContent = state.order === "plan" ? "" : `by ${metrics.get(state.metric)?.label ?? ""}`
    + (state.order === "differ" ? "" : ` of ${state.row}`);
  if ($("group")) $("group").value = state.group;
  if ($("failed")) $("failed").checked = state.failed !== "";
  for (const box of document.querySelectorAll("[name=row]")) box.checked = !state.hide.includes(box.value);
}

// Where the reader is: the first case that reaches well into sight.
function here() {
  const top = list.getBoundingClientRect().top;
  if (top > innerHeight / 2) return "";
  const place = [...list.children].find((one) => one.getBoundingClientRect().bottom > innerHeight / 4);
  return place ? place.id : "";
}

function goTo(id) {
  const place = $(id);
  if (!place) return;
  // What is filled on the way there moves it, so that it takes some frames to be there.
  let frames = caseOf.has(place) ? 20 : 1;
  const settle = () => {
    place.scrollIntoView({ block: "start" });
    frames -= 1;
    if (frames > 0) requestAnimationFrame(settle);
  };
  settle();
}

let waiting = 0;
addEventListener("scroll", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (!$("take").open) choose({ at: here() }); }, 150);
}, { passive: true });

$("filters").addEventListener("input", () => choose({
  find: $("find").value,
  order: $("order").value,
  group: $("group")?.value ?? "",
  failed: $("failed")?.checked ? "1" : "",
  hide: [...document.querySelectorAll("[name=row]:not(:checked)")].map((box) => box.value),
}));
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("reset").addEventListener("click", () => {
  const { find, order, group, failed, hide } = DEFAULTS;
  choose({ find, order, group, failed, hide });
});

addEventListener("resize", estimate);
for (const place of caseOf.keys()) coming.observe(place);
watchers.push((changed) => {
  const inOrder = ["find", "group", "failed", "hide", "order"].some((key) => changed.has(key));
  const ofOrder = state.order !== "plan" && (changed.has("row") || changed.has("metric"));
  if (inOrder || ofOrder) arrange();
  else if (changed.has("metric")) list.querySelectorAll(".filled").forEach(mark);
});

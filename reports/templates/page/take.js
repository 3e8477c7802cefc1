// A take's own view: it and its reference (or another row's take) under a wiper, and all that is known of it.
const LEFT = "#ffb000", RIGHT = "#19d3ff"; // of the tracks, light and dark footage alike
const loaded = new Map();
const arrived = new Map();

// Called by the file that holds a case's details: a page from disk may load scripts, and read nothing else.
function details(id, about) {
  arrived.set(id, about);
}

function load(one) {
  if (!loaded.has(one)) {
    loaded.set(one, new Promise((resolve) => {
      if (!one.details) return resolve({});
      const script = make("script", { src: one.details });
      script.onload = () => resolve(arrived.get(one.id) ?? {});
      script.onerror = () => resolve({});
      return document.head.append(script);
    }));
  }
  return loaded.get(one);
}

function pairs(element, entries) {
  element.replaceChildren(...entries.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
}

function side(one, take, file, name) {
  const inside = file ? videoOf(file, one, `${name}, ${named(one)}`) : frameOf(one, { ...take, id: undefined });
  const canvas = make("canvas", { "aria-hidden": true });
  return { element: make("div", { class: "side" }, inside, canvas), canvas, video: file ? inside : null };
}

async function showTake() {
  const { take, of: one } = found.get(state.take);
  const other = one.takes.find((candidate) => candidate.row === state.beside && candidate.video);
  const left = side(one, take, other ? other.video : one.reference, other ? other.row : "reference");
  const right = side(one, take, take.video, take.row);
  layers.length = 0;
  dismiss($("wiped"));
  sized($("wiper"), one);
  left.element.classList.add("left");
  if (left.video && right.video) $("wiped").append(right.element, left.element);
  else $("wiped").append((right.video ? right : take.video ? left : right).element);
  const single = !(left.video && right.video);
  $("wiper").classList.toggle("single", single);
  $("beside").parentElement.hidden = single;
  $("left-name").textContent = other ? other.row : "reference";
  $("right-name").textContent = take.row;

  $("take-title").replaceChildren(take.row, " ", make("small", {}, one.clip, " ", make("q", {}, one.prompt), ` seed ${one.seed}`));
  $("take-record").href = take.record;
  $("take-video").hidden = !take.video;
  if (take.video) $("take-video").href = take.video;
  $("beside").replaceChildren(make("option", { value: "" }, "reference"),
    ...one.takes.filter((candidate) => candidate.video && candidate !== take)
      .map((candidate) => make("option", { value: candidate.row }, candidate.row)));
  $("beside").value = other ? other.row : "";
  $("rows-of").replaceChildren(...one.takes.filter((candidate) => candidate.id)
    .map((candidate) => make("option", { value: candidate.id }, candidate.row)));
  $("rows-of").value = take.id;
  pairs($("take-values"), Object.entries(take.values ?? {}).map(([key, [, text]]) => [metrics.get(key).label, text]));

  const about = await load(one);
  if (state.take !== take.id) return;
  const own = about[take.id] ?? {};
  const beside = other ? about[other.id]?.tracks?.own : own.tracks?.reference;
  if (right.video && own.tracks?.own) layers.push(layerOf(right.canvas, right.video, own.tracks.own, RIGHT));
  if (left.video && beside) layers.push(layerOf(left.canvas, left.video, beside, LEFT));
  $("tracks-choice").hidden = !layers.length;
  pairs($("take-settings"), own.settings ?? []);
  const longest = Math.max(...(own.stages ?? []).map(([, seconds]) => seconds), 0) || 1;
  $("take-stages").replaceChildren(...(own.stages ?? []).map(([name, seconds, text]) => {
    const bar = make("i");
    bar.style.inlineSize = `${100 * seconds / longest}%`;
    return make("div", {}, make("dt", {}, name), make("dd", {}, bar, text));
  }));
  $("take-curves").replaceChildren(...(own.curves ?? []).map(curveOf));
  $("take-span").textContent = own.curves?.[0]?.span ?? "";
  $("take-notes").replaceChildren(...(own.notes ?? []).map((note) => make("li", {}, note)));
  $("take-trace").textContent = [take.message, own.traceback].filter(Boolean).join("\n\n");
  for (const part of $("take").querySelectorAll("section")) {
    part.hidden = !part.querySelector("dl > div, figure, li, pre:not(:empty)");
  }
}

// The same row's take of the next or the previous case, in the gallery's order.
function neighbour(by) {
  const { take, of: one } = found.get(state.take);
  const cases = ordered();
  for (let place = cases.indexOf(one) + by; place >= 0 && place < cases.length; place += by) {
    const next = cases[place].takes.find((candidate) => candidate.row === take.row && candidate.id);
    if (next) return choose({ take: next.id });
  }
  return undefined;
}

let from = null;
function openOrClose() {
  if (!state.take) {
    if ($("take").open) $("take").close();
    return;
  }
  if (!$("take").open) {
    from = document.activeElement;
    $("take").querySelector("footer").append($("player"));
    $("take").showModal();
  }
  showTake();
}

$("take").addEventListener("close", () => {
  layers.length = 0;
  dismiss($("wiped"));
  document.body.append($("player"));
  choose({ take: "", beside: "" });
  if (from?.isConnected) from.focus({ preventScroll: true });
});
$("take-close").addEventListener("click", () => $("take").close());
$("take-next").addEventListener("click", () => neighbour(1));
$("take-before").addEventListener("click", () => neighbour(-1));
$("beside").addEventListener("input", () => choose({ beside: $("beside").value }));
$("rows-of").addEventListener("input", () => choose({ take: $("rows-of").value, beside: "" }));

function wipe(to) {
  $("cut").value = to;
  $("wiper").style.setProperty("--cut", `${to}%`);
}

$("cut").addEventListener("input", () => wipe($("cut").value));
$("wiped").addEventListener("pointerdown", (event) => $("wiped").setPointerCapture(event.pointerId));
$("wiped").addEventListener("pointermove", (event) => {
  if (!$("wiped").hasPointerCapture(event.pointerId)) return;
  const box = $("wiped").getBoundingClientRect();
  wipe(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width)));
});
watchers.push((changed) => (changed.has("take") || changed.has("beside")) && openOrClose());

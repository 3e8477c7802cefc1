"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const list = $("takes");
  const takes = [...list.children].map((element, index) => ({
    element,
    index,
    fps: Number(element.dataset.fps),
    seconds: Number(element.dataset.seconds),
    shots: [...element.querySelectorAll(".shot[data-row]")].map((figure) => ({
      figure,
      row: figure.dataset.row,
      values: JSON.parse(figure.dataset.values),
    })),
  }));
  const takeOf = new Map(takes.map((take) => [take.element, take]));

  // Remembering the choice is a comfort: from disk a browser may refuse to store anything.
  const store = (key, value) => {
    try {
      if (value === undefined) return localStorage.getItem(key);
      localStorage.setItem(key, value);
    } catch { /* not remembered */ }
    return null;
  };

  // The clock: one time for all videos.
  const clock = {
    time: 0,
    speed: 1,
    playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    last: null,
  };
  const near = new Set();
  const videosOf = (take) => take.element.querySelectorAll(".shot:not([hidden]) > video");
  const length = () => Math.max(...[...near].map((take) => take.seconds), 0) || 1;
  const fps = () => near.values().next().value?.fps ?? 24;

  function attach(take) {
    near.add(take);
    for (const video of videosOf(take)) if (!video.hasAttribute("src")) video.src = video.dataset.src;
  }

  function release(video) {
    if (!video.hasAttribute("src")) return;
    video.pause();
    video.removeAttribute("src");
    video.load(); // frees its decoder: a browser has only so many
  }

  function detach(take) {
    near.delete(take);
    take.element.querySelectorAll("video").forEach(release);
  }

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      (isIntersecting ? attach : detach)(takeOf.get(target));
    }
  }, { rootMargin: "25% 0px" });

  function tick(now) {
    if (clock.playing && clock.last !== null) {
      clock.time = (clock.time + (now - clock.last) / 1000 * clock.speed) % length();
    }
    clock.last = now;
    for (const take of near) {
      const time = clock.time % take.seconds;
      for (const video of videosOf(take)) follow(video, time, take.fps, clock);
    }
    show();
    requestAnimationFrame(tick);
  }

  function show() {
    const frame = Math.floor(clock.time * fps() + 1e-6) + 1;
    $("scrub").max = length();
    $("scrub").value = clock.time;
    const text = `${clock.time.toFixed(2)} s, frame ${frame}`;
    if ($("time").value !== text) $("time").value = text;
  }

  function play(playing) {
    clock.playing = playing;
    $("play").textContent = playing ? "Pause" : "Play";
  }

  function seek(time) {
    play(false);
    clock.time = Math.min(Math.max(0, time), length() - 0.5 / fps());
  }

  function step(frames) {
    const rate = fps();
    const count = Math.round(length() * rate);
    const frame = Math.floor(clock.time * rate + 1e-6) + frames;
    seek(((frame + count) % count + 0.5) / rate);
  }

  function faster(by) {
    const choice = $("speed");
    choice.selectedIndex = Math.min(Math.max(0, choice.selectedIndex + by), choice.length - 1);
    clock.speed = Number(choice.value);
  }

  // Filters and order.
  const has = (text, part) => text.toLowerCase().includes(part.trim().toLowerCase());

  function score(take, shown) {
    const key = $("sort").value;
    const of = $("of").value;
    const numbers = take.shots
      .filter((shot) => (of.startsWith("row:") ? shot.row === of.slice(4) : shown.has(shot.row)))
      .map((shot) => shot.values[key])
      .filter((number) => number !== undefined);
    if (!numbers.length) return null;
    if (of === "spread") return Math.max(...numbers) - Math.min(...numbers);
    return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  }

  function arrange() {
    const shown = new Set([...document.querySelectorAll("[name=row]:checked")].map((box) => box.value));
    const group = $("group")?.value ?? "";
    const failures = $("failures")?.checked ?? false;
    let count = 0;
    for (const take of takes) {
      const { clip, prompt, group: own } = take.element.dataset;
      for (const { figure, row } of take.shots) {
        figure.hidden = !shown.has(row);
        if (figure.hidden) figure.querySelectorAll("video").forEach(release);
      }
      const failed = take.shots.some(({ figure, row }) =>
        shown.has(row) && !["ok", "absent", "planned"].includes(figure.dataset.status));
      take.element.hidden = !has(clip, $("clip").value) || !has(prompt, $("prompt").value)
        || (group !== "" && own !== group) || (failures && !failed);
      count += !take.element.hidden;
    }
    const key = $("sort").value;
    const lower = $("sort").selectedOptions[0].hasAttribute("data-lower") && $("of").value !== "spread";
    const sign = (lower ? 1 : -1) * ($("order").value === "best" ? 1 : -1);
    const scores = new Map(takes.map((take) => [take, key ? score(take, shown) : null]));
    const ordered = [...takes].sort((a, b) => {
      const [left, right] = [scores.get(a), scores.get(b)];
      if (left === null || right === null) return (left === null) - (right === null) || a.index - b.index;
      return sign * (left - right) || a.index - b.index;
    });
    if (ordered.some((take, place) => list.children[place] !== take.element)) {
      list.append(...ordered.map((take) => take.element));
    }
    for (const entry of list.querySelectorAll("dl > div")) {
      entry.classList.toggle("sorted", entry.dataset.key === key);
    }
    $("count").value = `${count} of ${takes.length}`;
    $("nothing").hidden = count > 0;
    for (const take of near) attach(take);
  }

  function move(by) {
    const visible = [...list.children].filter((element) => !element.hidden);
    const here = visible.indexOf(document.activeElement.closest?.(".take"));
    const next = visible[here < 0 ? 0 : Math.min(Math.max(0, here + by), visible.length - 1)];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "start" });
  }

  // Dark and light: the system's choice until one is made here.
  function theme(name) {
    if (name) document.documentElement.dataset.theme = name;
  }

  function toggleTheme() {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    theme(dark ? "light" : "dark");
    store("vmtbench-theme", document.documentElement.dataset.theme);
  }

  function resize() {
    document.documentElement.style.setProperty("--side", `${$("size").value}px`);
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
    f: () => $("clip").focus(),
    d: toggleTheme,
    "?": () => $("keys").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open || !Object.hasOwn(keys, key)) return;
    // Away from the videos the browser's own scrolling keys stay what they are.
    if (!near.size && [" ", "ArrowLeft", "ArrowRight", "Home"].includes(key)) return;
    // What the focused control does with the key itself comes first; the time is ours.
    const own = "input[type=search], select, #size";
    if (target.matches(own) || (key === " " && target.matches("button, a, summary, input[type=checkbox]"))) return;
    if (key.length > 1 && target.matches(".scroll")) return;
    event.preventDefault();
    keys[key]();
  });

  $("play").addEventListener("click", () => play(!clock.playing));
  $("scrub").addEventListener("input", () => seek(Number($("scrub").value)));
  $("speed").addEventListener("input", () => faster(0));
  $("size").addEventListener("input", resize);
  $("theme").addEventListener("click", toggleTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("filters").addEventListener("input", arrange);
  $("filters").addEventListener("reset", () => setTimeout(arrange));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    if (event.target.matches("video")) play(!clock.playing);
  });

  theme(store("vmtbench-theme"));
  play(clock.playing);
  faster(0);
  resize();
  arrange();
  for (const take of takes) watcher.observe(take.element);
  requestAnimationFrame(tick);
})();

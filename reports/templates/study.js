(() => {
  const $ = (id) => document.getElementById(id);
  const study = JSON.parse($("study").textContent);
  const media = "media/";
  const sides = ["reference", "left", "right"];
  const videos = sides.map((side) => $(side).querySelector("video"));

  // What is kept: in this browser alone, and only if it lets us.
  const memory = {
    get(key) {
      try { return localStorage.getItem(`${study.plan}.${key}`); } catch { return null; }
    },
    set(key, value) {
      try {
        localStorage.setItem(`${study.plan}.${key}`, value);
        return true;
      } catch { return false; }
    },
    remove(key) {
      try { localStorage.removeItem(`${study.plan}.${key}`); } catch { /* nothing was kept */ }
    },
  };

  // The part of the study: from the link (#3), else the one begun here, else any.
  function choosePart() {
    const asked = Number(location.hash.slice(1));
    if (Number.isInteger(asked) && asked >= 1 && asked <= study.slots.length) return asked;
    return Number(memory.get("part")) || 1 + Math.floor(Math.random() * study.slots.length);
  }

  function newRater() {
    return [...crypto.getRandomValues(new Uint8Array(8))].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  const part = choosePart();
  const trials = study.slots[part - 1];
  const kept = JSON.parse(memory.get(`votes.${part}`) ?? "null");
  let state = kept ?? { rater: newRater(), agreed: false, votes: [], skipped: [] };
  memory.set("part", part);

  const save = () => {
    $("unsaved").hidden = memory.set(`votes.${part}`, JSON.stringify(state));
  };

  const votesOf = (trial) => state.votes.filter((vote) => vote.trial === trial.id);
  const isDone = (trial) => state.skipped.includes(trial.id) || votesOf(trial).length === study.questions.length;
  const next = () => trials.find((trial) => !isDone(trial));

  // The clock of the trial on show. It stands while a video loads or the page is hidden.
  const clock = { time: 0, speed: 1, playing: true, last: null, spent: 0, ready: false };
  let shown = null;

  function tick(now) {
    const passed = clock.last === null ? 0 : Math.min(1, (now - clock.last) / 1000);
    clock.last = now;
    if (shown && !document.hidden) {
      if (!clock.ready && videos.every((video) => video.readyState >= 2)) {
        clock.ready = true;
        enable();
      } else if (clock.ready) {
        clock.spent += passed;
        if (clock.playing) clock.time += passed;
      }
      const time = clock.time % shown.seconds;
      // Videos of a study come with many rates; none is below this one.
      if (clock.ready) for (const video of videos) follow(video, time, 24, clock);
    }
    requestAnimationFrame(tick);
  }

  function enable() {
    for (const button of document.querySelectorAll("[data-answer]")) button.disabled = !clock.ready;
  }

  function only(id) {
    for (const section of ["welcome", "trial", "end"]) $(section).hidden = section !== id;
    const inside = id === "trial";
    $("place").hidden = $("bar").hidden = $("stop").hidden = !inside;
    window.scrollTo(0, 0);
  }

  function go() {
    const trial = next();
    if (!trial) return finish();
    only("trial");
    if (trial !== shown) {
      shown = trial;
      Object.assign(clock, { time: 0, spent: votesOf(trial).at(-1)?.seconds ?? 0, ready: false });
      $("broken").hidden = true;
      videos.forEach((video, index) => {
        video.src = media + trial.videos[index];
        video.load();
      });
      $("prompt").querySelector("q").textContent = trial.prompt;
      preload(trials[trials.indexOf(trial) + 1]);
    }
    play(true);
    show();
    return undefined;
  }

  // Its own elements, so that the next trial starts at once.
  let ahead = [];
  function preload(trial) {
    ahead = (trial?.videos ?? []).map((name) => {
      const video = document.createElement("video");
      video.preload = "auto";
      video.muted = true;
      video.src = media + name;
      return video;
    });
  }

  function show() {
    const answered = votesOf(shown).length;
    const done = trials.filter(isDone).length;
    $("question").textContent = study.questions[answered].text;
    $("steps").textContent = study.questions.map((_, index) => (index < answered ? "●" : "○")).join("");
    $("place").textContent = `${trials.indexOf(shown) + 1} of ${trials.length}`;
    $("bar").firstElementChild.style.width = `${100 * done / trials.length}%`;
    $("back").disabled = state.votes.length === 0;
    enable();
  }

  function answer(choice) {
    if (!clock.ready || $("trial").hidden) return;
    state.votes.push({
      trial: shown.id,
      question: study.questions[votesOf(shown).length].key,
      answer: choice,
      seconds: Number(clock.spent.toFixed(2)),
      loops: Math.floor(clock.time / shown.seconds),
      ts: new Date().toISOString(),
    });
    save();
    flash($(`answer-${choice}`));
    if (isDone(shown)) go();
    else show();
  }

  function flash(button) {
    button.classList.add("chosen");
    setTimeout(() => button.classList.remove("chosen"), 150);
  }

  function back() {
    if ($("trial").hidden || !state.votes.length) return;
    const vote = state.votes.pop();
    state.skipped = state.skipped.filter((id) => id !== vote.trial);
    save();
    go();
  }

  function play(playing) {
    clock.playing = playing;
    $("play").textContent = playing ? "Pause" : "Play";
  }

  function finish() {
    shown = null;
    for (const video of videos) video.pause();
    only("end");
    const done = trials.filter(isDone).length;
    const all = done === trials.length;
    $("thanks").textContent = all ? "Thank you" : "Stopped";
    $("download").disabled = !state.votes.length;
    $("summary").textContent = `You answered ${done} of ${trials.length} comparisons.`
      + (all ? "" : " They count as they are; you may go on whenever you like.");
    $("resume").hidden = all;
    $("file").textContent = fileName();
    $("download").focus();
  }

  const fileName = () => `votes-${state.rater}.csv`;

  function download() {
    const head = ["plan", "rater", "trial", "question", "answer", "seconds", "loops", "ts", "screen"];
    const size = `${screen.width}x${screen.height}`;
    const lines = state.votes.map((vote) =>
      [study.plan, state.rater, vote.trial, vote.question, vote.answer, vote.seconds, vote.loops, vote.ts, size]);
    const text = [head, ...lines].map((line) => line.join(",")).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = fileName();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function forget() {
    if (!confirm("Delete all votes you gave here? A file you have downloaded stays.")) return;
    memory.remove(`votes.${part}`);
    memory.remove("part");
    location.reload();
  }

  for (const button of document.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", (event) => {
      // Space is for pausing: it must not press the button that a pointer pressed last.
      if (event.detail > 0) button.blur();
      answer(button.dataset.answer);
    });
  }
  for (const video of videos) {
    video.addEventListener("error", () => { $("broken").hidden = shown === null; });
    // The shape of the trial's videos, which are all of one size.
    video.addEventListener("loadedmetadata", () => {
      document.documentElement.style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    });
  }
  $("consent").addEventListener("submit", (event) => {
    event.preventDefault();
    state.agreed = true;
    save();
    document.activeElement.blur();
    go();
  });
  $("skip").addEventListener("click", () => {
    state.skipped.push(shown.id);
    state.votes = state.votes.filter((vote) => vote.trial !== shown.id);
    save();
    go();
  });
  $("back").addEventListener("click", back);
  $("play").addEventListener("click", () => play(!clock.playing));
  $("stop").addEventListener("click", finish);
  $("resume").addEventListener("click", go);
  $("download").addEventListener("click", download);
  $("forget").addEventListener("click", forget);
  addEventListener("hashchange", () => location.reload());

  const keys = {
    ArrowLeft: () => answer("left"),
    ArrowDown: () => answer("tie"),
    ArrowRight: () => answer("right"),
    Backspace: back,
    " ": () => play(!clock.playing),
  };
  document.addEventListener("keydown", (event) => {
    if ($("trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target instanceof HTMLButtonElement) return;
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  $("rater").textContent = state.rater;
  if (!memory.set("part", part)) $("unsaved").hidden = false;
  if (state.agreed) go();
  requestAnimationFrame(tick);
})();

// One clock for all videos.
const clock = {
  time: 0,
  speed: 1,
  playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
  last: null,
};
const timing = new WeakMap(); // video -> its case: all of a case loop together
const near = new Set();

const followed = () => ($("take").open ? [...near].filter((video) => $("take").contains(video)) : [...near]);
const length = () => Math.max(...followed().map((video) => timing.get(video).seconds), 0) || 1;
const fps = () => { const [first] = followed(); return first ? timing.get(first).fps : 24; };

function tick(now) {
  if (clock.playing && clock.last !== null) {
    clock.time = (clock.time + (now - clock.last) / 1000 * clock.speed) % length();
  }
  clock.last = now;
  for (const video of followed()) {
    const { seconds, fps: rate } = timing.get(video);
    follow(video, clock.time % seconds, rate, clock);
  }
  drawTracks();
  const frame = Math.floor(clock.time * fps() + 1e-6) + 1;
  $("scrub").max = length();
  $("scrub").value = clock.time;
  const text = `${clock.time.toFixed(2)} s, frame ${frame}`;
  if ($("time").value !== text) $("time").value = text;
  requestAnimationFrame(tick);
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
  const count = Math.round(length() * fps());
  const frame = Math.floor(clock.time * fps() + 1e-6) + frames;
  seek(((frame + count) % count + 0.5) / fps());
}

function faster(by) {
  const choice = $("speed");
  choice.selectedIndex = Math.min(Math.max(0, choice.selectedIndex + by), choice.length - 1);
  clock.speed = Number(choice.value);
}

$("play").addEventListener("click", () => play(!clock.playing));
$("scrub").addEventListener("input", () => seek(Number($("scrub").value)));
$("speed").addEventListener("input", () => faster(0));
function resize() {
  document.documentElement.style.setProperty("--side", `${$("size").value}px`);
}

$("size").addEventListener("input", () => { resize(); estimate(); });

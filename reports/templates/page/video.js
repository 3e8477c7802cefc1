// Videos are loaded as they come near and let go when they are far: a browser has only so many decoders.
function attach(video) {
  near.add(video);
  if (!video.hasAttribute("src")) video.src = video.dataset.src;
}

function release(video) {
  near.delete(video);
  if (!video.hasAttribute("src")) return;
  video.pause();
  video.removeAttribute("src");
  video.load(); // frees its decoder
}

const nearness = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) (isIntersecting ? attach : release)(target);
}, { rootMargin: "20% 0px" });

function videoOf(file, one, name) {
  const video = make("video", {
    playsinline: true, preload: "auto", disablepictureinpicture: true, "data-src": file, "aria-label": name,
  });
  video.muted = true;
  timing.set(video, one);
  nearness.observe(video);
  return video;
}

function dismiss(element) {
  for (const video of element.querySelectorAll("video")) {
    nearness.unobserve(video);
    release(video);
  }
  element.replaceChildren();
}

// What stands in a video's place: itself, opening its own view, or why there is none.
function frameOf(one, take) {
  const name = `${take.row}, ${named(one)}`;
  const inside = take.video
    ? videoOf(take.video, one, name)
    : make("div", { class: "none" }, make("b", {}, page.ended[take.status] ?? take.status),
      take.message ? make("span", {}, take.message) : null);
  if (!take.id) return inside;
  return make("a", { class: "open", href: `#take=${encodeURIComponent(take.id)}`, "aria-label": `Open ${name}` }, inside);
}

function referenceOf(one) {
  return one.reference
    ? videoOf(one.reference, one, `Reference ${named(one)}`)
    : make("div", { class: "none" }, make("b", {}, "Reference video cannot be read"));
}

function sized(element, one) {
  element.style.setProperty("--across", one.size[0]);
  element.style.setProperty("--down", one.size[1]);
  element.classList.toggle("crisp", one.crisp);
  return element;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.open");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  choose({ take: decodeURIComponent(link.hash.slice("#take=".length)), beside: "" }, true);
});

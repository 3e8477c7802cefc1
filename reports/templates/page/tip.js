// A sentence on what a heading means, while it is pointed at or focused.
function explain(element) {
  const box = element.getBoundingClientRect();
  $("tip").textContent = element.dataset.tip;
  $("tip").hidden = false;
  const left = Math.min(box.left, innerWidth - $("tip").offsetWidth - 8);
  $("tip").style.left = `${Math.max(8, left)}px`;
  const above = box.top - $("tip").offsetHeight - 4; // The numbers below stay in sight.
  $("tip").style.top = `${above > 0 ? above : box.bottom + 6}px`;
}

for (const element of document.querySelectorAll("[data-tip]")) {
  for (const name of ["pointerenter", "focus"]) element.addEventListener(name, () => explain(element));
  for (const name of ["pointerleave", "blur"]) element.addEventListener(name, () => { $("tip").hidden = true; });
}

// The first screen: a row's best, median and worst take by one metric.
function picks() {
  const scored = page.cases.flatMap((one) => one.takes
    .filter((take) => take.row === state.row && take.video && number(take, state.metric) !== undefined)
    .map((take) => ({ one, take })));
  const sorted = byNumber(scored, ({ take }) => number(take, state.metric), better(state.metric));
  const places = { Best: 0, Median: Math.floor((sorted.length - 1) / 2), Worst: sorted.length - 1 };
  const names = sorted.length > 2 ? ["Best", "Median", "Worst"] : ["Best", "Worst"].slice(0, sorted.length);
  return { count: sorted.length, shown: names.map((name) => ({ name, ...sorted[places[name]] })) };
}

function showFirst() {
  dismiss($("picks"));
  const { count, shown } = picks();
  for (const { name, one, take } of shown) {
    const [, text] = take.values[state.metric];
    const pair = make("div", { class: "pair" },
      make("div", {}, referenceOf(one), make("small", {}, "reference")),
      make("div", {}, frameOf(one, take), make("small", {}, take.row)));
    $("picks").append(sized(make("figure", { class: "pick" },
      make("figcaption", {}, make("b", {}, name), " ", make("span", {}, text)),
      pair,
      make("p", { class: "what" }, one.clip, " ", make("q", {}, one.prompt))), one));
  }
  $("picked").textContent = count === 1 ? "the only video that has it." : `of ${count} videos.`;
  // Where no video has a number there is nothing to choose.
  const scored = (take) => take.video && Object.keys(take.values).length;
  $("first").hidden = !page.cases.some((one) => one.takes.some(scored));
  $("first-row").value = state.row;
  $("first-metric").value = state.metric;
}

$("first-row").addEventListener("input", () => choose({ row: $("first-row").value }));
$("first-metric").addEventListener("input", () => choose({ metric: $("first-metric").value }));
watchers.push((changed) => (changed.has("row") || changed.has("metric")) && showFirst());

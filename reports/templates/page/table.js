// A heading sorts every table that has it: better first, then worse first.
const sheets = [...document.querySelectorAll("table.sortable")].map((table) => ({
  headings: [...table.tHead.rows[0].cells],
  body: table.tBodies[0],
  order: [...table.tBodies[0].rows],
}));

function sortTables() {
  const worse = state.table.startsWith("-");
  const key = worse ? state.table.slice(1) : state.table;
  for (const { headings, body, order } of sheets) {
    const place = headings.findIndex((heading) => heading.dataset.key === key);
    headings.forEach((heading, index) => {
      if (index !== place) heading.removeAttribute("aria-sort");
    });
    let rowsNow = order;
    if (place >= 0) {
      const sign = ("lower" in headings[place].dataset ? 1 : -1) * (worse ? -1 : 1);
      headings[place].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      rowsNow = byNumber(order, (row) => {
        const text = row.cells[place].dataset.number;
        return text === "" ? undefined : Number(text);
      }, sign);
    }
    body.append(...rowsNow);
  }
}

for (const { headings } of sheets) {
  for (const heading of headings) {
    heading.querySelector("button")?.addEventListener("click", () => {
      const { key } = heading.dataset;
      const next = { [key]: `-${key}`, [`-${key}`]: "" };
      choose({ table: next[state.table] ?? key });
    });
  }
}

watchers.push((changed) => changed.has("table") && sortTables());

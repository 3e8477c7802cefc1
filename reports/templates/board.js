"use strict";
(() => {
  // Rows without a number stay last, whichever way the others are sorted.
  function sort(table, heading) {
    const column = heading.cellIndex;
    const lower = heading.hasAttribute("data-lower");
    const before = heading.getAttribute("aria-sort");
    const best = lower ? "ascending" : "descending";
    const other = lower ? "descending" : "ascending";
    const order = before === best ? other : best;
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => {
      const text = row.cells[column].dataset.number;
      return text === undefined ? row.cells[column].textContent.trim() : text === "" ? null : Number(text);
    };
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return typeof a === "number" ? sign * (a - b) : sign * a.localeCompare(b);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.board")) {
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("button")?.closest("th");
      if (heading) sort(table, heading);
    });
  }

  document.getElementById("only").addEventListener("input", (event) => {
    for (const row of document.querySelectorAll("tr.departs")) row.hidden = event.target.checked;
  });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const chosen = root.dataset.theme;
    const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();

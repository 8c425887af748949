"use strict";
const root = document.documentElement;
const title = document.querySelector("title");
document.getElementById("language").addEventListener("click", () => {
  root.lang = root.lang === "en" ? "zh-Hans" : "en";
  document.title = title.dataset[root.lang === "en" ? "en" : "zhHans"];
});

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const value = (row) => Number(row.cells[column].dataset.sort);
  const rows = [...body.rows].sort((one, other) => direction * (value(one) - value(other)));
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    sortBy(table, column, falls ? -1 : 1);
  }));
}

// What is folded up on the screen is not to be missing on paper.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

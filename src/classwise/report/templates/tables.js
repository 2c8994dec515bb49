// Sorts every table of class "sortable" by the column whose heading is pressed, and finds rows in those with data-find.
(() => {
  const number = (text) => {
    const found = text.replaceAll(",", "").replaceAll("\u2212", "-").match(/[-+]?\d*\.?\d+(?:e[-+]?\d+)?/i);
    return found ? parseFloat(found[0]) : null;
  };
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    return { text, number: number(text) };
  };
  const sort = (table, column, words, direction) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [key(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (words) return direction * a.text.localeCompare(b.text, undefined, { numeric: true });
      // Undefined values stay at the end whichever way the rest is sorted.
      if (a.number === null || b.number === null) return (a.number === null) - (b.number === null);
      return direction * (a.number - b.number);
    });
    body.append(...keyed.map(([, row]) => row));
  };
  const press = (cell, action) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    button.addEventListener("click", action);
    cell.replaceChildren(button);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      press(head, () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        sort(table, column, head.classList.contains("words"), direction);
      });
    });
  }

  const fields = new Map();
  for (const table of document.querySelectorAll("table[data-find]")) {
    const rows = [...table.tBodies[0].rows];
    const columns = [...table.tHead.rows[0].cells].flatMap((head, i) => (i === 0 || "find" in head.dataset ? [i] : []));
    const texts = rows.map((row) => columns.map((i) => row.cells[i].textContent).join("\n").toLowerCase());
    const label = document.createElement("label");
    const field = document.createElement("input");
    const count = document.createElement("span");
    field.type = "search";
    count.setAttribute("role", "status");
    label.className = "find";
    label.append(`Find ${table.dataset.find} `, field, count);
    field.addEventListener("input", () => {
      const sought = field.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, i) => {
        row.hidden = !texts[i].includes(sought);
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = sought ? ` ${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "";
    });
    table.closest(".table").prepend(label);
    fields.set(table.id, field);
  }
  // Where the rows of one table are groups of another's, a group's name shows its members there.
  for (const table of document.querySelectorAll("table[data-opens]")) {
    const field = fields.get(table.dataset.opens);
    for (const row of field ? table.tBodies[0].rows : []) {
      const name = row.cells[0].textContent.trim();
      press(row.cells[0], () => {
        field.value = name;
        field.dispatchEvent(new Event("input"));
        field.focus();
      });
    }
  }
})();

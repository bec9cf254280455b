// A table of which the kernel sends the visible rows (`visible`, see TableView.visible); sorting, filtering and
// scrolling set the traits `sort`, `ascending`, `query`, `offset`, a click on a row sets `selected`.

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

const WAIT = 120; // milliseconds after the last key
const NEIGHBOR = { ArrowDown: "nextSibling", ArrowUp: "previousSibling" };

function render({ model, el }) {
  el.classList.add("splicevi-table");
  const set = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };

  const table = make("table");
  const count = make("span", { className: "count" });
  const filter = make("input", {
    type: "search",
    placeholder: model.get("hint"),
    value: model.get("query"),
    ariaLabel: "filter rows",
  });
  let timer;
  filter.oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(() => set({ query: filter.value }), WAIT);
  };
  for (const kind of ["keydown", "keyup", "keypress"]) filter.addEventListener(kind, (e) => e.stopPropagation());

  const scroll = (by) => () => {
    const { offset, size } = model.get("visible");
    set({ offset: Math.max(0, offset + by * size) });
  };
  const back = make("button", { textContent: "‹", title: "previous rows", onclick: scroll(-1) });
  const next = make("button", { textContent: "›", title: "next rows", onclick: scroll(1) });
  el.append(
    make("div", { className: "scroll" }, table),
    make("div", { className: "foot" }, filter, count, back, next),
  );

  const head = ({ columns, sort, ascending }) =>
    columns.map(([key, label, form, meaning]) => {
      const arrow = sort === key ? (ascending ? " ↑" : " ↓") : "";
      const turned = sort === key ? { ascending: !ascending } : { sort: key, ascending: form === "text" };
      return make("th", {
        className: form,
        scope: "col",
        title: (meaning ? meaning + "\n" : "") + "Click to sort by " + (label || key) + ".",
        textContent: label + arrow,
        onclick: () => set(turned),
      });
    });
  const onKey = (name) => (e) => {
    if (e.key === "Enter") set({ selected: name });
    if (NEIGHBOR[e.key]) {
      e.preventDefault();
      e.stopPropagation();
      e.target[NEIGHBOR[e.key]]?.focus();
    }
  };
  const body = ({ cells, names, columns, selected }) =>
    cells.map((row, i) =>
      make(
        "tr",
        {
          className: names[i] === selected ? "on" : "",
          tabIndex: 0,
          title: names[i],
          onclick: () => set({ selected: names[i] }),
          onkeydown: onKey(names[i]),
        },
        ...row.map((text, j) =>
          make("td", { className: columns[j][2], textContent: text, title: columns[j][2] === "text" ? text : "" }),
        ),
      ),
    );
  // empty rows keep the height while one filters
  const blank = ({ size, all, cells, columns }) =>
    Array.from({ length: Math.min(size, all) - cells.length }, () =>
      make("tr", { className: "blank" }, make("td", { colSpan: columns.length, textContent: "\u00a0" })),
    );

  const draw = () => {
    const v = model.get("visible");
    table.replaceChildren(
      make("thead", {}, make("tr", {}, ...head(v))),
      make("tbody", {}, ...body(v), ...blank(v)),
    );
    const n = (value) => value.toLocaleString("en");
    const last = Math.min(v.offset + v.size, v.rows);
    count.textContent = v.rows ? `${n(v.offset + 1)}–${n(last)} of ${n(v.rows)}` : "no row fits";
    back.disabled = v.offset === 0;
    next.disabled = v.offset + v.size >= v.rows;
  };
  model.on("change:visible", draw);
  model.on("change:query", () => {
    if (document.activeElement !== filter) filter.value = model.get("query");
  });
  draw();
}

export default { render };

// The search box. Traits: `query` (typed) goes to the kernel, `hits` ([kind, name, note, name as shown]) come back;
// `chosen` ([kind, name, n]) and `submitted` ([text, n]) tell what was picked, `text` is put into the box from Python.

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

const WAIT = 60; // milliseconds after the last key
const PROMPT = "gene, junction or event";
let boxes = 0;

function render({ model, el }) {
  el.classList.add("splicevi-search");
  const id = `splicevi-hits-${++boxes}`;
  const input = make("input", {
    type: "text",
    placeholder: PROMPT,
    ariaLabel: PROMPT,
    value: model.get("text"),
    autocomplete: "off",
    spellcheck: false,
  });
  const list = make("ul", { hidden: true, role: "listbox", id });
  const aria = { role: "combobox", "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list" };
  for (const [name, value] of Object.entries(aria)) input.setAttribute(name, value);
  el.append(input, list);

  let timer;
  let active = 0; // the highlighted answer
  let n = 0; // makes the same choice twice two changes
  const hits = () => model.get("hits");
  const send = (values) => {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  };

  const open = (yes) => {
    list.hidden = !yes;
    input.setAttribute("aria-expanded", String(yes));
  };
  const choose = (i) => {
    const hit = hits()[i];
    if (!hit) return;
    open(false);
    send({ chosen: [hit[0], hit[1], ++n] });
  };

  const row = ([kind, name, note, shown], i) =>
    make(
      "li",
      {
        className: i === active ? "on" : "",
        role: "option",
        onmousedown: (e) => {
          e.preventDefault(); // the box keeps the focus
          choose(i);
        },
      },
      make("span", { className: "kind", textContent: kind }),
      make("span", { className: "name", textContent: shown ?? name, title: name }),
      make("span", { className: "note", textContent: note }),
    );
  const draw = () => {
    const typed = input.value.trim() !== "";
    const nothing = typed && model.get("query") === input.value && !hits().length;
    const message = nothing ? [make("li", { className: "none", textContent: "nothing is called that" })] : [];
    list.replaceChildren(...hits().map(row), ...message);
    list.children[active]?.scrollIntoView?.({ block: "nearest" });
    open(document.activeElement === input && list.children.length > 0 && typed);
  };

  input.oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      active = 0;
      send({ query: input.value });
    }, WAIT);
  };
  input.onfocus = () => input.select();
  input.onblur = () => open(false);

  const enter = () => {
    clearTimeout(timer);
    const answered = model.get("query") === input.value && hits().length && !list.hidden;
    if (answered) return choose(active);
    send({ submitted: [input.value, ++n] });
    open(false);
  };
  const move = (by) => {
    active = Math.max(0, Math.min(hits().length - 1, active + by));
    draw();
  };
  const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), Enter: enter };
  input.addEventListener("keydown", (e) => {
    e.stopPropagation(); // the notebook has shortcuts of its own
    if (e.key === "Escape") open(false);
    if (keys[e.key]) {
      e.preventDefault();
      keys[e.key]();
    }
  });
  for (const kind of ["keyup", "keypress"]) input.addEventListener(kind, (e) => e.stopPropagation());

  model.on("change:hits", draw);
  model.on("change:query", draw);
  model.on("change:text", () => {
    if (input.value !== model.get("text")) input.value = model.get("text");
  });
}

export default { render };

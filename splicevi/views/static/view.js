// A whole view as one widget. Trait `tree`: its parts, each with an id, a kind and children; the values of a part are the
// traits `<id>_<name>`. `hides`: class of elements that are not shown where widgets are. The scripts of kinds with a file
// of their own come before this one, as `scripts`.

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

const html = {
  render({ model, el }) {
    el.classList.add("splicevi-html");
    const draw = () => (el.innerHTML = model.get("value"));
    model.on("change:value", draw);
    draw();
  },
};

const button = {
  render({ model, el }) {
    const press = () => {
      model.set("clicks", model.get("clicks") + 1);
      model.save_changes();
    };
    const control = make("button", { className: "splicevi-button", type: "button", onclick: press });
    const draw = () => {
      const [textContent, title, disabled] = ["description", "tooltip", "disabled"].map((k) => model.get(k));
      Object.assign(control, { textContent, title, disabled });
    };
    for (const name of ["description", "tooltip", "disabled"]) model.on(`change:${name}`, draw);
    el.append(control);
    draw();
  },
};

const menu = {
  render({ model, el }) {
    const control = make("select");
    const label = make("label", { className: "splicevi-menu" }, make("span", { textContent: model.get("description") }), control);
    label.firstChild.hidden = !model.get("description");
    if (!model.get("description")) control.ariaLabel = model.get("tooltip");
    control.onchange = () => {
      model.set("index", control.selectedIndex);
      model.save_changes();
    };
    const draw = () => {
      control.replaceChildren(...model.get("labels").map((textContent) => make("option", { textContent })));
      control.selectedIndex = model.get("index");
    };
    model.on("change:labels", draw);
    model.on("change:index", () => (control.selectedIndex = model.get("index")));
    control.addEventListener("keydown", (e) => e.stopPropagation());
    el.append(label);
    draw();
  },
};

const choice = {
  render({ model, el }) {
    const group = make("div", { className: "splicevi-choice", role: "group" });
    const pick = (i) => () => {
      model.set("index", i);
      model.save_changes();
    };
    const draw = () => {
      const [tips, now] = [model.get("tooltips"), model.get("index")];
      const one = (textContent, i) => {
        const b = make("button", { textContent, type: "button", title: tips[i] || "", onclick: pick(i) });
        b.classList.toggle("on", i === now);
        b.setAttribute("aria-pressed", String(i === now));
        return b;
      };
      group.replaceChildren(...model.get("labels").map(one));
    };
    for (const name of ["labels", "index"]) model.on(`change:${name}`, draw);
    el.append(group);
    draw();
  },
};

const tick = {
  render({ model, el }) {
    const control = make("input", { type: "checkbox" });
    const label = make("label", { className: "splicevi-tick" }, control, model.get("description"));
    label.title = model.get("tooltip");
    control.onchange = () => {
      model.set("value", control.checked);
      model.save_changes();
    };
    const draw = () => (control.checked = model.get("value"));
    model.on("change:value", draw);
    el.append(label);
    draw();
  },
};

const line = {
  render({ model, el }) {
    const placeholder = model.get("placeholder");
    const control = make("input", { type: "text", className: "splicevi-line", placeholder, ariaLabel: placeholder });
    control.spellcheck = false;
    control.onchange = () => {
      model.set("value", control.value);
      model.save_changes();
    };
    for (const kind of ["keydown", "keyup", "keypress"]) control.addEventListener(kind, (e) => e.stopPropagation());
    const draw = () => (control.value = model.get("value"));
    model.on("change:value", draw);
    el.append(control);
    draw();
  },
};

const KINDS = { ...scripts, html, button, menu, choice, tick, line };

function render({ model, el }) {
  el.classList.add("splicevi-view");
  const heard = []; // to be taken back
  const stops = [];
  const on = (event, f) => {
    model.on(event, f);
    heard.push([event, f]);
  };
  // the part's own traits, under the names that its script knows
  const share = (id) => ({
    get: (name) => model.get(`${id}_${name}`),
    set: (name, value) => model.set(`${id}_${name}`, value),
    on: (event, f) => on(event.replace(/^change:/, `change:${id}_`), f),
    save_changes: () => model.save_changes(),
  });
  const place = (own, element) => {
    const draw = () => {
      for (const [name, value] of Object.entries(own.get("layout"))) element.style.setProperty(name.replaceAll("_", "-"), value ?? "");
    };
    own.on("change:layout", draw);
    draw();
  };
  const build = ({ id, kind, classes, children }) => {
    const own = share(id);
    const element = make("div", { className: classes.join(" ") });
    if (kind === "box") {
      element.classList.add("splicevi-box");
      element.append(...children.map(build));
    } else {
      const stop = KINDS[kind].render({ model: own, el: element });
      if (typeof stop === "function") stops.push(stop);
    }
    place(own, element);
    return element;
  };
  if (model.get("hides")) {
    const rule = make("style", { textContent: `.${model.get("hides")} { display: none }` });
    el.ownerDocument.head.append(rule); // the picture for readers without a kernel
  }
  el.append(build(model.get("tree")));
  return () => {
    for (const [event, f] of heard) model.off(event, f);
    for (const stop of stops) stop();
  };
}

export default { render };

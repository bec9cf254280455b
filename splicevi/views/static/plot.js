// A Plotly figure. Traits: `figure` and `marks` (JSON from the kernel: the figure, and traces drawn over it),
// `ink` (the colour that stands for the page's text), `tools` (whether zoom and download buttons appear),
// `selects` (whether points can be selected), `grows` (whether the figure fills the height of its place);
// `clicked` ([customdata, n]) tells the kernel which point was clicked, `chosen` ([{lines | group}, n]) what was
// selected: corners of lines in data coordinates, the name of a group in the legend, or nothing.

const shared = (globalThis.__splicevi ??= {});
shared.plotly ??= new Promise((resolve) => {
  shared.ready = resolve;
});

const BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
const SELECT = [["lasso2d", "select2d", "zoom2d", "pan2d", "resetScale2d", "toImage"]];

// corners of the boxes and lassos that are drawn, of several with the shift key
const corners = ({ type, path, x0, x1, y0, y1 }) => {
  if (type === "rect") return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
  return path.replace(/^M|Z$/g, "").split("L").map((point) => point.split(",").map(Number));
};
const lines = (e) => (e?.selections ?? []).map(corners);

function render({ model, el }) {
  const div = document.createElement("div");
  const [grows, selects] = [model.get("grows"), model.get("selects")];
  el.classList.add("splicevi-plot");
  if (grows) el.classList.add("grows");
  el.append(div);
  let Plotly;
  let gone = false;
  let listening = false;
  let drawing = 0; // redraws under way, whose events are no one's choice
  let n = 0; // makes two clicks on one point two changes
  let width = 0;
  let height = 0;

  // the page's text colour, so that figures follow light and dark themes
  const shade = (alpha) => {
    const rgb = getComputedStyle(el).color.match(/[\d.]+/g) || [128, 128, 128];
    return `rgba(${rgb.slice(0, 3).join(",")},${alpha})`;
  };
  const parsed = () => {
    const fig = JSON.parse(model.get("figure").replaceAll(model.get("ink"), shade(0.78)));
    const layout = fig.layout || {};
    Object.assign(layout, {
      autosize: true,
      width: el.clientWidth || undefined,
      font: { ...layout.font, color: shade(0.86) },
    });
    if (layout.title?.font) layout.title.font.color = shade(0.95);
    if (selects) Object.assign(layout, { dragmode: div.layout?.dragmode ?? "lasso", uirevision: "map" });
    el.style.minHeight = grows ? (layout.height || 300) + "px" : "";
    if (grows) layout.height = Math.max(el.clientHeight, layout.height || 300);
    return [fig.data || [], layout];
  };
  const onClick = (e) => {
    const point = e.points.find((p) => p.customdata !== undefined);
    if (!point) return;
    model.set("clicked", [point.customdata, ++n]);
    model.save_changes();
  };

  const choose = (what) => {
    model.set("chosen", [what, ++n]);
    model.save_changes();
  };
  const listen = () => {
    listening = true;
    div.on("plotly_click", onClick);
    if (!selects) return;
    div.on("plotly_selected", (e) => {
      if (!drawing && e?.selections?.length) choose({ lines: lines(e) });
    });
    div.on("plotly_deselect", () => {
      if (!drawing) choose({});
    });
    div.on("plotly_legendclick", (e) => {
      choose({ group: e.fullData[e.curveNumber].legendgroup });
      return false; // the group stays on the map
    });
    div.on("plotly_legenddoubleclick", () => false);
  };

  const draw = () => {
    if (gone || !Plotly || !model.get("figure")) return;
    const [data, layout] = parsed();
    const marks = model.get("marks") ? JSON.parse(model.get("marks")) : [];
    div.style.height = (layout.height || 300) + "px";
    drawing += 1;
    const drawn = Plotly.react(div, [...data, ...marks], layout, {
      displaylogo: false,
      displayModeBar: model.get("tools") ? "hover" : false,
      modeBarButtons: selects ? SELECT : BUTTONS,
    });
    drawn.finally(() => (drawing -= 1));
    if (!listening) listen();
  };
  const observer = new ResizeObserver(() => {
    const now = el.clientWidth;
    const tall = grows ? el.clientHeight : height;
    if (!Plotly || !listening || !now || (Math.abs(now - width) <= 1 && Math.abs(tall - height) <= 1)) return;
    [width, height] = [now, tall];
    if (grows) div.style.height = height + "px";
    Plotly.relayout(div, grows ? { width, height } : { width });
  });

  shared.plotly.then((library) => {
    Plotly = library;
    if (gone) return;
    draw();
    width = el.clientWidth;
    observer.observe(el);
  });
  model.on("change:figure", draw);
  model.on("change:marks", draw);
  return () => {
    gone = true;
    observer.disconnect();
    if (Plotly) Plotly.purge(div);
  };
}

export default { render };

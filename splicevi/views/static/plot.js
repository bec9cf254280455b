// A Plotly figure. Traits: `figure` and `marks` (JSON from the kernel: the figure, and traces drawn over it),
// `ink` (the colour that stands for the page's text), `tools` (whether zoom and download buttons appear), `grows`
// (whether the figure fills the height of its place); `clicked` ([customdata, n]) tells the kernel which point was clicked.

const shared = (globalThis.__splicevi ??= {});
shared.plotly ??= new Promise((resolve) => {
  shared.ready = resolve;
});

const BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];

function render({ model, el }) {
  const div = document.createElement("div");
  const grows = model.get("grows");
  el.classList.add("splicevi-plot");
  if (grows) el.classList.add("grows");
  el.append(div);
  let Plotly;
  let gone = false;
  let listening = false;
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

  const draw = () => {
    if (gone || !Plotly || !model.get("figure")) return;
    const [data, layout] = parsed();
    const marks = model.get("marks") ? JSON.parse(model.get("marks")) : [];
    div.style.height = (layout.height || 300) + "px";
    Plotly.react(div, [...data, ...marks], layout, {
      displaylogo: false,
      displayModeBar: model.get("tools") ? "hover" : false,
      modeBarButtons: BUTTONS,
    });
    if (!listening) {
      listening = true;
      div.on("plotly_click", onClick);
    }
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

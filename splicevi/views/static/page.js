// Unpacks plotly.js, draws the figures in the page's ink, and draws them again when the reader's theme changes.
const plots = [...document.querySelectorAll(".plot")].map(div => [div, div.querySelector("script").textContent]);

// The page's text colour, thinned out: figures follow light and dark.
const ink = alpha => {
  const [r, g, b] = getComputedStyle(document.body).color.match(/[\d.]+/g);
  return `rgba(${r},${g},${b},${alpha})`;
};

const draw = () => plots.forEach(([div, text]) => {
  const fig = JSON.parse(text.replaceAll(document.body.dataset.ink, ink(0.75)));
  fig.layout.font = { ...fig.layout.font, color: ink(0.8) };
  if (fig.layout.title?.font) fig.layout.title.font.color = ink(0.95);
  Plotly.react(div, fig.data, fig.layout, {
    responsive: true,
    displaylogo: false,
    displayModeBar: div.dataset.tools ? "hover" : false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  });
});

const start = async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  plots.forEach(([div]) => div.replaceChildren());
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.body.dataset.ready = "yes";
};

start().catch(e => plots.forEach(([div]) => {
  div.textContent = `This browser is too old to draw the figure (${e}).`;
}));

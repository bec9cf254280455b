// Draws each figure of a notebook when it comes into view, in the colours of the page; until then its picture stands there.
const script = document.currentScript.src.replace(/figures\.js.*/, "plotly.min.js");
let loaded;
const plotly = () => (loaded ??= new Promise((done, fail) => {
  const tag = Object.assign(document.createElement("script"), { src: script, onload: () => done(window.Plotly), onerror: fail });
  document.head.append(tag);
}));

async function draw(box) {
  const { data, layout } = JSON.parse(box.querySelector("script").textContent);
  const Plotly = await plotly();
  const plot = document.createElement("div");
  box.append(plot);
  const { width, ...rest } = layout;
  const fits = { ...rest, autosize: true };
  if (width && width <= box.clientWidth) Object.assign(fits, { width, autosize: false });
  await Plotly.newPlot(plot, data, fits, { responsive: true, displaylogo: false });
  box.querySelector("img")?.remove();
}

const seen = new IntersectionObserver((entries) => {
  for (const e of entries) {
    if (!e.isIntersecting) continue;
    seen.unobserve(e.target);
    draw(e.target);
  }
}, { rootMargin: "300px" });
document.querySelectorAll(".figure[data-height]").forEach((box) => seen.observe(box));

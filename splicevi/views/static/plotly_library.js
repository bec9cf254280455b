// Brings plotly.js to the page, once for all figures. Trait: `packed` (the script, gzipped, in base64).

const shared = (globalThis.__splicevi ??= {});
shared.plotly ??= new Promise((resolve) => {
  shared.ready = resolve;
});

const unpack = async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

// The script is run with a `module` of its own: pages with another Plotly or with require.js keep theirs.
const run = (code) => {
  shared.module = { exports: {} };
  const script = document.createElement("script");
  script.textContent =
    "(function (module, exports, define) {" +
    code +
    "\n}).call(window, window.__splicevi.module, window.__splicevi.module.exports, undefined)";
  document.head.append(script);
  script.remove();
  return shared.module.exports.react ? shared.module.exports : globalThis.Plotly;
};

async function render({ model, el }) {
  el.style.display = "none";
  if (shared.requested) return;
  shared.requested = true;
  shared.ready(run(await unpack(model.get("packed"))));
}

export default { render };

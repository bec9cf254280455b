// A map of cells that stays fluid at a million points: drawn with WebGL 2, or, where there is no graphics processor, by the
// processor, which then does it faster. Traits from the kernel: `xy` (float32: all x, then all
// y), `codes` (a uint16 for each cell: a category, 65535 where nothing was observed; or a float32 value, NaN where nothing
// was observed), `look` (see `map_look`), `tip` ([cell, text]) and `height`. To the kernel: `selection` (a bit for each
// cell, empty for none; also set from there), `hover` ([cell, n]).

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};
const icon = (path) =>
  `<svg viewBox="0 0 16 16" width="14" height="14" fill="none" stroke="currentColor" stroke-width="1.4"` +
  ` stroke-linecap="round" stroke-linejoin="round"><path d="${path}"/></svg>`;
const ICONS = {
  pan: icon("M8 2v12M2 8h12M6 3.8 8 2l2 1.8M6 12.2 8 14l2-1.8M3.8 6 2 8l1.8 2M12.2 6 14 8l-1.8 2"),
  lasso: icon("M5 11.5C2.8 11 1.7 9.5 1.7 7.7 1.7 4.8 4.5 2.6 8 2.6s6.3 2.2 6.3 5.1-2.8 5-6.3 5M5 11.5a1.6 1.6 0 1 0 .2 2.2"),
  box: icon("M2.5 2.5h11v11h-11z"),
  in: icon("M8 3v10M3 8h10"),
  out: icon("M3 8h10"),
  fit: icon("M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"),
};
const TIPS = {
  pan: "move (drag); hold Shift to draw a lasso",
  lasso: "lasso: draw around cells; Shift adds, Alt takes away",
  box: "box: select cells in a rectangle; Shift adds, Alt takes away",
  in: "zoom in (+, or scroll after a click into the map)",
  out: "zoom out (−)",
  fit: "show all cells (0, or a double click)",
};
const UNSEEN = 65535;
const SHADES = 1024; // steps of a scale of values
const GREY = [154, 161, 171];
const LEAST = 40_000; // points that a frame draws at least
const REST = 140; // milliseconds without a gesture, until all points are drawn

const count = (n) => n.toLocaleString("en");
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
// a copy in its own buffer, as views on messages may begin anywhere
const numbers = (Kind, view) => {
  if (!view?.byteLength) return new Kind(0);
  if (view instanceof ArrayBuffer) return new Kind(view.slice(0));
  return new Kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
};

const VERTEX = `#version 300 es
in float x; in float y; in uint shade;
uniform vec4 place; uniform float size; uniform float alpha; uniform float mute; uniform sampler2D palette;
flat out vec4 ink;
void main() {
  gl_Position = vec4(x * place.x + place.z, y * place.y + place.w, 0.0, 1.0);
  gl_PointSize = size;
  vec3 hue = texelFetch(palette, ivec2(int(shade & 255u), int(shade >> 8u)), 0).rgb;
  ink = vec4(mix(hue, vec3(0.604, 0.631, 0.671), mute) * alpha, alpha);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
flat in vec4 ink; uniform float size; out vec4 color;
void main() {
  if (size < 2.6) { color = ink; return; }
  float far = length(gl_PointCoord - 0.5) * size;
  float cover = clamp(0.5 * size - far + 0.5, 0.0, 1.0);
  if (cover <= 0.0) discard;
  color = ink * cover;
}`;

// Cells in an order of chance: any first part of it is a fair sample of all.
const shuffled = (n) => {
  const order = new Uint32Array(n);
  let state = 2463534242;
  for (let i = 0; i < n; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const j = Math.floor(((state >>> 0) / 4294967296) * (i + 1));
    order[i] = order[j];
    order[j] = i;
  }
  return order;
};

// What is drawn: points, a palette, and ranges of points that share an opacity.
class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true, depth: false });
    if (this.gl) this.prepare();
  }
  prepare() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "no program");
    gl.useProgram(program);
    this.at = {};
    for (const name of ["x", "y", "shade"]) this.at[name] = gl.getAttribLocation(program, name);
    for (const name of ["place", "size", "alpha", "mute", "palette"]) this.at[name] = gl.getUniformLocation(program, name);
    this.buffers = { place: gl.createBuffer(), shade: gl.createBuffer(), order: gl.createBuffer() };
    this.palette = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    for (const kind of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, kind, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
    this.hidden = gl.createFramebuffer(); // where a picture of many parts is put together
    this.picture = gl.createRenderbuffer();
    this.sized = "";
  }
  places(x, y) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.place);
    gl.bufferData(gl.ARRAY_BUFFER, 8 * x.length, gl.STATIC_DRAW);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, x);
    gl.bufferSubData(gl.ARRAY_BUFFER, 4 * x.length, y);
    for (const [name, offset] of [["x", 0], ["y", 4 * x.length]]) {
      gl.enableVertexAttribArray(this.at[name]);
      gl.vertexAttribPointer(this.at[name], 1, gl.FLOAT, false, 0, offset);
    }
  }
  shades(shade, colors) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.shade);
    gl.bufferData(gl.ARRAY_BUFFER, shade, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(this.at.shade);
    gl.vertexAttribIPointer(this.at.shade, 1, gl.UNSIGNED_SHORT, 0, 0);
    const texels = new Uint8Array(256 * 256 * 4).fill(255);
    colors.forEach((c, i) => texels.set(c, 4 * i));
    texels.set(GREY, 4 * UNSEEN);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 256, 0, gl.RGBA, gl.UNSIGNED_BYTE, texels);
  }
  order(ids) {
    this.gl.bindBuffer(this.gl.ELEMENT_ARRAY_BUFFER, this.buffers.order);
    this.gl.bufferData(this.gl.ELEMENT_ARRAY_BUFFER, ids, this.gl.DYNAMIC_DRAW);
  }
  // into the hidden picture, or onto the screen
  onto(hidden) {
    const gl = this.gl;
    const { width, height } = this.canvas;
    if (hidden && this.sized !== `${width} ${height}`) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.hidden);
      gl.bindRenderbuffer(gl.RENDERBUFFER, this.picture);
      gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA8, width, height);
      gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, this.picture);
      this.sized = `${width} ${height}`;
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, hidden ? this.hidden : null);
    gl.viewport(0, 0, width, height);
  }
  clear() {
    this.gl.clear(this.gl.COLOR_BUFFER_BIT);
  }
  part({ from, to, alpha, mute, size, listed }, place) {
    const gl = this.gl;
    if (to <= from) return;
    gl.uniform4fv(this.at.place, place);
    gl.uniform1f(this.at.size, size);
    gl.uniform1f(this.at.alpha, alpha);
    gl.uniform1f(this.at.mute, mute);
    if (listed) gl.drawElements(gl.POINTS, to - from, gl.UNSIGNED_INT, 4 * from);
    else gl.drawArrays(gl.POINTS, from, to - from);
  }
  finish() {}
  show() {
    const gl = this.gl;
    const { width, height } = this.canvas;
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.hidden);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
  }
  free() {
    this.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

// The same, a pixel after the other, for machines on which WebGL is only imitated: many times as fast there.
class Raster {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true }); // pixels stay with the processor
  }
  prepare() {}
  places(x, y) {
    Object.assign(this, { x, y });
  }
  shades(shade, colors) {
    this.shade = shade;
    this.colors = new Uint32Array(UNSEEN + 1);
    colors.forEach(([r, g, b], i) => (this.colors[i] = (b << 16) | (g << 8) | r));
    this.colors[UNSEEN] = (GREY[2] << 16) | (GREY[1] << 8) | GREY[0];
  }
  order(ids) {
    this.ids = ids;
  }
  onto(hidden) {
    const { width, height } = this.canvas;
    const name = hidden ? "back" : "front";
    if (this[name]?.width !== width || this[name]?.height !== height) this[name] = new ImageData(width, height);
    this.image = this[name];
    this.pixels = new Uint32Array(this.image.data.buffer);
  }
  clear() {
    this.pixels.fill(0);
  }
  finish() {
    this.pen.putImageData(this.image, 0, 0);
  }
  show() {
    this.finish();
  }
  // offsets and opacities (of 128) of the pixels of a disc
  static disc(size, alpha) {
    const side = Math.max(1, Math.round(size));
    if (side < 3) return { side, cover: new Uint8Array(side * side).fill(Math.round(128 * alpha)) };
    const far = (k) => Math.hypot((k % side) + 0.5 - side / 2, Math.floor(k / side) + 0.5 - side / 2);
    const share = (k) => Math.max(0, Math.min(1, side / 2 - far(k) + 0.5));
    return { side, cover: Uint8Array.from({ length: side * side }, (_, k) => Math.round(128 * alpha * share(k))) };
  }
  muted(mute) {
    if (!mute) return this.colors;
    const mix = (c, at) => Math.round(((c >> at) & 255) * (1 - mute) + GREY[at / 8] * mute) << at;
    return this.colors.map((c) => mix(c, 0) | mix(c, 8) | mix(c, 16));
  }
  part({ from, to, alpha, mute, size, listed }, [kx, ky, ox, oy]) {
    const { x, y, shade, ids, pixels } = this;
    const { width, height } = this.canvas;
    const colors = this.muted(mute);
    const { side, cover } = Raster.disc(size, alpha);
    const half = (side - 1) / 2;
    const [ax, bx] = [(kx * width) / 2, ((ox + 1) * width) / 2 - half];
    const [ay, by] = [(-ky * height) / 2, ((1 - oy) * height) / 2 - half];
    for (let p = from; p < to; p++) {
      const k = listed ? ids[p] : p;
      const left = (x[k] * ax + bx) | 0;
      const top = (y[k] * ay + by) | 0;
      if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
      const color = colors[shade[k]];
      for (let v = 0, c = 0; v < side; v++)
        for (let u = 0; u < side; u++, c++) {
          const a = cover[c];
          if (!a) continue;
          const at = (top + v) * width + left + u;
          const now = pixels[at];
          if (!now) {
            pixels[at] = ((a * 255) >> 7 << 24) | color;
            continue;
          }
          const b = 128 - a;
          const rb = ((Math.imul(now & 0xff00ff, b) + Math.imul(color & 0xff00ff, a)) >>> 7) & 0xff00ff;
          const g = ((Math.imul(now & 0xff00, b) + Math.imul(color & 0xff00, a)) >>> 7) & 0xff00;
          const dense = now >>> 24;
          pixels[at] = ((dense + (((255 - dense) * a) >> 7)) << 24) | rb | g;
        }
    }
  }
  free() {}
}

const shared = (globalThis.__splicevi ??= {});

// whether WebGL is there, and whether a graphics processor stands behind it
const graphics = () => {
  if (shared.graphics) return shared.graphics; // asked before, or told
  const gl = document.createElement("canvas").getContext("webgl2");
  const more = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = gl ? String(gl.getParameter(more ? more.UNMASKED_RENDERER_WEBGL : gl.RENDERER)) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  shared.graphics = !gl ? "none" : /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name) ? "imitated" : "real";
  return shared.graphics;
};
const painterFor = (canvas) => (graphics() === "real" ? new Painter(canvas) : new Raster(canvas));

// Cells by squares of the plane, to find the one under the pointer.
class Grid {
  constructor(x, y, [left, bottom, right, top]) {
    const side = Math.max(1, Math.min(1024, Math.round(Math.sqrt(x.length / 4))));
    Object.assign(this, { x, y, side, left, bottom });
    this.wide = (right - left || 1) / side;
    this.high = (top - bottom || 1) / side;
    const square = new Int32Array(x.length);
    const ends = new Uint32Array(side * side + 1);
    for (let i = 0; i < x.length; i++) {
      square[i] = x[i] === x[i] && y[i] === y[i] ? this.column(x[i]) + side * this.row(y[i]) : -1;
      if (square[i] >= 0) ends[square[i] + 1]++;
    }
    for (let s = 0; s < side * side; s++) ends[s + 1] += ends[s];
    this.ends = ends;
    this.cells = new Uint32Array(ends[side * side]);
    const next = ends.slice();
    for (let i = 0; i < x.length; i++) if (square[i] >= 0) this.cells[next[square[i]]++] = i;
  }
  column(x) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((x - this.left) / this.wide)));
  }
  row(y) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((y - this.bottom) / this.high)));
  }
  nearest(x, y, radius) {
    let best = radius * radius;
    let found = -1;
    for (let r = this.row(y - radius); r <= this.row(y + radius); r++)
      for (let c = this.column(x - radius); c <= this.column(x + radius); c++) {
        const s = r * this.side + c;
        for (let k = this.ends[s]; k < this.ends[s + 1]; k++) {
          const i = this.cells[k];
          const far = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
          if (far < best) [best, found] = [far, i];
        }
      }
    return found;
  }
}

function render({ model, el }) {
  el.classList.add("splicevi-map");
  const canvas = make("canvas", { tabIndex: 0, ariaLabel: "map of cells" });
  const ink = make("canvas", { className: "ink" });
  const hint = make("div", { className: "hint", hidden: true });
  const ring = make("i", { className: "ring", hidden: true });
  const bar = make("div", { className: "bar", role: "toolbar" });
  const stage = make("div", { className: "stage" }, canvas, ink, ring, hint, bar);
  const title = make("div", { className: "title" });
  const key = make("div", { className: "key" });
  const state = make("div", { className: "state", role: "status" });
  el.append(title, make("div", { className: "row" }, stage, key), state);
  const painter = painterFor(canvas);

  let n = 0;
  let x, y, codes, perm, bounds, grid; // x, y and codes are in the order of the cells
  let bits = new Uint8Array(0); // the selection
  let active = new Set(); // entries of the legend that make up the selection
  let parts = []; // ranges of points that are drawn alike
  let total = 0; // points drawn in all
  let view = { x: 0, y: 0, k: 1 }; // the middle, and pixels to a unit
  let fitted = 1;
  let touched = false; // whether somebody chose this view
  let mode = "pan";
  let gone = false;
  const chosen = (i) => (bits[i >> 3] >> (i & 7)) & 1;
  const look = () => model.get("look");
  let valued = false; // whether codes are values
  const seen = (i) => (valued ? codes[i] === codes[i] : codes[i] !== UNSEEN);
  const groupOf = (i) => (valued ? (codes[i] === codes[i] ? 0 : UNSEEN) : codes[i]); // its entry of the legend

  // --- drawing: a fair part of the points while something moves, then all of them in portions
  const scale = () => canvas.width / Math.max(canvas.clientWidth, 1);
  const pointSize = () => {
    const area = canvas.clientWidth * canvas.clientHeight;
    const plain = Math.max(1.3, Math.min(6, Math.sqrt((0.55 * area) / Math.max(n, 1))));
    return Math.min(12, plain * (view.k / fitted) ** 0.4) * scale();
  };
  const place = () => {
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    const [kx, ky] = [(2 * view.k) / w, (2 * view.k) / h];
    return [kx, ky, -view.x * kx, -view.y * ky];
  };
  const looks = () => {
    const size = pointSize();
    const dense = n > 50_000 ? 0.6 : 0.85;
    const some = bits.length > 0;
    return parts.map((p) => ({
      ...p,
      size: p.chosen && some ? size * 1.15 : size,
      alpha: some && !p.chosen ? 0.16 : p.seen ? dense : 0.35,
      mute: some && !p.chosen ? 0.75 : 0,
    }));
  };
  let budget = 150_000;
  let moved = -Infinity; // when something was moved last
  let done = -1; // points of the hidden picture; -1: all are on the screen
  let waiting = 0;
  let before = 0;
  const stats = { frames: 0, busy: 0, drawn: 0 };
  el.stats = stats;

  const sample = () => {
    const share = Math.min(1, budget / Math.max(total, 1));
    painter.onto(false);
    painter.clear();
    const at = place();
    for (const p of looks()) painter.part({ ...p, to: p.from + Math.ceil((p.to - p.from) * share) }, at);
    painter.finish();
    stats.drawn = Math.ceil(total * share);
    return share;
  };
  const portion = () => {
    painter.onto(true);
    if (done === 0) painter.clear();
    const end = Math.min(total, done + budget);
    const at = place();
    let begin = 0;
    for (const p of looks()) {
      const size = p.to - p.from;
      const [a, b] = [Math.max(done - begin, 0), Math.min(end - begin, size)];
      painter.part({ ...p, from: p.from + a, to: p.from + b }, at);
      begin += size;
    }
    done = end;
    if (done < total) return;
    painter.show();
    stats.drawn = total;
    done = -1;
  };
  // as many points to a frame as its time allows: time from frame to frame, or, without WebGL, that of drawing itself
  const adapt = (took, aim, most) => {
    if (took > most) budget = Math.max(LEAST, Math.round(budget * Math.max(0.5, aim / took)));
    else if (took < 0.9 * aim) budget = Math.min(Math.max(total, LEAST), Math.round(budget * 1.2));
  };
  const frame = (now) => {
    waiting = 0;
    if (gone || !stage.clientWidth || !matched()) return;
    if (before && painter.gl) adapt(now - before, 21, 26);
    const began = performance.now();
    const moving = began - moved < REST;
    if (moving || done === 0) {
      const whole = sample() >= 1;
      done = whole ? -1 : 0;
      if (!whole && !moving) portion();
    } else if (done > 0) portion();
    const took = performance.now() - began;
    if (!painter.gl) adapt(took, 12, 15);
    stats.frames++;
    stats.busy += took;
    before = done >= 0 ? now : 0;
    if (done >= 0) waiting = requestAnimationFrame(frame);
    if (done < 0) el.dataset.drawn = String(total);
  };
  const redraw = () => {
    done = 0;
    waiting ||= requestAnimationFrame(frame);
  };
  const move = (to) => {
    view = { ...view, ...to };
    touched = true;
    moved = performance.now();
    hide();
    redraw();
  };

  // --- what the kernel sends
  const fit = () => {
    const [left, bottom, right, top] = bounds;
    const wide = (canvas.clientWidth * 0.94) / (right - left || 1);
    const high = (canvas.clientHeight * 0.94) / (top - bottom || 1);
    fitted = Math.min(wide, high) || 1;
    return { x: (left + right) / 2, y: (bottom + top) / 2, k: fitted };
  };
  const sortParts = () => {
    const some = bits.length > 0;
    const kinds = [0, 0, 0, 0];
    const kind = new Uint8Array(n);
    for (let p = 0; p < n; p++) {
      const i = perm[p];
      const there = x[i] === x[i] && y[i] === y[i];
      kind[p] = there ? (some && chosen(i) ? 2 : 0) + (seen(i) ? 1 : 0) : 4;
      if (there) kinds[kind[p]]++;
    }
    total = kinds[0] + kinds[1] + kinds[2] + kinds[3];
    const listed = !kinds.some((k) => k === n);
    const next = [0, kinds[0], kinds[0] + kinds[1], total - kinds[3]];
    parts = kinds.map((k, j) => ({ from: next[j], to: next[j] + k, seen: j % 2 === 1, chosen: j > 1, listed }));
    if (!listed) {
      parts = parts.filter((p) => p.to > p.from).map((p) => ({ ...p, from: 0, to: n }));
      return;
    }
    const ids = new Uint32Array(total);
    for (let p = 0; p < n; p++) if (kind[p] < 4) ids[next[kind[p]]++] = p;
    painter.order(ids);
  };
  const paintShades = () => {
    const shade = new Uint16Array(n);
    const { colors, range } = look();
    if (valued) {
      const [low, high] = range;
      const step = (SHADES - 1) / (high - low || 1);
      for (let p = 0; p < n; p++) {
        const v = codes[perm[p]];
        shade[p] = v === v ? Math.max(0, Math.min(SHADES - 1, Math.round((v - low) * step))) : UNSEEN;
      }
      painter.shades(shade, ramp(look().scale));
    } else {
      for (let p = 0; p < n; p++) shade[p] = codes[perm[p]];
      painter.shades(shade, colors.map(rgb));
    }
  };
  const ramp = (stops) =>
    Array.from({ length: SHADES }, (_, i) => {
      const at = i / (SHADES - 1);
      const j = Math.max(1, stops.findIndex(([s]) => s >= at));
      const [[a, from], [b, to]] = [stops[j - 1], stops[j]];
      const [c, d] = [rgb(from), rgb(to)];
      return c.map((v, k) => Math.round(v + ((d[k] - v) * (at - a)) / (b - a || 1)));
    });
  const readPlaces = () => {
    const both = numbers(Float32Array, model.get("xy"));
    n = both.length / 2;
    [x, y, grid] = [both.subarray(0, n), both.subarray(n), null];
    bounds = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      if (x[i] < bounds[0]) bounds[0] = x[i];
      if (x[i] > bounds[2]) bounds[2] = x[i];
      if (y[i] < bounds[1]) bounds[1] = y[i];
      if (y[i] > bounds[3]) bounds[3] = y[i];
    }
    perm = shuffled(n);
    const [px, py] = [new Float32Array(n), new Float32Array(n)];
    for (let p = 0; p < n; p++) {
      px[p] = x[perm[p]];
      py[p] = y[perm[p]];
    }
    painter.places(px, py);
  };
  const readCodes = () => {
    valued = look().kind === "value";
    codes = numbers(valued ? Float32Array : Uint16Array, model.get("codes"));
  };
  const readBits = () => {
    const given = numbers(Uint8Array, model.get("selection"));
    bits = given.length === Math.ceil(n / 8) ? given : new Uint8Array(0);
  };
  // places and colours come in two messages: nothing is drawn until both are there
  const matched = () => n > 0 && codes.length === n;
  const recolour = () => {
    readCodes();
    if (!matched()) return;
    paintShades();
    sortParts();
    redraw();
    words();
  };
  const load = () => {
    readPlaces();
    readBits();
    view = fit();
    touched = false;
    recolour();
    if (!n) words();
  };

  // --- words and the legend
  const many = () => {
    let k = 0;
    for (const b of bits) for (let v = b; v; v &= v - 1) k++;
    return k;
  };
  const entry = (code, name, color, size, inside) => {
    const amount = bits.length ? `${count(inside)} of ${count(size)}` : count(size);
    const dot = make("i", { className: "dot" });
    dot.style.background = color;
    return make(
      "button",
      {
        className: active.has(code) ? "on" : "",
        title: `${name}\nClick to select these cells, with Shift to add them.`,
        onclick: (e) => pick(code, e.shiftKey || e.ctrlKey || e.metaKey),
      },
      dot,
      make("span", { textContent: name }),
      make("small", { textContent: amount }),
    );
  };
  const legend = () => {
    const { names, colors, unseen } = look();
    const [sizes, inside] = [new Uint32Array(UNSEEN + 1), new Uint32Array(UNSEEN + 1)];
    for (let i = 0; i < n; i++) sizes[groupOf(i)]++;
    if (bits.length) for (let i = 0; i < n; i++) inside[groupOf(i)] += chosen(i);
    const rows = valued ? [] : names.map((name, c) => [c, name, colors[c]]);
    if (sizes[UNSEEN]) rows.push([UNSEEN, unseen, `rgb(${GREY})`]);
    return rows.map(([c, name, color]) => entry(c, name, color, sizes[c], inside[c]));
  };
  const colourBar = () => {
    const { range, scale, unit, ticks } = look();
    const strip = make("div", { className: "strip" });
    strip.style.background = `linear-gradient(to right, ${scale.map(([s, c]) => `${c} ${100 * s}%`).join(", ")})`;
    const labels = make("div", { className: "ticks" }, ...ticks.map((t) => make("span", { textContent: t })));
    return make("div", { className: "scale", title: `${range[0]} to ${range[1]}` }, make("small", { textContent: unit }), strip, labels);
  };
  const words = () => {
    const { title: text, note } = look();
    const said = Object.entries({ b: text, span: note }).filter(([, words]) => words);
    title.replaceChildren(...said.map(([tag, textContent]) => make(tag, { textContent })));
    title.hidden = !said.length;
    if (matched()) key.replaceChildren(...(valued ? [colourBar()] : []), ...legend());
    const k = many();
    const text2 = make("span", { textContent: k ? `${count(k)} of ${count(n)} cells selected` : `${count(n)} cells` });
    const clear = make("button", { textContent: "clear", title: "select nothing (Esc)", onclick: () => choose(null) });
    state.replaceChildren(text2, ...(k ? [clear] : []));
    el.dataset.selected = String(k);
  };

  // --- selecting
  const choose = (next, keep = false) => {
    bits = next ?? new Uint8Array(0);
    if (bits.length && !bits.some((b) => b)) bits = new Uint8Array(0);
    if (!keep) active = new Set();
    model.set("selection", new DataView(bits.buffer.slice(0)));
    model.save_changes();
    sortParts();
    redraw();
    words();
  };
  const among = (test, how) => {
    const next = how === "new" || !bits.length ? new Uint8Array(Math.ceil(n / 8)) : bits.slice();
    for (let i = 0; i < n; i++) {
      if (!test(i)) continue;
      if (how === "less") next[i >> 3] &= ~(1 << (i & 7));
      else next[i >> 3] |= 1 << (i & 7);
    }
    return next;
  };
  const pick = (code, more) => {
    const had = active.has(code);
    const before = more ? new Set(active) : new Set();
    if (had) before.delete(code);
    else before.add(code);
    active = before;
    choose(active.size ? among((i) => active.has(groupOf(i)), "new") : null, true);
  };
  const inside = (path) => {
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    const mask = new OffscreenCanvas(2 * w, 2 * h);
    const pen = mask.getContext("2d", { willReadFrequently: true });
    pen.scale(2, 2);
    trace(pen, path);
    pen.fill();
    const alpha = pen.getImageData(0, 0, 2 * w, 2 * h).data;
    return (i) => {
      const a = Math.floor(2 * ((x[i] - view.x) * view.k + w / 2));
      const b = Math.floor(2 * (h / 2 - (y[i] - view.y) * view.k));
      return a >= 0 && b >= 0 && a < 2 * w && b < 2 * h && alpha[4 * (b * 2 * w + a) + 3] > 127;
    };
  };
  const trace = (pen, path) => {
    pen.beginPath();
    path.forEach(([a, b], i) => (i ? pen.lineTo(a, b) : pen.moveTo(a, b)));
    pen.closePath();
  };
  const sketch = (path) => {
    const pen = ink.getContext("2d", { willReadFrequently: true });
    pen.setTransform(scale(), 0, 0, scale(), 0, 0);
    pen.clearRect(0, 0, ink.width, ink.height);
    if (path.length < 2) return;
    trace(pen, path);
    pen.fillStyle = "rgba(0, 114, 178, 0.14)";
    pen.strokeStyle = "#0072b2";
    pen.lineWidth = 1.5;
    pen.fill();
    pen.stroke();
  };

  // --- hands
  const at = (e) => {
    const box = canvas.getBoundingClientRect();
    return [e.clientX - box.left, e.clientY - box.top];
  };
  const zoom = (by, [a, b] = [canvas.clientWidth / 2, canvas.clientHeight / 2]) => {
    const k = Math.max(fitted / 4, Math.min(fitted * 4000, view.k * by));
    const [dx, dy] = [a - canvas.clientWidth / 2, canvas.clientHeight / 2 - b];
    move({ x: view.x + dx / view.k - dx / k, y: view.y + dy / view.k - dy / k, k });
  };
  let drag = null; // { kind, path, how }
  const corners = ([[a, b]], [c, d]) => [[a, b], [c, b], [c, d], [a, d]];
  const press = (e) => {
    if (e.button || !matched()) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(e.pointerId);
    const kind = mode === "pan" ? (e.shiftKey ? "lasso" : "pan") : mode;
    const how = mode === "pan" || !(e.shiftKey || e.altKey) ? "new" : e.altKey ? "less" : "more";
    drag = { kind, how, path: [at(e)], from: view };
    hide();
  };
  const pull = (e) => {
    if (!drag) return point(e);
    const now = at(e);
    if (drag.kind === "pan") {
      const [[a, b], { x, y, k }] = [drag.path[0], drag.from];
      drag.far ||= Math.hypot(now[0] - a, now[1] - b) > 2;
      if (drag.far) move({ x: x - (now[0] - a) / k, y: y + (now[1] - b) / k });
    } else {
      drag.path = drag.kind === "box" ? [drag.path[0], now] : [...drag.path, now];
      sketch(drag.kind === "box" ? corners(drag.path, now) : drag.path);
    }
  };
  const release = () => {
    if (!drag) return;
    const { kind, path, how } = drag;
    drag = null;
    sketch([]);
    if (kind === "pan") return;
    const small = path.every(([a, b]) => Math.hypot(a - path[0][0], b - path[0][1]) < 4);
    if (small) return how === "new" && bits.length ? choose(null) : undefined;
    choose(among(inside(kind === "box" ? corners(path, path.at(-1)) : path), how));
  };
  const setMode = (name) => {
    mode = name;
    stage.dataset.mode = name;
    for (const b of bar.children) b.classList.toggle("on", b.dataset.name === name);
  };
  const ACTIONS = {
    pan: () => setMode("pan"),
    lasso: () => setMode("lasso"),
    box: () => setMode("box"),
    in: () => zoom(1.6),
    out: () => zoom(1 / 1.6),
    fit: () => {
      move(fit());
      touched = false;
    },
  };
  for (const [name, act] of Object.entries(ACTIONS)) {
    const button = make("button", { title: TIPS[name], ariaLabel: TIPS[name], innerHTML: ICONS[name], onclick: act });
    button.dataset.name = name;
    bar.append(button);
  }
  setMode("pan");
  const step = (dx, dy) => () => move({ x: view.x + (dx * 60) / view.k, y: view.y + (dy * 60) / view.k });
  const KEYS = {
    "+": ACTIONS.in,
    "=": ACTIONS.in,
    "-": ACTIONS.out,
    0: ACTIONS.fit,
    Escape: () => (drag ? ((drag = null), sketch([])) : bits.length && choose(null)),
    ArrowLeft: step(-1, 0),
    ArrowRight: step(1, 0),
    ArrowUp: step(0, 1),
    ArrowDown: step(0, -1),
  };
  canvas.addEventListener("keydown", (e) => {
    e.stopPropagation(); // the notebook has shortcuts of its own
    if (!KEYS[e.key]) return;
    e.preventDefault();
    KEYS[e.key]();
  });
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", pull);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", ACTIONS.fit);
  canvas.addEventListener("pointerleave", () => {
    hide();
    if (!drag) canvas.blur(); // the wheel is the page's again
  });
  canvas.addEventListener(
    "wheel",
    (e) => {
      if (document.activeElement !== canvas && canvas.getRootNode().activeElement !== canvas && !e.ctrlKey && !e.metaKey)
        return; // the page scrolls until the map is clicked
      e.preventDefault();
      const lines = e.deltaMode ? 20 : 1;
      zoom(Math.exp(-Math.max(-120, Math.min(120, e.deltaY * lines)) / 320), at(e));
    },
    { passive: false },
  );

  // --- what a cell is
  let hovered = -1;
  let asked = 0;
  let rest;
  const hide = () => {
    clearTimeout(rest);
    hovered = -1;
    ring.hidden = hint.hidden = true;
  };
  const wording = (i) => {
    const { names, unseen, unit } = look();
    if (!seen(i)) return unseen;
    return valued ? `${unit ? unit + " " : ""}${Number(codes[i].toPrecision(3))}` : names[codes[i]];
  };
  const tell = () => {
    const tip = model.get("tip");
    const more = tip[0] === hovered ? tip[1] : "";
    hint.replaceChildren(make("b", { textContent: wording(hovered) }), ...(more ? [make("span", { textContent: more })] : []));
  };
  const point = (e) => {
    if (!matched()) return;
    grid ??= new Grid(x, y, bounds);
    const [a, b] = at(e);
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    const i = grid.nearest(view.x + (a - w / 2) / view.k, view.y + (h / 2 - b) / view.k, 7 / view.k);
    if (i < 0) return hide();
    if (i === hovered) return;
    hide();
    hovered = i;
    const [left, top] = [(x[i] - view.x) * view.k + w / 2, h / 2 - (y[i] - view.y) * view.k];
    ring.style.transform = `translate(${left}px, ${top}px)`;
    hint.style.left = `${Math.min(left + 12, w - 20)}px`;
    hint.style.right = left > w / 2 ? `${w - left + 12}px` : "auto";
    if (left > w / 2) hint.style.left = "auto";
    hint.style.top = `${Math.max(0, Math.min(top - 10, h - 48))}px`;
    ring.hidden = hint.hidden = false;
    tell();
    rest = setTimeout(() => {
      model.set("hover", [i, ++asked]);
      model.save_changes();
    }, 60);
  };

  // --- size
  const resize = () => {
    const [w, h] = [stage.clientWidth, model.get("height")];
    if (!w) return;
    stage.style.height = `${h}px`;
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    for (const c of [canvas, ink]) [c.width, c.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    if (!matched()) return;
    const next = fit();
    if (!touched) view = next;
    redraw();
  };
  const observer = new ResizeObserver(resize);
  observer.observe(stage);
  canvas.addEventListener("webglcontextlost", (e) => e.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => {
    if (gone) return;
    painter.prepare();
    load();
  });
  model.on("change:xy", load);
  let coming = false; // colours and what they mean come together, and are drawn once
  const soon = () => {
    if (coming) return;
    coming = true;
    queueMicrotask(() => {
      coming = false;
      if (!gone) recolour();
    });
  };
  model.on("change:codes", soon);
  model.on("change:look", soon);
  model.on("change:height", resize);
  model.on("change:tip", () => hovered >= 0 && tell());
  model.on("change:selection", () => {
    const given = numbers(Uint8Array, model.get("selection"));
    if (given.length === bits.length && given.every((b, i) => b === bits[i])) return;
    active = new Set();
    readBits();
    if (!matched()) return;
    sortParts();
    redraw();
    words();
  });
  // Colab's manager of widgets leaves binary values out of the state that a widget starts with
  if (model.get("xy")?.byteLength === undefined) {
    model.set("lost", model.get("lost") + 1);
    model.save_changes();
  }
  resize();
  load();
  return () => {
    gone = true;
    observer.disconnect();
    cancelAnimationFrame(waiting);
    painter.free();
  };
}

export default { render };

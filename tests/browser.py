"""A real JupyterLab or Notebook 7 and a real browser, for tests of what people see."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Messages of JupyterLab and Notebook, and of a picture from outside, that say nothing about a notebook's views.
KNOWN = (
    "favicon",
    "colab-badge.svg",
    "source map",
    "sourcemap",
    "Deprecat",
    "preload",
    "WebSocket connection",
    "contentvisibility",
    "server extension",
    "is duplicated",
    "yjs#509",
)

OWN_FAULT = "reading 'schema'"  # of Notebook 7's settings, before any cell has run

# JupyterLab draws the cells in sight only, so what they hold is asked of its model.
CODE_CELLS = "[...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code')"


def browser_path() -> str | None:
    "The browser to drive: CHROMIUM, then the system's, then Playwright's own; None where there is none."
    if named := os.environ.get("CHROMIUM"):
        return named if Path(named).exists() or shutil.which(named) else None
    found = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if found:
        return found
    try:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as p:
            return p.chromium.executable_path if Path(p.chromium.executable_path).exists() else None
    except Exception:  # no Playwright, or one without a browser
        return None


def write_notebook(path: Path, *cells: str) -> Path:
    "A notebook of code cells."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, path)
    return path


FRONT_ENDS = {"lab": ("jupyterlab", "LabApp"), "notebook": ("notebook", "JupyterNotebookApp")}  # module, its options
PLACES = {"lab": "doc/tree", "notebook": "notebooks"}  # of a notebook, in the address


@contextmanager
def jupyter_lab(folder: Path, home: Path, pythonpath: Path, front_end: str = "lab"):
    "Address of a JupyterLab, or of a Notebook 7, that serves `folder`; everything it writes goes to `home`."
    module, app = FRONT_ENDS[front_end]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dirs = {
        k: str(home / k.lower())
        for k in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "IPYTHONDIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }
    env = os.environ | dirs | {"PYTHONPATH": str(pythonpath), "OMP_NUM_THREADS": "2"}
    command = [
        sys.executable,
        "-m",
        module,
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--{app}.expose_app_in_browser=True",
        f"--{app}.extension_manager=readonly",
        f"--{app}.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--{app}.news_url=None",
    ]
    quiet = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    shown = home / "jupyter_config_dir" / "labconfig" / "page_config.json"
    shown.parent.mkdir(parents=True)
    shown.write_text('{"exposeAppInBrowser": "true"}')  # as window.jupyterapp
    with open(home / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, server, home / "lab.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def marimo_app(path: Path, home: Path, pythonpath: Path):
    "Address of a marimo that runs the notebook `path` as an app; everything it writes goes to `home`."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dirs = {k: str(home / k.lower()) for k in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    env = os.environ | dirs | {"PYTHONPATH": str(pythonpath), "OMP_NUM_THREADS": "2", "MARIMO_SKIP_UPDATE_CHECK": "1"}
    command = [sys.executable, "-m", "marimo", "run", str(path), "--headless", "--no-token", f"--port={port}"]
    with open(home / "marimo.log", "wb") as log:
        server = subprocess.Popen([*command, "--host=127.0.0.1"], env=env, stdout=log, stderr=log, cwd=path.parent)
        try:
            _wait_for(f"http://127.0.0.1:{port}", server, home / "marimo.log", at="/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


STATIC = """<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="POLICY">
<style>CSS</style><div id="root"></div><script type="application/json" id="state">STATE</script>
<script type="module">
const parse = text => JSON.parse(text, (k, v) => v?.bytes === undefined ? v
  : Uint8Array.from(atob(v.bytes), c => c.charCodeAt(0)));
const state = parse(document.getElementById('state').textContent), heard = {}, changed = new Set();
window.sent = [];
window.receive = text => {
  const values = parse(text);
  Object.assign(state, values);
  for (const k of Object.keys(values)) (heard['change:' + k] ?? []).forEach(f => f());
};
const model = {
  get: k => state[k],
  set: (k, v) => { state[k] = v; changed.add(k); },
  on: (e, f) => (heard[e] ??= []).push(f),
  off: () => {},
  save_changes: () => { for (const k of changed) window.sent.push([k, state[k]]); changed.clear(); },
};
const script = URL.createObjectURL(new Blob([SCRIPT], { type: 'text/javascript' }));
(await import(script)).default.render({ model, el: document.getElementById('root') });
</script>"""
# That of VS Code's notebooks where they have one, without a place that anything could be loaded from
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline'; img-src data:"


def as_json(values: dict) -> str:
    "Values of a widget as JSON; bytes in base64."
    code = lambda v: {"bytes": base64.b64encode(v).decode()} if isinstance(v, (bytes, memoryview)) else str(v)
    return json.dumps(values, default=code).replace("</", "<\\/")


def static_page(widget, path: Path, binary: bool = True) -> dict:
    "Write a widget as a page without a kernel; returns the bytes, which the page gets only if `binary`."
    state = {k: v for k, v in widget.get_state().items() if not k.startswith("_") and k not in ("layout", "tabbable")}
    sent = {k: v for k, v in state.items() if isinstance(v, (bytes, memoryview))}
    shown = state if binary else {k: v for k, v in state.items() if k not in sent}
    parts = dict(POLICY=POLICY, CSS=widget._css, STATE=as_json(shown), SCRIPT=as_json(widget._esm))
    text = STATIC
    for name, part in parts.items():
        text = text.replace(name, str(part), 1)
    path.write_text(text, encoding="utf-8")
    return sent


def wait_until(condition, seconds=120, every=0.25):
    "The first true value of the condition."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError("did not happen in time")


def _wait_for(address: str, server, log: Path, seconds: float = 90, at: str = "/api") -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            with urlopen(address + at, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"The server did not start:\n{log.read_text()[-3000:]}")


class Notebook:
    "One notebook open in the browser."

    def __init__(
        self,
        page,
        address: str,
        path: str,
        width: int = 1200,
        height: int = 1000,
        dark: bool = False,
        front_end: str = "lab",
    ):
        self.page, self.errors = page, []
        page.on(
            "console",
            lambda m: (
                m.type in ("error", "warning")
                and not any(k in m.text + m.location.get("url", "") for k in KNOWN)
                and self.errors.append(f"{m.type}: {m.text} {m.location.get('url', '')}")
            ),
        )
        page.on("pageerror", lambda e: OWN_FAULT in str(e) or self.errors.append(f"exception: {e}"))
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{address}/{PLACES[front_end]}/{path}")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        self.command("apputils:change-theme", theme=f"JupyterLab {'Dark' if dark else 'Light'}")

    def command(self, name: str, **args):
        "Run one of JupyterLab's commands without waiting for it."
        self.page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, args])

    def run_all(self) -> None:
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=90_000,
        )
        self.command("notebook:run-all-cells")

    def wait_done(self, seconds: float = 240) -> None:
        "Until every code cell has run, or one has failed."
        self.page.wait_for_function(
            f"""() => {{
              const cells = {CODE_CELLS};
              const failed = c => c.outputs.toJSON().some(o => o.output_type === 'error');
              return cells.length && (cells.some(failed) || cells.every(c => c.executionCount));
            }}""",
            timeout=seconds * 1000,
        )

    def execute(self, code: str) -> str:
        "What the kernel prints when it runs the code, beside the notebook's cells."
        return self.page.evaluate(
            """async code => {
              const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel, out = [];
              const future = kernel.requestExecute({ code });
              future.onIOPub = ({ content }) => {
                if (content.text) out.push(content.text);
                if (content.ename) out.push(content.ename + ': ' + content.evalue);
              };
              await future.done;
              return out.join('');
            }""",
            code,
        )

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def shut_down(self) -> None:
        "End the kernel."
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")

    def interrupt(self) -> None:
        self.command("notebook:interrupt-kernel")

    def shot(self, path: Path, selector: str | None = None) -> None:
        "A screenshot of the page, or of the first element that matches."
        path.parent.mkdir(parents=True, exist_ok=True)
        target = self.page.locator(selector).first if selector else self.page
        target.screenshot(path=path)

    def failed(self, stderr: bool = True) -> list[str]:
        "Errors of all cells, also of those that are not in sight, and what they wrote to the error stream."
        outputs = self.page.evaluate(f"() => {CODE_CELLS}.flatMap(c => c.outputs.toJSON())")
        errors = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
        streams = [o["text"] for o in outputs if stderr and o.get("name") == "stderr"]
        return errors + ["".join(text) for text in streams]

// Keys, buttons and pointers in, actions out. `act` runs an action and has the picture repainted.

const byId = (id) => document.getElementById(id);

export function connectKeys(actions, act) {
  const keys = {
    " ": actions.pause,
    a: actions.atoms,
    c: actions.colour,
    f: actions.fit,
    s: actions.save,
    x: actions.copy,
    "?": actions.help,
    "[": () => actions.radius(-0.05),
    "]": () => actions.radius(0.05),
    "+": () => actions.zoom(1.25),
    "=": () => actions.zoom(1.25),
    "-": () => actions.zoom(0.8),
  };
  document.addEventListener("keydown", (event) => {
    const elsewhere = event.target.closest("select, dialog") || event.ctrlKey || event.metaKey || event.altKey;
    const action = keys[event.key.toLowerCase()];
    if (elsewhere || !action) return;
    event.preventDefault();
    act(action);
  });
}

export function connectButtons(actions, act) {
  for (const id of ["pause", "atoms", "colour", "fit", "save", "copy", "help"]) {
    byId(id).addEventListener("click", () => act(actions[id]));
  }
  byId("radius").addEventListener("input", () => act(() => actions.radius(0)));
}

// One pointer drags, two pinch, the wheel zooms about the place it is over. `hover` is told [y, x] or null.
export function connectPointers(canvas, view, act, hover) {
  const down = new Map();
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientY - box.top, event.clientX - box.left];
  };

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const step = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 0.0015 : 0.05;
    act(() => view.zoom(Math.exp(-event.deltaY * step), ...place(event)));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => act(() => view.fit()));
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = down.get(event.pointerId);
    const now = place(event);
    act(() => {
      hover(now);
      if (!before) return;
      const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
      if (other) pinch(view, before, now, other);
      else view.pan(now[0] - before[0], now[1] - before[1]);
      down.set(event.pointerId, now);
    });
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    canvas.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      canvas.classList.toggle("dragging", down.size > 0);
      if (name === "pointerleave") act(() => hover(null));
    });
  }
}

function pinch(view, before, now, other) {
  const apart = (place) => Math.max(Math.hypot(place[0] - other[0], place[1] - other[1]), 1);
  view.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
}

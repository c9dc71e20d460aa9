"use strict";
// Draws the curves of a report. All text goes in as text nodes: nothing here reads a run's data as markup or code.
(() => {
  const { runs, charts } = JSON.parse(document.getElementById("data").textContent);
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const state = { axis: "step", scale: "log" };
  const several = runs.length > 1;

  // ---- numbers -------------------------------------------------------------------------------------------------
  const trim = (text) => (text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text);
  const grouped = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });

  function amount(value, units = ["", "k", "M", "G", "T", "P"], base = 1000) {
    let power = 0;
    while (Math.abs(value) >= base * 0.9995 && power < units.length - 1) { value /= base; power += 1; }
    return trim(value.toPrecision(3).includes("e") ? value.toFixed(0) : value.toPrecision(3)) + units[power];
  }

  function plain(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 0.001) {
      const [digits, exponent] = value.toExponential(2).split("e");
      const raised = [...exponent.replace("+", "")].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");
      return trim(digits) === "1" ? `10${raised}` : `${trim(digits)}·10${raised}`;
    }
    return size >= 1000 ? grouped(value) : trim(value.toPrecision(4));
  }

  function seconds(value) {
    if (value === 0) return "0";
    if (value < 1) return `${trim((value * 1000).toPrecision(3))} ms`;
    if (value < 120) return `${trim(value.toPrecision(3))} s`;
    if (value < 7200) return `${trim((value / 60).toPrecision(3))} min`;
    return value < 172800 ? `${trim((value / 3600).toPrecision(3))} h` : `${trim((value / 86400).toPrecision(3))} d`;
  }

  const write = {
    number: plain,
    amount: (value) => amount(value),
    bytes: (value) => amount(value, [" B", " KiB", " MiB", " GiB", " TiB"], 1024),
    share: (value) => `${trim((value * 100).toPrecision(3))} %`,
    seconds,
  };
  const shortened = (name) => (name.length > 26 ? `${name.slice(0, 12)}…${name.slice(-13)}` : name);
  const writeAxis = { step: grouped, tokens: (value) => amount(value), seconds };
  const axisName = { step: "step", tokens: "tokens", seconds: "wall time" };

  // ---- scales --------------------------------------------------------------------------------------------------
  function niceStep(span, count, bases) {
    const rough = span / count;
    if (bases) return bases.find((base) => base >= rough) || bases[bases.length - 1] * Math.ceil(rough / bases[bases.length - 1]);
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 2.5, 5, 10].map((base) => base * power).find((step) => step >= rough * 0.999);
  }

  function linearTicks(low, high, count, bases) {
    const step = niceStep(high - low, count, bases);
    const ticks = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) {
      ticks.push(Number((index * step).toPrecision(12)));
    }
    return ticks;
  }

  function logTicks(low, high) {
    const decades = Math.log10(high / low);
    const digits = decades > 3 ? [1] : decades > 1.2 ? [1, 2, 5] : decades > 0.45 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : null;
    if (!digits) return linearTicks(low, high, 5);
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const digit of digits) {
        const tick = Number((digit * 10 ** power).toPrecision(12));
        if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
      }
    }
    return ticks;
  }

  // Bases that make sense for each form: minutes and hours aren't decimal, nor are powers of two.
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  const tickBases = (form, high) => {
    if (form === "seconds" && high > 10) return TIMES;
    if (form !== "bytes") return null;
    const unit = 1024 ** Math.floor(Math.log(high) / Math.log(1024));
    return [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200].map((base) => base * unit);
  };

  function linearScale(low, high, from, to) {
    const scale = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
    scale.low = low; scale.high = high;
    return scale;
  }

  function logScale(low, high, from, to) {
    const inner = linearScale(Math.log(low), Math.log(high), from, to);
    const scale = (value) => inner(Math.log(Math.max(value, low / 10)));
    scale.low = low; scale.high = high;
    return scale;
  }

  // A step as tokens or seconds, by the nearest recorded steps.
  function onAxis(run, step) {
    if (state.axis === "step") return step;
    const from = run.rulers.step, to = run.rulers[state.axis];
    if (from.length < 2) return from.length ? to[0] : 0;
    const right = Math.min(from.length - 1, Math.max(1, search(from, step)));
    const share = (step - from[right - 1]) / (from[right] - from[right - 1] || 1);
    return Math.max(0, to[right - 1] + share * (to[right] - to[right - 1]));
  }

  function search(sorted, value) {
    let low = 0, high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  }

  function nearest(sorted, value) {
    const right = Math.min(sorted.length - 1, search(sorted, value));
    return right > 0 && value - sorted[right - 1] < sorted[right] - value ? right - 1 : right;
  }

  // ---- drawing -------------------------------------------------------------------------------------------------
  function add(parent, name, attributes = {}, text = null) {
    const element = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== null) element.textContent = text;
    parent.appendChild(element);
    return element;
  }

  // In wall time nothing is drawn across the hours in which nobody trained.
  function path(run, line, x, y) {
    const breaks = state.axis === "seconds" ? run.events.filter(({ kind }) => kind === "resumed").map(({ step }) => step) : [];
    let text = "";
    for (let index = 0; index < line.x.length; index += 1) {
      const isBroken = index === 0 || breaks.some((step) => line.steps[index - 1] <= step && step < line.steps[index]);
      text += `${isBroken ? "M" : "L"}${x(line.x[index]).toFixed(1)} ${y(line.y[index]).toFixed(1)}`;
    }
    return text;
  }

  // The lines of a chart: what to draw, what to read out, what to call it.
  function lines(chart) {
    const found = [];
    runs.forEach((run, index) => {
      const hue = `var(--hue-${index % 6})`;
      const put = (key, name, colour, isBeside) => {
        const curve = run.curves[key];
        if (!curve) return;
        const placed = ({ x, y }) => ({ steps: x, x: x.map((step) => onAxis(run, step)), y });
        const raw = placed(curve), smooth = curve.smooth && placed(curve.smooth);
        const line = smooth || raw;
        const label = several ? (isBeside ? `${shortened(run.name)} ${name}` : shortened(run.name)) : name;
        found.push({ run, curve, raw, smooth, line, label, name, colour, isBeside });
      };
      put(chart.key, chart.validation ? "training" : "", hue, false);
      if (chart.validation) put(chart.validation, "validation", several ? hue : "var(--beside)", true);
    });
    return found;
  }

  function valueRange(chart, drawn) {
    let low = Infinity, high = -Infinity;
    for (const { curve, raw } of drawn) {
      const [least, most] = curve.range || [Math.min(...raw.y), Math.max(...raw.y)];
      low = Math.min(low, least); high = Math.max(high, most);
    }
    if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
    if (low > 0 && low < high * 0.4 && !chart.validation) low = 0;
    return [low, high];
  }

  function draw(figure) {
    const chart = charts[figure.dataset.chart];
    const svg = figure.querySelector("svg");
    const drawn = lines(chart);
    const isWide = figure.classList.contains("wide");
    const width = figure.clientWidth, isNarrow = width < 520;
    const height = isWide ? (isNarrow ? 280 : 360) : 190;
    const isLog = chart.key === "loss" && state.scale === "log" && drawn.every(({ raw }) => raw.y.every((value) => value > 0));
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    // At the end of its line each name stands where there is room; on a phone it stands in the read-out.
    const named = isWide && !isNarrow ? drawn.filter(({ isBeside }) => !(several && isBeside)) : [];
    const longest = Math.max(0, ...named.map(({ label }) => label.length + (several ? 0 : 7)));
    const inset = { left: 46, right: named.length ? longest * 6.4 + 16 : 12, top: 14, bottom: isWide ? 46 : 28 };
    const right = width - inset.right, bottom = height - inset.bottom;

    let [low, high] = valueRange(chart, drawn);
    if (isLog) low = Math.min(...drawn.flatMap(({ raw }) => raw.y));
    const ticks = isLog ? logTicks(low * 0.97, high * 1.03)
      : linearTicks(low - (low ? (high - low) * 0.06 : 0), high + (high - low) * 0.04, isWide ? 6 : 4, tickBases(chart.form, high));
    const y = isLog ? logScale(low * 0.97, high * 1.03, bottom, inset.top)
      : linearScale(low ? low - (high - low) * 0.06 : 0, high + (high - low) * 0.04, bottom, inset.top);
    for (const tick of ticks) {
      add(svg, "line", { class: "grid", x1: inset.left, x2: right, y1: y(tick), y2: y(tick) });
      add(svg, "text", { x: inset.left - 8, y: y(tick) + 4, "text-anchor": "end" }, write[chart.form](tick));
    }
    const ends = drawn.flatMap(({ raw }) => [raw.x[0], raw.x[raw.x.length - 1]]);
    const first = state.axis === "step" ? Math.min(...ends) : 0, last = Math.max(...ends);
    const start = first <= (last - first) * 0.05 ? 0 : first;
    const x = linearScale(start, last > start ? last : start + 1, inset.left, right);
    const across = linearTicks(x.low, x.high, Math.max(3, Math.floor((right - inset.left) / 85)), state.axis === "seconds" ? TIMES : null);
    add(svg, "line", { class: "axis", x1: inset.left, x2: right, y1: bottom, y2: bottom });
    for (const tick of across) {
      if (state.axis === "step" && tick !== Math.round(tick)) continue;
      add(svg, "line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 });
      add(svg, "text", { x: x(tick), y: bottom + 17, "text-anchor": x(tick) > width - 20 ? "end" : "middle" }, writeAxis[state.axis](tick));
    }
    if (isWide) drawEvents(svg, x, bottom, inset);

    const clip = `clip-${chart.key}`;
    const area = add(add(svg, "clipPath", { id: clip }), "rect");
    for (const [key, value] of Object.entries({ x: inset.left, y: inset.top - 6, width: right - inset.left + 3, height: bottom - inset.top + 8 })) area.setAttribute(key, value);
    const inside = add(svg, "g", { "clip-path": `url(#${clip})` });
    for (const { run, raw, smooth, colour } of drawn) {
      if (smooth) add(inside, "path", { class: "raw", d: path(run, raw, x, y), style: `stroke: ${colour}` });
    }
    for (const { run, line, colour, isBeside } of drawn) {
      add(inside, "path", { class: isBeside && several ? "curve dashed" : "curve", d: path(run, line, x, y), style: `stroke: ${colour}` });
      if (isBeside && line.x.length <= 60 || line.x.length === 1) {
        line.x.forEach((at, index) => add(inside, "circle", { cx: x(at), cy: y(line.y[index]), r: 2.6, style: `fill: ${colour}` }));
      }
    }
    if (named.length) nameLines(svg, named, x, y, inset, bottom);
    caption(figure, drawn);
    follow(figure, svg, chart, drawn, x, y, inset, bottom, named.length > 0);
  }

  // Names at the ends of the lines, pushed apart where they would overlap.
  function nameLines(svg, drawn, x, y, inset, bottom) {
    const names = drawn.map(({ line, label: text, colour }) => ({
      text: several ? text : `${text} ${plain(line.y[line.y.length - 1])}`, colour, x: x(line.x[line.x.length - 1]) + 8, y: Math.max(inset.top, y(line.y[line.y.length - 1])) + 4,
    })).sort((one, other) => one.y - other.y);
    for (let index = 1; index < names.length; index += 1) names[index].y = Math.max(names[index].y, names[index - 1].y + 15);
    for (let index = names.length - 1; index >= 0; index -= 1) {
      names[index].y = Math.min(names[index].y, bottom + 2 - (names.length - 1 - index) * 15);
    }
    for (const name of names) {
      add(svg, "text", { class: "label halo", x: name.x, y: name.y, style: `fill: ${name.colour}` }, name.text);
    }
  }

  // Under the axis of the first chart: a dot for each checkpoint, a named mark for whatever broke the routine.
  function drawEvents(svg, x, bottom, inset) {
    runs.forEach((run, index) => {
      const hue = `var(--hue-${index % 6})`;
      const breaks = [];
      for (const event of run.events) {
        if (event.kind === "started" || event.kind === "finished") continue;
        const at = Math.min(x(x.high), Math.max(inset.left, x(onAxis(run, event.step))));
        const isCheckpoint = event.kind === "checkpoint saved";
        const mark = isCheckpoint
          ? add(svg, "circle", { cx: at, cy: bottom + 29, r: 2.2, style: `fill: ${several ? hue : "var(--checkpoint_stall)"}` })
          : add(svg, "path", { class: "event", d: `M${at} ${bottom - 9}V${bottom + 4}M${at} ${bottom + 23}V${bottom + 34}`, style: `stroke: ${several ? hue : "var(--interrupted)"}` });
        add(mark, "title", {}, `${several ? `${run.name}: ` : ""}${event.kind}, step ${grouped(event.step)}`);
        if (isCheckpoint) continue;
        const before = breaks[breaks.length - 1];
        if (before && at - before.at < 8) {
          if (!before.kinds.includes(event.kind)) before.kinds.push(event.kind);
        } else breaks.push({ at, kinds: [event.kind] });
      }
      if (several) return;
      let free = -Infinity;
      for (const { at, kinds } of breaks) {
        const text = kinds.join(", "), length = text.length * 6.2;
        const isLate = at + length > x(x.high);
        if ((isLate ? at - length : at) < free) continue;
        add(svg, "text", { class: "halo", x: at + (isLate ? -5 : 5), y: bottom + 43, "text-anchor": isLate ? "end" : "start", style: "fill: var(--interrupted)" }, text);
        free = (isLate ? at : at + length) + 12;
      }
    });
  }

  function caption(figure, drawn) {
    const said = [];
    if (figure.classList.contains("wide")) {
      if (drawn.some(({ smooth }) => smooth)) said.push("Here and below, lines are running means over 1 % of the run to each side, taken twice; faint behind is every value.");
      if (several && drawn.some(({ isBeside }) => isBeside)) said.push("Dashed: validation.");
      if (runs.some((run) => run.events.some(({ kind }) => kind === "checkpoint saved"))) said.push("Dots under the axis: checkpoints saved.");
    }
    if (drawn.some(({ curve }) => curve.range)) said.push("Outliers run off the edge.");
    figure.querySelector("figcaption").textContent = said.join(" ");
  }

  // ---- reading out ---------------------------------------------------------------------------------------------
  function follow(figure, svg, chart, drawn, x, y, inset, bottom, isNamed) {
    const readout = figure.querySelector(".readout");
    const layer = add(svg, "g");
    const say = (position) => {
      layer.replaceChildren();
      readout.replaceChildren();
      if (position === null) {
        for (const { line, label: text, colour } of isNamed || (several && !figure.classList.contains("wide")) ? [] : drawn) speak(readout, text, line.y[line.y.length - 1], colour);
        return;
      }
      const at = x.low + ((position - inset.left) / (x(x.high) - inset.left)) * (x.high - x.low);
      const shown = drawn.map((one) => ({ ...one, index: nearest(one.line.x, at) }));
      const place = shown.reduce((best, one) => Math.abs(one.line.x[one.index] - at) < Math.abs(best - at) ? one.line.x[one.index] : best, Infinity);
      add(layer, "line", { class: "cursor", x1: x(place), x2: x(place), y1: inset.top - 4, y2: bottom });
      readout.append(`${axisName[state.axis]} ${writeAxis[state.axis](state.axis === "step" ? Math.round(place) : place)}`);
      for (const { line, index, label: text, colour } of shown) {
        add(layer, "circle", { cx: x(line.x[index]), cy: y(line.y[index]), r: 3.6, style: `fill: ${colour}` });
        speak(readout, text, line.y[index], colour);
      }
    };
    const speak = (target, text, value, colour) => {
      const written = document.createElement("b");
      written.style.color = colour;
      written.textContent = write[chart.form](value);
      target.append(target.childNodes.length ? " · " : "", text ? `${text} ` : "", written);
    };
    svg.onpointermove = svg.onpointerdown = (event) => {
      const box = svg.getBoundingClientRect();
      say(Math.min(x(x.high), Math.max(inset.left, event.clientX - box.left)));
    };
    svg.onpointerleave = () => say(null);
    say(null);
  }

  // ---- controls ------------------------------------------------------------------------------------------------
  const drawAll = () => figures.forEach(draw);
  for (const button of document.querySelectorAll(".controls button")) {
    const key = button.dataset.axis ? "axis" : "scale";
    button.addEventListener("click", () => {
      state[key] = button.dataset[key];
      for (const other of button.parentElement.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      drawAll();
    });
  }
  let drawnWidth = document.body.clientWidth;
  addEventListener("resize", () => {
    if (document.body.clientWidth === drawnWidth) return;
    drawnWidth = document.body.clientWidth;
    drawAll();
  });
  drawAll();
})();

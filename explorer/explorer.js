"use strict";
// The explorer: `explore(data, place)` shows what explorer.py has computed. It loads nothing.

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "style") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const percent = share => (100 * share).toFixed(1) + " %";
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3);
const nameOf = token => token.text.trim() ? token.text : token.text.includes("\n") ? "↵" : "␣";

// --- What the page carries ---

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function halfFloats(buffer, start, count) {
  const view = new DataView(buffer, start, 2 * count);
  return Float32Array.from({length: count}, (_, index) => {
    const bits = view.getUint16(2 * index, true), exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
    return bits & 0x8000 ? -size : size;
  });
}

// A kind of attention with its weights: weight(layer, head, row, column), and the strongest column of a row,
// strongest(layer, head, row); head -1 is the mean over heads.
async function unpackKind(kind) {
  const [rows, columns] = [kind.rows.length, kind.columns.length], vectors = new Map();
  const buffers = await Promise.all(kind.layers.map(layer => unpack(layer.weights)));
  const bytes = buffers.map(buffer => new Uint8Array(buffer));
  const keys = buffers.map(buffer => new DataView(buffer, (kind.heads + 1) * rows * columns));
  return {
    ...kind,
    weight: (layer, head, row, column) => (bytes[layer][((head + 1) * rows + row) * columns + column] / 255) ** 2,
    strongest: (layer, head, row) => keys[layer].getUint16(2 * ((head + 1) * rows + row), true),
    vectors: layer => {
      if (!vectors.has(layer)) vectors.set(layer, unpackVectors(kind, layer));
      return vectors.get(layer);
    },
  };
}

// Queries, keys, values and the logarithms of the sums, as functions of a head and a row or column.
async function unpackVectors(kind, layer) {
  const packed = kind.layers[layer].vectors;
  if (packed === null) return null;
  const buffer = await unpack(packed), size = kind.headSize;
  const [rows, columns] = [kind.rows.length, kind.columns.length];
  const counts = [kind.heads * rows * size, kind.keyHeads * columns * size, kind.keyHeads * columns * size];
  const starts = [0, counts[0], counts[0] + counts[1]];
  const parts = counts.map((count, index) => halfFloats(buffer, 2 * starts[index], count));
  const sums = new DataView(buffer, 2 * (starts[2] + counts[2]));
  const biases = kind.hasBiases && new DataView(buffer, 2 * (starts[2] + counts[2]) + 4 * kind.heads * rows);
  const keyHead = head => Math.floor(head * kind.keyHeads / kind.heads);
  const vector = (part, place) => part.subarray(place * size, (place + 1) * size);
  return {
    query: (head, row) => vector(parts[0], head * rows + row),
    key: (head, column) => vector(parts[1], keyHead(head) * columns + column),
    value: (head, column) => vector(parts[2], keyHead(head) * columns + column),
    logSum: (head, row) => sums.getFloat32(4 * (head * rows + row), true),
    bias: (head, row, column) => biases && biases.getFloat32(4 * (head * (rows + columns - 1) + column - row + rows - 1), true),
  };
}

// --- Colours ---

const redraws = new Set();

function colours() {
  const style = getComputedStyle(document.documentElement);
  const parse = name => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16));
  return {low: parse("--weight-low"), high: parse("--weight-high"), minus: parse("--minus")};
}

function mix(from, to, share) {
  return from.map((part, index) => Math.round(part + (to[index] - part) * share));
}

// The square root makes small weights visible.
const shade = share => Math.sqrt(Math.min(Math.max(share, 0), 1));

function paint(canvas, rows, columns, share, palette) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      image.data.set([...mix(palette.low, palette.high, shade(share(row, column))), 255], 4 * (row * columns + column));
  context.putImageData(image, 0, 0);
}

// Numbers from -most to most as a strip of colours.
function strip(values, label) {
  const canvas = element("canvas", {className: "strip", role: "img", "aria-label": label});
  const most = Math.max(...values.map(Math.abs), 1e-12), palette = colours(), context = canvas.getContext("2d");
  canvas.width = values.length;
  canvas.height = 1;
  const image = context.createImageData(values.length, 1);
  values.forEach((value, index) =>
    image.data.set([...mix(palette.low, value < 0 ? palette.minus : palette.high, Math.abs(value) / most), 255], 4 * index));
  context.putImageData(image, 0, 0);
  return canvas;
}

function redraw() {
  for (const draw of redraws) draw();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
// A printed page is light.
addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; redraw(); });
addEventListener("afterprint", () => { delete document.documentElement.dataset.print; redraw(); });

// --- Text ---

// The tokens as running text, in which a letter of several tokens stands once; `shares` from -1 to 1 colour them, `labels` are shown for a token that is pointed at.
function flow(tokens, shares, labels) {
  const line = element("p", {className: "flow", lang: "", dir: "auto"});
  tokens.forEach((token, index) => {
    const isBlank = !token.text.trim();
    if (token.follows_space && !isBlank) line.append(" ");
    const share = shares ? shares[index] : 0;
    const span = element("span", {
      className: "token" + (token.is_special ? " special" : "") + (token.is_unknown ? " unknown" : "") + (share < 0 ? " minus" : ""),
      title: nameOf(token) + (token.is_unknown ? " (unknown to the tokenizer)" : "") + (labels ? ": " + labels[index] : ""),
      textContent: token.overlap ? [...token.text].slice(token.overlap).join("") || "·" : isBlank ? token.text : nameOf(token),
    });
    span.style.setProperty("--share", Math.abs(share).toFixed(3));
    line.append(span);
  });
  return line;
}

function relative(values) {
  const most = Math.max(...values.map(Math.abs), 1e-12);
  return values.map(value => value / most);
}

function bars(entries) {
  return element("div", {className: "bars"}, ...entries.map(entry => {
    const filled = element("span");
    filled.style.width = 100 * Math.min(Math.max(entry.share, 0), 1) + "%";
    return element(entry.control ? "label" : "div", {className: "entry" + (entry.isChosen ? " chosen" : "")},
      element("span", {className: "name"}, ...(entry.control ? [entry.control] : []), entry.name),
      element("span", {className: "bar"}, filled),
      element("span", {className: "number", textContent: entry.number}));
  }));
}

// --- A kind of attention ---

// Thumbnails of all heads, one of them enlarged, a cell that is pointed at, and its arithmetic.
function panel(kind, width) {
  const [rows, columns] = [kind.rows.length, kind.columns.length];
  const state = {layer: kind.layers.length - 1, head: -1, row: rows - 1, column: 0};
  const row = (row, layer = state.layer, head = state.head) => kind.columns.map((_, column) => kind.weight(layer, head, row, column));
  const strongest = row => kind.strongest(state.layer, state.head, row);
  state.column = strongest(state.row);
  const cell = Math.max(12, Math.min(26, Math.floor((width - 110) / Math.max(columns, 1))));
  const canvas = element("canvas", {className: "map"});
  const mark = element("div", {className: "mark"}), veil = element("div", {className: "veil"});
  const area = element("div", {className: "area", tabIndex: 0, role: "application"}, canvas, veil, mark);
  const readout = element("p", {className: "readout", "aria-live": "polite"});
  const heading = element("h3");
  const arithmetic = element("details", {className: "arithmetic"}, element("summary", {textContent: "Arithmetic of this cell"}));
  const listeners = [];
  canvas.style.cssText = `width: ${columns * cell}px; height: ${rows * cell}px`;

  const axis = (tokens, className) => element("div", {className, "aria-hidden": "true"}, ...tokens.map(token => {
    const isShort = [...nameOf(token)].length === 1;
    const label = element("span", {className: isShort ? "short" : "", textContent: nameOf(token), title: nameOf(token)});
    label.style[className === "rows" ? "height" : "width"] = cell + "px";
    return label;
  }));
  const where = () => `layer ${kind.layers[state.layer].layer}, ` + (state.head < 0 ? "mean over heads" : `head ${state.head + 1}`);

  const buttons = new Map();
  const thumbnails = thumbnailsOf(kind, (layer, head) => { Object.assign(state, {layer, head}); show(); }, buttons);

  function point(row, column) {
    state.row = Math.min(Math.max(row, 0), rows - 1);
    state.column = Math.min(Math.max(column, 0), columns - 1);
    mark.style.cssText = `left: ${state.column * cell}px; top: ${state.row * cell}px; width: ${cell}px; height: ${cell}px`;
    const share = kind.weight(state.layer, state.head, state.row, state.column);
    readout.textContent = `“${nameOf(kind.rows[state.row])}” takes ${percent(share)} from “${nameOf(kind.columns[state.column])}”`;
    if (arithmetic.open) showArithmetic(kind, state, arithmetic);
  }

  function show() {
    heading.textContent = where()[0].toUpperCase() + where().slice(1);
    area.setAttribute("aria-label", `${kind.title}, ${where()}: a map of ${rows} rows and ${columns} columns; arrow keys move the cell`);
    for (const [key, button] of buttons) {
      const isShown = key === `${state.layer},${state.head}`;
      button.setAttribute("aria-pressed", isShown);
      button.tabIndex = isShown ? 0 : -1;
    }
    paint(canvas, rows, columns, (row, column) => kind.weight(state.layer, state.head, row, column), colours());
    point(state.row, state.column);
    listeners.forEach(listener => listener());
  }

  // What a pointer passes over is not read aloud.
  function pointAt(event) {
    const box = canvas.getBoundingClientRect();
    readout.setAttribute("aria-live", "off");
    point(Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell));
  }
  area.addEventListener("pointermove", pointAt);
  area.addEventListener("click", event => { pointAt(event); arithmetic.open = true; });
  area.addEventListener("keydown", event => {
    readout.setAttribute("aria-live", "polite");
    const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -columns], End: [0, columns], PageUp: [-rows, 0], PageDown: [rows, 0]};
    if (event.key in moves) point(state.row + moves[event.key][0], state.column + moves[event.key][1]);
    else if (event.key === "Enter") arithmetic.open = !arithmetic.open;
    else return;
    event.preventDefault();
  });
  arithmetic.addEventListener("toggle", () => { if (arithmetic.open) showArithmetic(kind, state, arithmetic); });
  redraws.add(show);
  show();

  const map = element("div", {className: "mapframe", tabIndex: 0, role: "region", "aria-label": `${kind.title}: enlarged map`},
    element("span"), axis(kind.columns, "columns"), axis(kind.rows, "rows"), area);
  const node = element("section", {className: "kind"},
    element("h2", {textContent: kind.title}), element("p", {textContent: kind.text}),
    element("div", {className: "heads"}, element("div", {}, thumbnails,
      element("p", {className: "note", textContent: "A click enlarges a head; arrow keys go from one to the next."})),
      element("div", {}, heading, map, legend(kind), readout, arithmetic)));
  return {
    node, kind, row, strongest, where,
    select: chosen => point(chosen, strongest(chosen)),
    // What is written later is veiled.
    veilAfter(chosen) {
      veil.style.cssText = `top: ${(chosen + 1) * cell}px; height: ${(rows - chosen - 1) * cell}px; width: ${columns * cell}px`;
    },
    onChange: listener => listeners.push(listener),
  };
}

function legend(kind) {
  const canvas = element("canvas", {className: "ramp", role: "img", "aria-label": "colours from 0 to 100 percent"});
  const draw = () => paint(canvas, 1, 101, (row, column) => column / 100, colours());
  redraws.add(draw);
  draw();
  return element("p", {className: "legend"}, `rows: ${kind.rowName} · columns: ${kind.columnName} · `,
    element("span", {className: "scale"}, "0 % ", canvas, " 100 %"));
}

function thumbnailsOf(kind, choose, buttons) {
  const [rows, columns] = [kind.rows.length, kind.columns.length];
  const heads = [-1, ...Array(kind.heads).keys()];
  const table = element("table", {className: "thumbnails"}, element("tr", {}, element("td"), ...heads.map(head =>
      element("th", {scope: "col", textContent: head < 0 ? "mean" : `head ${head + 1}`}))));
  kind.layers.forEach((layer, index) => {
    table.append(element("tr", {}, element("th", {scope: "row", textContent: `layer ${layer.layer}`}), ...heads.map(head => {
      const canvas = element("canvas");
      const button = element("button", {type: "button", "aria-label":
        `layer ${layer.layer}, ${head < 0 ? "mean over heads" : "head " + (head + 1)}`}, canvas);
      const draw = () => paint(canvas, rows, columns, (row, column) => kind.weight(index, head, row, column), colours());
      redraws.add(draw);
      draw();
      button.addEventListener("click", () => choose(index, head));
      button.addEventListener("keydown", event => {
        const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
        const next = moves && buttons.get(`${index + moves[0]},${head + moves[1]}`);
        if (!moves) return;
        event.preventDefault();
        if (next) { next.focus(); next.click(); }
      });
      buttons.set(`${index},${head}`, button);
      return element("td", {}, button);
    })));
  });
  return element("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": `${kind.title}: all heads`}, table);
}

// query · key, scaled, the bias of the distance if there is one, softmax, values mixed.
async function showArithmetic(kind, state, place) {
  const {layer, head, row, column} = state, summary = place.firstChild;
  const vectors = head < 0 ? null : await kind.vectors(layer);
  if (state.layer !== layer || state.head !== head || state.row !== row || state.column !== column) return;
  if (vectors === null) {
    const reason = head < 0 ? "Choose one head: a mean over heads has no arithmetic of its own."
      : "The vectors of this layer were left out to keep the page small.";
    place.replaceChildren(summary, element("p", {textContent: reason}));
    delete place.dataset.cell;
    return;
  }
  const query = vectors.query(head, row), dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const key = vectors.key(head, column), value = vectors.value(head, column);
  const scores = kind.columns.map((_, each) => kind.scaling * dot(query, vectors.key(head, each)) + vectors.bias(head, row, each));
  // A weight of which nothing is left in a byte is masked, or less than four millionths.
  const weights = scores.map((score, each) => kind.weight(layer, head, row, each) === 0 ? 0 : Math.exp(score - vectors.logSum(head, row)));
  const best = weights.map((_, each) => each).sort((a, b) => weights[b] - weights[a]).slice(0, 6);
  if (!best.includes(column)) best.push(column);
  const mixed = Float32Array.from(value, (_, index) =>
    weights.reduce((sum, weight, each) => sum + weight * vectors.value(head, each)[index], 0));
  const step = (title, ...content) => element("li", {}, element("strong", {textContent: title}), ...content);
  const weight = weights[column], isCut = weights.reduce((sum, each) => sum + each, 0) < 0.99;
  const [taker, taken] = [nameOf(kind.rows[row]), nameOf(kind.columns[column])];
  place.replaceChildren(summary, element("ol", {},
    step(`The query of “${taker}” and the key of “${taken}”`, strip([...query], "query"), strip([...key], "key")),
    step("Their products, added up", strip([...query].map((each, index) => each * key[index]), "products"),
      element("p", {textContent: `query · key = ${dot(query, key).toFixed(3)}`})),
    step("Scaled", element("p", {textContent: `× ${kind.scaling.toPrecision(4)} = ${(kind.scaling * dot(query, key)).toFixed(3)}`})),
    ...!kind.hasBiases ? [] : [step("The bias of the distance", element("p", {textContent: vectors.bias(head, row, column) < -1e30
      ? "masked" : `${signed(vectors.bias(head, row, column))} for a distance of ${column - row} tokens = ${scores[column].toFixed(3)}`}))],
    step("Softmax over the row", element("table", {className: "scores"},
      element("tr", {}, ...["key", "score", "weight"].map(text => element("th", {scope: "col", textContent: text}))),
      ...best.map(each => element("tr", each === column ? {className: "chosen"} : {},
        element("th", {scope: "row", textContent: nameOf(kind.columns[each])}),
        element("td", {textContent: scores[each].toFixed(3)}), element("td", {textContent: percent(weights[each])})))),
      element("p", {}, `exp(${scores[column].toFixed(3)} − ${vectors.logSum(head, row).toFixed(3)}) = `,
        element("output", {className: "weight", textContent: percent(weight)}),
        weight === 0 ? ": masked, or nearly nothing" : "")),
    step("Values mixed by the weights", strip([...value], "value"),
      element("p", {textContent: `the value of “${taken}”, of which ${percent(weight)} is taken, into` +
        (isCut ? " the mixture of the tokens that are shown:" : ":")}),
      strip([...mixed], "mixture"))));
  place.dataset.cell = `${row},${column}`;
}

// --- N21 ---

function classes(answer) {
  const scale = answer.isNumber ? Math.max(...answer.labels.map(each => Math.abs(each.score)), 1e-12) : 1;
  const rolled = element("div"), gradient = element("div"), numbers = element("table", {className: "numbers"});
  const shares = answer.rollout;

  function choose(label) {
    const total = label.gradient.reduce((sum, value) => sum + Math.abs(value), 0) || 1;
    gradient.replaceChildren(
      element("h3", {textContent: `Gradient × input, for ${label.label}`}),
      element("p", {textContent: "How much each token raises (blue) or lowers (orange) the " +
        (answer.isNumber ? "number" : "logit, from which the probability is computed") + ", by the slope at this text."}),
      flow(answer.tokens, relative(label.gradient), label.gradient.map(value => `${signed(value)} (${percent(Math.abs(value) / total)} of all)`)));
    numbers.replaceChildren(
      element("tr", {}, ...["token", ...(shares ? ["rollout"] : []), "gradient × input"].map(text => element("th", {scope: "col", textContent: text}))),
      ...answer.tokens.map((token, index) => element("tr", {}, element("th", {scope: "row", textContent: nameOf(token)}),
        ...(shares ? [element("td", {textContent: percent(shares[index])})] : []),
        element("td", {textContent: signed(label.gradient[index])}))));
  }

  const entries = answer.labels.map((label, index) => {
    const control = label.gradient && element("input", {type: "radio", name: "class", checked: index === 0});
    if (control) control.addEventListener("change", () => choose(label));
    return {name: label.label, share: Math.abs(label.score) / scale, isChosen: label.predicted, control,
      // A number of the model, in float32, has as many digits.
      number: answer.isNumber ? String(Number(label.score.toPrecision(7))) : percent(label.score)};
  });
  if (shares) {
    const vector = {cls: `the first token, ${nameOf(answer.tokens[0])}, which is classified`, mean: "the mean of all output vectors, which is classified",
      last: "the last token, which is classified", last_non_pad: "the last token, which is classified", eos: "the end token, which is classified",
      hidden_mean: "the mean of what the classifier's hidden layer computes of all output vectors, which is classified"}[answer.pooling];
    rolled.append(element("h3", {textContent: "Attention rollout"}),
      element("p", {textContent: `How much of ${vector}, came from each token, if a block is half its input and half what its heads take.`}),
      flow(answer.tokens, relative(shares), shares.map(percent)));
  }
  choose(answer.labels[0]);
  return element("section", {className: "answer"},
    element("h2", {textContent: "Answer"}),
    ...(answer.abstains ? [element("p", {textContent: "The model is not sure enough to answer; it would say:"})] : []),
    bars(entries),
    element("div", {className: "beside"}, ...(shares ? [rolled] : []), gradient),
    element("p", {className: "caution", textContent: (shares ? "Rollout knows where attention looked, but not what it took from there. " : "") +
      "Gradient × input is the slope at this one text, and slopes change from text to text. Neither alone explains the answer: trust what " +
      "both show and what holds when you change the text."}),
    element("details", {}, element("summary", {textContent: "Numbers"}), numbers));
}

// --- N2N ---

function words(answer, panels) {
  const line = element("p", {className: "flow words", lang: "", dir: "auto"}), blended = element("div"), said = element("div", {"aria-live": "polite"});
  const buttons = answer.items.map(item => {
    line.append(item.before);
    const isPlain = item.label === undefined || item.isOutside;
    const button = element("button", {type: "button", className: isPlain ? "word" : "word tagged"}, item.text,
      ...(isPlain ? [] : [element("b", {textContent: item.label})]));
    line.append(button);
    return button;
  });
  line.append(answer.after);

  function choose(index) {
    const item = answer.items[index];
    buttons.forEach((button, each) => button.setAttribute("aria-pressed", each === index));
    const head = item.best && !item.best.length ? [element("p", {textContent: "This mask was not read: the text is too long."})]
      : item.best ? [bars(item.best.map(([text, score]) => ({name: text.trim() || "␣", share: score, number: percent(score)})))]
      : [element("p", {textContent: `“${item.text}” is ${item.label}` + (item.score === null ? ": it was not read" : `: ${percent(item.score)}`)})];
    if (item.token === null && (item.best === undefined || item.best.length))
      head.push(element("p", {textContent: "Its token is not among those that are shown."}));
    const lines = item.token === null ? [] : panels.filter(each => each.kind.role !== "self" || panels.length === 1).flatMap(each => [
      element("h3", {textContent: `What “${item.text}” blends in, layer by layer, mean over heads` + (panels.length > 1 ? ` (${each.kind.title.toLowerCase()})` : "")}),
      ...each.kind.layers.map((layer, place) => {
        const shares = each.row(item.token, place, -1);
        return element("div", {className: "layerline"}, element("span", {textContent: `layer ${layer.layer}`}),
          flow(each.kind.columns, relative(shares), shares.map(percent)));
      })]);
    said.replaceChildren(...head);
    blended.replaceChildren(...lines);
    panels.forEach(each => { if (item.token !== null && (each.kind.role !== "self" || panels.length === 1)) each.select(item.token); });
  }

  buttons.forEach((button, index) => {
    for (const name of ["pointerenter", "focus", "click"]) button.addEventListener(name, () => choose(index));
  });
  const first = answer.items.findIndex(item => !item.isOutside && item.token !== null);
  if (buttons.length) choose(Math.max(first, 0));
  else said.append(element("p", {textContent: answer.empty}));
  return element("section", {className: "answer"}, element("h2", {textContent: "Answer"}), line, said, blended);
}

// --- N2M ---

function written(answer, panels) {
  const steps = answer.steps, last = steps.length;
  const text = element("p", {className: "written", lang: "", dir: "auto"}), next = element("div"), looks = element("div", {className: "beside"});
  const crossing = panels.find(each => each.kind.role === "cross"), alignment = element("div");
  const count = element("output");
  const slider = element("input", {type: "range", min: 0, max: last, value: last, "aria-label": "tokens written"});

  function show() {
    const done = Number(slider.value), step = steps[Math.min(done, last - 1)];
    text.textContent = done ? steps[done - 1].text : "";
    count.textContent = `${done} of ${answer.total} tokens`;
    slider.setAttribute("aria-valuetext", `${done} tokens: ${text.textContent}`);
    next.replaceChildren(...(done === last
      ? [element("p", {textContent: last < answer.total ? `The page has the first ${last} steps. The whole text: ${answer.text}`
          : `All ${last} tokens are written. Geometric mean of their probabilities: ${percent(answer.score)}`})]
      : [element("h3", {textContent: "The most probable next tokens"}),
        bars(step.best.map(([token, score, isChosen]) => ({name: (token.trim() || "␣") + (isChosen ? " ✓" : ""), share: score, number: percent(score), isChosen}))),
        ...(step.best.some(each => each[2]) ? [] : [element("p", {textContent: `Written is “${step.token}”: ${percent(step.probability)}`})])]));
    const reading = panels.filter(each => each.kind.role !== "self");
    reading.forEach(each => { each.select(step.row); each.veilAfter(step.row); });
    looks.replaceChildren(...reading.map(each => {
      // Later tokens are masked, and not written yet.
      const count = each.kind.role === "cross" ? each.kind.columns.length : step.row + 1;
      const shares = each.row(step.row).slice(0, count);
      return element("div", {}, element("h3", {textContent: `${each.kind.title}, ${each.where()}: where “${step.token}” comes from`}),
        flow(each.kind.columns.slice(0, count), relative(shares), shares.map(percent)));
    }));
  }

  function align() {
    const source = crossing.kind.rows.map((_, row) => crossing.kind.columns[crossing.strongest(row)]);
    const line = (name, tokens) => element("tr", {}, element("th", {scope: "row", textContent: name}),
      ...tokens.map(token => element("td", {textContent: nameOf(token)})));
    const isCut = crossing.kind.columns.length < crossing.kind.columnsShown[1];
    alignment.replaceChildren(element("h3", {textContent: `Alignment, ${crossing.where()}: each written token, and the ` +
        (isCut ? "shown " : "") + "source token that it takes most from"}),
      element("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": "alignment"},
        element("table", {className: "alignment"}, line("written", crossing.kind.rows), line("source", source))));
  }

  slider.addEventListener("input", show);
  panels.forEach(each => each.onChange(show));
  show();
  if (crossing) {
    crossing.onChange(align);
    align();
  }
  return element("section", {className: "answer"}, element("h2", {textContent: "Answer"}), text,
    element("label", {className: "slider"}, "Tokens written ", slider, " ", count), next, looks, alignment);
}

// --- The page ---

async function explore(data, place) {
  redraws.clear();
  const kinds = await Promise.all(data.attention.map(unpackKind));
  const width = kinds.length > 1 && place.clientWidth > 900 ? place.clientWidth / kinds.length - 24 : place.clientWidth;
  const panels = kinds.map(kind => panel(kind, width));
  const answer = {classes, words, written}[data.kind](data.answer, panels);
  place.replaceChildren(answer, ...data.notes.map(note => element("p", {className: "note", textContent: note})),
    element("div", {className: "kinds"}, ...panels.map(each => each.node)));
}

// The page of a model: pictures go to predict and explain, and what comes back is shown as text.
// Nothing that stands in a file's name, a class or an answer is ever read as HTML.

const WORDS = {
  en: {
    title: "What is in the picture?", skip: "Skip to the results", other: "中文",
    about: (network, count) => `${network} · ${count} classes`,
    token: "This server asks for a token.", enter: "Enter", wrongToken: "That is not the token.",
    pictures: "Pictures", drop: "Drop pictures here, paste one, or",
    choose: "Choose pictures", photograph: "Take a photo",
    draw: "Draw a digit",
    drawHint: "With the mouse or a finger. By keyboard: arrows move the pen, Space sets it down or"
      + " lifts it, Enter recognises, Delete clears.",
    recognise: "Recognise", clear: "Clear", drawingName: "drawing",
    results: "Results", preview: "Preview", picture: "Picture", class: "Class",
    probability: "Probability", save: "Save as CSV", docs: "Interface for programs",
    why: "Show where the network looks",
    marked: (label) => `The places that speak for “${label}”, from yellow to red.`,
    working: (done, all) => (all > 1 ? `${done} of ${all} pictures` : "Working …"),
    done: (all, failed) => `${all} pictures` + (failed ? `, ${failed} of them cannot be read` : ""),
    one: (label, chance) => `${label}, ${chance}`,
    unknown: "unknown", unknownNote: (label, chance) => `The likeliest class is ${label}, ${chance}.`,
    unreadable: "This is no picture that can be read", tooLarge: "The file is larger than the server takes",
    unreachable: "The server cannot be reached.", busy: "The server is busy; trying again …",
    failed: "The server could not answer", nothingDrawn: "Nothing is drawn yet.",
    penDown: "Pen down", penUp: "Pen up", cleared: "Cleared",
  },
  zh: {
    title: "图片里是什么？", skip: "跳到结果", other: "English",
    about: (network, count) => `${network} · ${count} 个类别`,
    token: "此服务器需要令牌。", enter: "进入", wrongToken: "令牌不对。",
    pictures: "图片", drop: "把图片拖到这里，粘贴一张，或",
    choose: "选择图片", photograph: "拍照",
    draw: "写一个数字",
    drawHint: "用鼠标或手指书写。用键盘：方向键移动笔，空格键落笔或抬笔，回车键识别，Delete 键清除。",
    recognise: "识别", clear: "清除", drawingName: "手写",
    results: "结果", preview: "预览", picture: "图片", class: "类别",
    probability: "概率", save: "保存为 CSV", docs: "程序接口",
    why: "显示网络关注的位置",
    marked: (label) => `支持“${label}”的位置：越红，越支持。`,
    working: (done, all) => (all > 1 ? `已识别 ${done} / ${all} 张` : "正在识别……"),
    done: (all, failed) => `${all} 张图片` + (failed ? `，其中 ${failed} 张无法读取` : ""),
    one: (label, chance) => `${label}，${chance}`,
    unknown: "未知", unknownNote: (label, chance) => `最可能的类别是“${label}”，概率 ${chance}。`,
    unreadable: "无法作为图片读取", tooLarge: "文件超过服务器允许的大小",
    unreachable: "无法连接服务器。", busy: "服务器忙，正在重试……",
    failed: "服务器未能处理请求", nothingDrawn: "还没有写数字。",
    penDown: "落笔", penUp: "抬笔", cleared: "已清除",
  },
};
const AT_ONCE = 16; // pictures of one request: few enough that a table grows while one waits
const BYTES = 4 << 20; // of one request, for the same reason, where a picture is not larger alone
const TRIES = 6;
const SETTLED = 500; // milliseconds after a stroke until a drawing is recognised
const PEN = 10; // pixels of the canvas that an arrow key moves the pen

const at = (id) => document.getElementById(id);
let language = remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let words = WORDS[language] ?? WORDS.en;
let model = null;
let token = "";
let items = [];
let shown = 0;
let turn = 0; // what an earlier turn still receives is thrown away

function remembered(name) {
  try {
    const found = localStorage.getItem(name);
    return found in WORDS ? found : null;
  } catch {
    return null; // a browser may forbid it
  }
}

// --- words -------------------------------------------------------------------------------------

function speak() {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = `reslab: ${words.title}`;
  for (const each of document.querySelectorAll("[data-text]")) {
    each.textContent = words[each.dataset.text];
  }
  const button = at("language");
  button.textContent = words.other;
  button.lang = language === "zh" ? "en" : "zh-CN";
  if (model) at("about").textContent = words.about(model.network, model.classes.length);
  show();
}

function percent(value) {
  const digits = value > 0.9995 && value < 1 ? 2 : 1;
  return new Intl.NumberFormat(document.documentElement.lang, {
    style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits,
  }).format(value);
}

function say(text, wrong = false) {
  const line = at("status");
  line.classList.toggle("error", wrong);
  if (line.textContent !== text) line.textContent = text;
}

// --- the server --------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  for (let tried = 1; ; tried += 1) {
    const answer = await fetch(path, { ...options, headers, redirect: "error" });
    if (answer.status !== 503 || tried === TRIES) return answer;
    say(words.busy);
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 10);
    await new Promise((go) => setTimeout(go, 1000 * seconds));
  }
}

async function begin() {
  let answer;
  try {
    answer = await ask("model");
  } catch {
    say(words.unreachable, true);
    return;
  }
  at("access").hidden = answer.status !== 401;
  if (answer.status === 401) {
    at("refused").textContent = token ? words.wrongToken : "";
    at("token").focus();
    return;
  }
  if (!answer.ok) {
    say(`${words.failed} (${answer.status})`, true);
    return;
  }
  model = await answer.json();
  at("ways").hidden = false;
  at("drawing").hidden = model.preprocessing.channels !== 1;
  speak();
}

/** Ask for every item, a few at a time, and show each answer as it comes. */
async function recognise(files) {
  if (!model || !files.length) return;
  const mine = ++turn;
  for (const item of items) URL.revokeObjectURL(item.url);
  items = files.map(({ name, blob }) => ({
    name, blob, url: URL.createObjectURL(blob), answer: null, error: null, marked: null,
  }));
  shown = 0;
  build();
  for (const part of parts()) {
    const found = await answers(part);
    if (mine !== turn) return;
    part.forEach((item, place) => Object.assign(item, found[place]));
    show();
  }
}

/** Items that go into one request; one that is too large is told so at once. */
function* parts() {
  const limits = model.limits;
  const most = Math.min(BYTES, limits.body_bytes);
  let part = [];
  let bytes = 0;
  for (const item of items) {
    if (item.blob.size > limits.picture_bytes) {
      item.error = words.tooLarge;
      continue;
    }
    const full = part.length === Math.min(AT_ONCE, limits.pictures);
    if (part.length && (full || bytes + item.blob.size > most)) {
      yield part;
      part = [];
      bytes = 0;
    }
    part.push(item);
    bytes += item.blob.size;
  }
  if (part.length) yield part;
  show();
}

async function answers(part) {
  const body = new FormData();
  for (const item of part) body.append("pictures", item.blob, item.name);
  try {
    const answer = await ask("predict?top=5", { method: "POST", body });
    const said = await answer.json();
    if (!answer.ok) return part.map(() => ({ error: `${words.failed}: ${said.error}` }));
    return said.predictions.map((one) => (
      one.error === null ? { answer: one } : { error: words.unreadable, detail: one.error }
    ));
  } catch {
    return part.map(() => ({ error: words.unreachable }));
  }
}

async function explain() {
  const item = items[shown];
  const button = at("why");
  button.disabled = true;
  try {
    const label = encodeURIComponent(item.answer.top[0].label);
    const answer = await ask(`explain?class=${label}`, {
      method: "POST", body: item.blob, headers: { "Content-Type": "application/octet-stream" },
    });
    const said = await answer.json();
    if (answer.ok) item.marked = said;
    else say(`${words.failed}: ${said.error}`, true);
  } catch {
    say(words.unreachable, true);
  } finally {
    button.disabled = false;
  }
  if (item.marked && items[shown] === item) showCard();
}

// --- what is seen ------------------------------------------------------------------------------

/** New rows for new items; `show` fills them. */
function build() {
  at("rows").replaceChildren(...items.map((item, place) => {
    const row = document.createElement("tr");
    const cells = Array.from({ length: 4 }, () => document.createElement("td"));
    const image = document.createElement("img");
    image.alt = "";
    image.src = item.url;
    image.addEventListener("error", () => image.remove());
    cells[0].append(image);
    const name = document.createElement("button");
    name.type = "button";
    name.className = "plain";
    name.textContent = item.name;
    name.addEventListener("click", () => {
      shown = place;
      show();
      at("card").scrollIntoView({ block: "nearest" });
    });
    cells[1].append(name);
    cells[3].className = "number";
    row.append(...cells);
    return row;
  }));
  show();
}

function show() {
  const ready = items.filter((item) => item.answer || item.error);
  at("many").hidden = items.length < 2;
  at("save").disabled = ready.length < items.length;
  items.forEach((item, place) => {
    const row = at("rows").children[place];
    const best = item.answer;
    row.classList.toggle("shown", place === shown);
    row.querySelector("button").setAttribute("aria-pressed", String(place === shown));
    const label = document.createElement("span");
    label.textContent = best ? (best.unknown ? words.unknown : best.label) : item.error ?? "…";
    label.className = item.error ? "error" : best?.unknown ? "unknown" : "";
    row.children[2].replaceChildren(label);
    row.children[3].textContent = best ? percent(best.probability) : "";
  });
  showCard();
  if (!items.length) return;
  if (ready.length < items.length) say(words.working(ready.length, items.length));
  else if (items.length > 1) say(words.done(items.length, items.filter((i) => i.error).length));
  else if (items[0].error) say(items[0].error, true);
  else say(words.one(named(items[0].answer), percent(items[0].answer.probability)));
}

function named(answer) {
  return answer.unknown ? words.unknown : answer.label;
}

function showCard() {
  const item = items[shown];
  const ready = Boolean(item && (item.answer || item.error));
  at("card").hidden = !ready;
  if (!ready) return;
  const { answer, error, detail, marked } = item;
  if (at("picture").src !== item.url) at("picture").src = item.url;
  at("name").textContent = item.name;
  at("label").textContent = error ?? named(answer);
  at("label").className = error ? "error" : answer.unknown ? "unknown" : "";
  at("note").textContent = error
    ? detail ?? ""
    : answer.unknown ? words.unknownNote(answer.top[0].label, percent(answer.probability)) : "";
  at("bars").replaceChildren(...(answer?.top ?? []).map(bar));
  at("why").hidden = !answer || Boolean(marked);
  at("marked").hidden = !marked;
  if (marked) {
    at("overlay").src = marked.overlay;
    at("overlay").alt = at("marked-note").textContent = words.marked(marked.label);
  }
}

function bar({ label, probability }) {
  const line = document.createElement("li");
  const of = document.createElement("span");
  of.className = "of";
  of.textContent = label;
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = percent(probability);
  const track = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  const filled = document.createElement("span");
  filled.style.width = `${100 * probability}%`;
  track.append(filled);
  line.append(of, number, track);
  return line;
}

/** The table that `reslab predict --csv` writes, of the items here. */
function table() {
  const doubts = items.some((item) => item.answer?.unknown !== undefined);
  const most = Math.max(1, ...items.map((item) => item.answer?.top.length ?? 0));
  const following = Array.from({ length: most - 1 }, (_, place) => place + 1);
  const rows = [[
    "path", "label", "probability", "error", ...(doubts ? ["likeliest"] : []),
    ...following.flatMap((place) => [`label_${place + 1}`, `probability_${place + 1}`]),
  ]];
  for (const { name, answer, error, detail } of items) {
    rows.push([
      name, answer?.label, answer?.probability, error ? detail ?? error : "",
      ...(doubts ? [answer?.top[0].label] : []),
      ...following.flatMap((p) => [answer?.top[p]?.label, answer?.top[p]?.probability]),
    ]);
  }
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return rows.map((row) => row.map((value) => quoted(String(value ?? ""))).join(",")).join("\n");
}

function save() {
  // The mark at the start tells spreadsheets that this is UTF-8.
  const blob = new Blob(["\ufeff", table(), "\n"], { type: "text/csv;charset=utf-8" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- drawing -----------------------------------------------------------------------------------

const BLOCK = 10; // pixels of the canvas that make one of the picture's
const PICTURE = 28;
const INSIDE = 20; // a digit of MNIST's is fitted into this square
const WIDTH = 26; // of a stroke, in pixels of the canvas
const canvas = at("canvas");
const ink = canvas.getContext("2d");
let strokes = [];
let pen = { x: 140, y: 140, down: false, seen: false };
let settling = 0;

function stroked(context, lines) {
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#fff";
  context.lineWidth = WIDTH;
  context.lineCap = context.lineJoin = "round";
  for (const line of lines) {
    context.beginPath();
    context.moveTo(line[0].x, line[0].y);
    for (const point of line) context.lineTo(point.x, point.y);
    context.stroke();
  }
}

function redraw() {
  stroked(ink, strokes);
  if (!pen.seen) return;
  ink.beginPath();
  ink.arc(pen.x, pen.y, WIDTH / 2 + 3, 0, 2 * Math.PI);
  ink.lineWidth = 2;
  ink.strokeStyle = pen.down ? "#ffd54a" : "#8fb6f5";
  ink.stroke();
}

/**
 * The drawing as MNIST's digits were prepared (Y. LeCun, C. Cortes, C. Burges, the data set's page):
 * fitted into 20 x 20 with its proportions, grey at its edges, in a field of 28 x 28 whose centre is
 * its centre of mass. The stroke keeps its width whatever the size one writes in.
 */
async function prepared() {
  const points = strokes.flat();
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const scale = (INSIDE * BLOCK - WIDTH) / Math.max(width, height, 60);
  const middle = canvas.width / 2;
  const fitted = (dx, dy) => strokes.map((line) => line.map(({ x, y }) => ({
    x: (x - left - width / 2) * scale + middle + dx,
    y: (y - top - height / 2) * scale + middle + dy,
  })));
  const field = document.createElement("canvas");
  field.width = field.height = canvas.width;
  const context = field.getContext("2d", { willReadFrequently: true });
  stroked(context, fitted(0, 0));
  const mass = centre(context);
  // As far as the digit stays within the field.
  const room = (PICTURE - INSIDE) / 2 * BLOCK;
  const kept = (shift) => Math.max(-room, Math.min(room, shift));
  stroked(context, fitted(kept(middle - mass.x), kept(middle - mass.y)));
  const small = document.createElement("canvas");
  small.width = small.height = PICTURE;
  small.getContext("2d").putImageData(averaged(context), 0, 0);
  return new Promise((give) => small.toBlob(give, "image/png"));
}

function centre(context) {
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  let [sum, x, y] = [0, 0, 0];
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) {
      const value = data[4 * (row * width + column)];
      sum += value;
      x += value * (column + 0.5);
      y += value * (row + 0.5);
    }
  }
  return { x: x / sum, y: y / sum };
}

/** Every block's mean, which is what makes edges grey. */
function averaged(context) {
  const { data, width } = context.getImageData(0, 0, canvas.width, canvas.height);
  const found = new ImageData(PICTURE, PICTURE);
  for (let place = 0; place < PICTURE * PICTURE; place += 1) {
    const [row, column] = [Math.floor(place / PICTURE) * BLOCK, (place % PICTURE) * BLOCK];
    let sum = 0;
    for (let y = row; y < row + BLOCK; y += 1) {
      for (let x = column; x < column + BLOCK; x += 1) sum += data[4 * (y * width + x)];
    }
    const value = Math.round(sum / BLOCK ** 2);
    found.data.set([value, value, value, 255], 4 * place);
  }
  return found;
}

async function recogniseDrawing() {
  clearTimeout(settling);
  if (!strokes.length) {
    say(words.nothingDrawn);
    return;
  }
  await recognise([{ name: words.drawingName + ".png", blob: await prepared() }]);
}

function clearDrawing() {
  clearTimeout(settling);
  strokes = [];
  pen = { ...pen, down: false };
  redraw();
  say(words.cleared);
}

function pointed(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: (event.clientX - box.left) * canvas.width / box.width,
    y: (event.clientY - box.top) * canvas.height / box.height,
  };
}

function drawByPointer() {
  let line = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    clearTimeout(settling);
    canvas.setPointerCapture(event.pointerId);
    pen.seen = false;
    line = [pointed(event)];
    strokes.push(line);
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!line) return;
    line.push(pointed(event));
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      if (!line) return;
      line = null;
      settling = setTimeout(recogniseDrawing, SETTLED);
    });
  }
}

function drawByKeyboard(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (move) {
    const within = (value) => Math.max(WIDTH, Math.min(canvas.width - WIDTH, value));
    pen.x = within(pen.x + PEN * move[0]);
    pen.y = within(pen.y + PEN * move[1]);
    if (pen.down) strokes.at(-1).push({ x: pen.x, y: pen.y });
  } else if (event.key === " ") {
    pen.down = !pen.down;
    if (pen.down) strokes.push([{ x: pen.x, y: pen.y }]);
    say(pen.down ? words.penDown : words.penUp);
  } else if (event.key === "Enter") {
    recogniseDrawing();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    clearDrawing();
  } else {
    return;
  }
  event.preventDefault();
  pen.seen = true;
  redraw();
}

// --- what one can do ---------------------------------------------------------------------------

function take(list) {
  recognise(Array.from(list, (file) => ({ name: file.name || "picture", blob: file })));
}

function listen() {
  at("language").addEventListener("click", () => {
    language = language === "zh" ? "en" : "zh";
    try {
      localStorage.setItem("language", language);
    } catch { /* then it holds for this visit */ }
    speak();
  });
  at("access").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    begin();
  });
  for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      take(at(input).files);
      at(input).value = ""; // so that the same file can be chosen again
    });
  }
  // Elsewhere it would open the same window as the other button.
  at("photograph").hidden = !matchMedia("(any-pointer: coarse)").matches;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("zone").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) at("zone").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("zone").classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
  at("why").addEventListener("click", explain);
  at("save").addEventListener("click", save);
  at("picture").addEventListener("load", ({ target }) => {
    target.hidden = false;
    target.classList.toggle("small", Math.max(target.naturalWidth, target.naturalHeight) <= 64);
  });
  at("picture").addEventListener("error", ({ target }) => {
    target.hidden = true; // a format that the browser does not show, or no picture at all
  });
  at("recognise").addEventListener("click", recogniseDrawing);
  at("clear").addEventListener("click", clearDrawing);
  canvas.addEventListener("keydown", drawByKeyboard);
  canvas.addEventListener("blur", () => {
    pen = { ...pen, seen: false, down: false };
    redraw();
  });
  drawByPointer();
  redraw();
}

listen();
speak();
begin();

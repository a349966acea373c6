// The page of `diffaug review`. Names come from files of others, so text is never put in as HTML.

const PAGE = 60; // thumbnails at once, whatever the number of images
const AHEAD = 3; // images loaded before they are asked for
const SIGNS = { accept: "✓", reject: "✕", disputed: "≠" };
const element = (id) => document.getElementById(id);

const state = {
  study: null,
  classes: [],
  rows: [], // numbers of the synthetic images that are listed
  real: [], // numbers of the real images of the class
  at: 0, // position in rows
  realPage: 0,
  shown: "", // numbers of the thumbnails
  known: new Map(), // number -> what is known of a synthetic image
  done: [], // numbers of own decisions, to be taken back
  sending: Promise.resolve(), // decisions are sent one after another
  test: null,
};

// --- Requests

async function ask(path, content) {
  const options = content === undefined ? {} : { method: "POST", body: JSON.stringify(content) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The review has ended: diffaug review does not run any more. Decisions made before are kept.");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let message = text;
    try {
      message = JSON.parse(text).error;
    } catch {
      // a refusal in plain text
    }
    throw new Error(message || `the page was refused (${answer.status})`);
  }
  return answer.json();
}

function tell(error) {
  element("problem").textContent = error.message;
  element("problem").hidden = false;
}

function handling(action) {
  return async (...values) => {
    try {
      await action(...values);
    } catch (error) {
      tell(error);
    }
  };
}

const imageOf = (kind, number) => `${state.study.images}/${kind}/${number}.png`;
const reviewer = () => element("reviewer").value.trim();

// --- What is shown of an image

function judgment(image) {
  const found = new Set(Object.values(image.judged));
  return found.size > 1 ? "disputed" : [...found][0] || "";
}

function thumb(source, label, kind, onclick) {
  const made = document.createElement(onclick ? "button" : "span");
  made.className = `thumb ${kind}`;
  const image = document.createElement("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = label;
  image.src = source;
  made.title = label;
  made.append(image);
  if (SIGNS[kind]) {
    const sign = document.createElement("span");
    sign.className = "sign";
    sign.textContent = SIGNS[kind];
    made.append(sign);
  }
  if (onclick) made.onclick = onclick;
  return made;
}

function pager(place, page, length, go) {
  place.replaceChildren();
  const pages = Math.ceil(length / PAGE);
  const text = document.createElement("span");
  text.className = "pages";
  if (pages < 2) {
    text.textContent = `(${length})`;
  } else {
    const button = (sign, title, to) => {
      const made = document.createElement("button");
      made.textContent = sign;
      made.title = title;
      made.disabled = to < 0 || to >= pages;
      made.onclick = () => go(to);
      return made;
    };
    const first = page * PAGE + 1;
    const last = Math.min(length, first + PAGE - 1);
    text.append(button("‹", "previous page", page - 1), `${first}–${last} of ${length}`,
      button("›", "next page", page + 1));
  }
  place.append(text);
}

// --- Review

async function loadClass() {
  const query = new URLSearchParams({
    class_index: element("class").value,
    reviewer: reviewer(),
    show: element("show").value,
    order: element("order").value,
  });
  const found = await ask(`/api/rows?${query}`);
  Object.assign(state, { rows: found.synthetic, real: found.real, at: 0, realPage: 0, done: [] });
  state.known.clear();
  showReal();
  await showImage();
}

const pageAt = () => Math.floor(state.at / PAGE);

async function know(page) {
  const numbers = state.rows.slice(page * PAGE, (page + 1) * PAGE);
  if (!numbers.length || numbers.every((number) => state.known.has(number))) return;
  for (const image of await ask(`/api/images?numbers=${numbers}`)) state.known.set(image.number, image);
}

async function showImage() {
  const number = state.rows[state.at];
  await know(pageAt());
  if (number !== state.rows[state.at]) return; // gone on meanwhile
  showLarge(state.known.get(number));
  showThumbs();
  for (const ahead of state.rows.slice(state.at + 1, state.at + 1 + AHEAD)) new Image().src = imageOf("synthetic", ahead);
  if (state.at % PAGE > PAGE - 10) know(pageAt() + 1).catch(tell);
}

function showLarge(image) {
  element("place").textContent = image ? `${state.at + 1} of ${state.rows.length}` : "";
  const large = element("synthetic");
  const nearest = element("nearest");
  large.hidden = !image;
  nearest.hidden = !image || image.nearest === null;
  element("frame").className = `large ${image ? judgment(image) : ""}`;
  element("decisions").replaceChildren();
  element("scores").replaceChildren();
  for (const id of ["previous", "reject", "accept", "next"]) element(id).disabled = !image;
  if (!image) {
    element("state").textContent = state.rows.length ? "" : "There are no such images.";
    element("nearest-file").textContent = "";
    return;
  }
  large.src = imageOf("synthetic", image.number);
  large.alt = `synthetic image ${image.file}`;
  if (image.nearest !== null) nearest.src = imageOf("real", image.nearest);
  nearest.alt = `real image ${image.nearest_file}`;
  const isGone = image.nearest === null && image.nearest_file;
  element("nearest-file").textContent = image.nearest_file + (isGone ? " (not among the images of the study)" : "");
  element("state").textContent = {
    "": `not reviewed (${image.origin})`,
    accept: "accepted",
    reject: "rejected: left out",
    disputed: "reviewers disagree: left out",
  }[judgment(image)];
  for (const [name, value] of Object.entries(image.scores)) {
    const row = element("scores").insertRow();
    row.title = name;
    row.insertCell().textContent = state.study.scores[name];
    row.insertCell().textContent = value.toPrecision(3);
  }
  const told = Object.entries(image.judged).map(([name, decision]) => `${SIGNS[decision]} ${name}`);
  for (const text of told.length ? told : ["none yet"]) {
    const item = document.createElement("li");
    item.textContent = text;
    element("decisions").append(item);
  }
}

function showThumbs() {
  const start = pageAt() * PAGE;
  const numbers = state.rows.slice(start, start + PAGE);
  pager(element("made-pages"), pageAt(), state.rows.length, (to) => moveTo(to * PAGE));
  if (String(numbers) !== state.shown) { // only what has changed is made anew, so that a key is answered at once
    element("made").replaceChildren(...numbers.map((number, turn) => madeThumb(number, start + turn)));
    state.shown = String(numbers);
  }
  numbers.forEach((number, turn) => {
    const old = element("made").children[turn];
    const kind = judgment(state.known.get(number));
    if (old.dataset.kind !== kind) old.replaceWith(madeThumb(number, start + turn));
    element("made").children[turn].setAttribute("aria-current", String(start + turn === state.at));
  });
}

function madeThumb(number, position) {
  const image = state.known.get(number);
  const made = thumb(imageOf("synthetic", number), image.file, judgment(image), () => moveTo(position));
  made.dataset.kind = judgment(image);
  return made;
}

function showReal() {
  const start = state.realPage * PAGE;
  pager(element("real-pages"), state.realPage, state.real.length, (to) => {
    state.realPage = to;
    showReal();
  });
  element("real").replaceChildren(
    ...state.real.slice(start, start + PAGE).map((number) => thumb(imageOf("real", number), "real image", "")));
}

const moveTo = handling(async (position) => {
  if (position < 0 || position >= state.rows.length) return;
  state.at = position;
  await showImage();
});

function send(content) {
  // Shown at once, kept in the background; what could not be kept is shown as it was.
  const sent = state.sending.then(async () => {
    const image = await ask("/api/decision", content);
    state.known.set(image.number, image);
    element("problem").hidden = true;
  });
  state.sending = sent.catch(() => {});
  return sent;
}

const decide = handling(async (decision) => {
  const number = state.rows[state.at];
  const image = state.known.get(number);
  if (!image) return;
  const before = image.judged;
  image.judged = { ...before, [reviewer()]: decision };
  state.done.push(number);
  const sent = send({ number, reviewer: reviewer(), decision });
  if (state.at + 1 < state.rows.length) await moveTo(state.at + 1);
  else await showImage();
  try {
    await sent;
  } catch (error) {
    state.done.splice(state.done.lastIndexOf(number), 1);
    (state.known.get(number) || image).judged = before;
    showThumbs();
    throw error;
  }
  refreshThumb(number);
  await showClasses();
});

const undo = handling(async () => {
  const number = state.done.pop() ?? state.rows[state.at];
  if (number === undefined) return;
  await send({ number, reviewer: reviewer() });
  const position = state.rows.indexOf(number);
  if (position >= 0) await moveTo(position);
  await showClasses();
});

function refreshThumb(number) {
  if (number === state.rows[state.at]) showLarge(state.known.get(number));
  const position = state.rows.indexOf(number);
  if (Math.floor(position / PAGE) === pageAt()) showThumbs();
}

async function showClasses() {
  state.classes = await ask("/api/classes");
  state.classes.forEach((one, index) => {
    element("class").options[index].textContent = `${one.name}: ${one.reviewed} of ${one.synthetic} reviewed`;
  });
  const chosen = state.classes[element("class").value];
  const blind = chosen.blind ? " Nothing shows that they belong to this class, so trainings leave them out." : "";
  element("about-class").textContent =
    `${chosen.real} real and ${chosen.synthetic} synthetic images, ${chosen.rejected} of these rejected.${blind}`;
}

// --- Blind test

const begin = handling(async () => {
  const index = element("test-class").value;
  const wanted = { count: Number(element("test-count").value), class_index: index === "" ? null : Number(index) };
  const made = await ask("/api/test", wanted);
  state.test = { name: made.test, count: made.count, at: 0, busy: false };
  for (const [id, hidden] of [["question", false], ["result", true], ["test-choices", true]]) element(id).hidden = hidden;
  showQuestion();
});

const testImage = (position) => `${state.study.images}/test/${state.test.name}/${position}.png`;

function showQuestion() {
  const { at, count } = state.test;
  element("progress").textContent = `Image ${at + 1} of ${count}`;
  element("unknown").src = testImage(at);
  if (at + 1 < count) new Image().src = testImage(at + 1);
}

const say = handling(async (answer) => {
  const test = state.test;
  if (!test || test.busy) return;
  test.busy = true;
  try {
    const found = await ask("/api/answer", { test: test.name, position: test.at, answer });
    test.at += 1;
    if (found.left) showQuestion();
    else showResult(found);
  } finally {
    test.busy = false;
  }
});

function showResult(found) {
  for (const [id, hidden] of [["question", true], ["result", false], ["test-choices", false]]) element(id).hidden = hidden;
  element("sentence").textContent = found.sentence;
  const told = Object.entries(found.kinds).map(([kind, [right, all]]) => `${kind} images: ${right} of ${all} right`);
  element("kinds").textContent = `${told.join("; ")}. Images with ✓ were told right, those with ✕ wrong.`;
  for (const kind of ["synthetic", "real"]) element(`${kind}-answers`).replaceChildren();
  found.synthetic.forEach((isSynthetic, position) => {
    const kind = isSynthetic ? "synthetic" : "real";
    const isRight = found.answers[position] === isSynthetic;
    element(`${kind}-answers`).append(thumb(testImage(position), `${kind} image`, isRight ? "accept" : "reject"));
  });
  state.test = { ...state.test, count: 0 };
}

// --- The page

function showTab(isTest) {
  element("review").hidden = isTest;
  element("test").hidden = !isTest;
  element("to-review").setAttribute("aria-pressed", String(!isTest));
  element("to-test").setAttribute("aria-pressed", String(isTest));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const key = event.key.toLowerCase();
  const inReview = {
    a: () => decide("accept"), r: () => decide("reject"), u: undo, n: () => moveTo(state.at + 1),
    arrowright: () => moveTo(state.at + 1), arrowleft: () => moveTo(state.at - 1),
  };
  const inTest = { r: () => say("real"), s: () => say("synthetic") };
  const isTest = !element("test").hidden;
  const action = isTest ? !element("question").hidden && inTest[key] : inReview[key];
  if (!action) return;
  event.preventDefault();
  action();
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

const start = handling(async () => {
  state.study = await ask("/api/study");
  state.classes = await ask("/api/classes");
  element("study").textContent = state.study.study;
  element("reviewer").value = localStorage.getItem("reviewer") || state.study.reviewer;
  if (Math.max(state.study.width, state.study.height) <= 96) document.body.classList.add("pixels");
  element("test-class").append(option("", "all classes"));
  state.classes.forEach((one, index) => {
    element("class").append(option(index, one.name));
    if (one.real && one.synthetic) element("test-class").append(option(index, one.name));
  });
  for (const [name, words] of Object.entries(state.study.scores)) element("order").append(option(name, `worst ${words}`));
  element("class").value = Math.max(0, state.classes.findIndex((one) => one.synthetic));
  for (const id of ["class", "show", "order"]) {
    element(id).onchange = handling(async () => {
      await loadClass();
      await showClasses();
    });
  }
  element("reviewer").onchange = handling(async () => {
    localStorage.setItem("reviewer", reviewer());
    state.done = [];
    if (element("show").value === "undecided") await loadClass();
  });
  element("previous").onclick = () => moveTo(state.at - 1);
  element("next").onclick = () => moveTo(state.at + 1);
  element("accept").onclick = () => decide("accept");
  element("reject").onclick = () => decide("reject");
  element("undo").onclick = undo;
  element("to-review").onclick = () => showTab(false);
  element("to-test").onclick = () => showTab(true);
  element("begin").onclick = begin;
  element("say-real").onclick = () => say("real");
  element("say-synthetic").onclick = () => say("synthetic");
  document.addEventListener("keydown", onKey);
  await loadClass();
  await showClasses();
});

start();

"use strict";

// Texts from the server become text nodes only, never HTML.

const SHOWN = 10;
const BASELINES = { sft: "base", aligned: "sft", fusion: "aligned" };
const NAMES = { oracle: "Oracle", base: "Base", sft: "SFT", aligned: "Aligned", fusion: "Fusion", served: "Model" };

const byId = (id) => document.getElementById(id);
const state = { runs: [], history: [], heldOut: null, most: 20, longest: 200, asked: 0 };

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.map((child) => typeof child === "string" ? visible(child) : child));
  return node;
}

// What acts instead of being shown (control, bidirectional, zero width), as an escape sequence; joiners of letters stay.
function visible(text) {
  return text.replace(/(?![\u200c\u200d\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (each) => `\\u{${each.codePointAt(0).toString(16)}}`);
}

async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  for (let tries = 0; ; tries += 1) {
    const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    if (answer.status === 503 && tries < 3) {
      await new Promise((done) => setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 1)));
      continue;
    }
    if (answer.status === 401) byId("token-form").hidden = false;
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error.message);
    return found;
  }
}

const query = (path, values) => `${path}?${new URLSearchParams(values)}`;
const say = (text) => { byId("status").textContent = visible(text); };
const run = () => byId("run").value;
const shownRuns = () => [run(), byId("against").value].filter((name) => name);
const runNamed = (name) => state.runs.find((each) => each.name === name);

// A text field with suggestions, by the pattern "combobox" of WAI-ARIA.
function combobox(input, list, find, chosen) {
  let options = [], at = -1, asked = 0, timer;
  // Whether the suggestions are those for the text, and whether Enter was pressed before they came.
  let fresh = false, entered = false;

  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    at = -1;
    entered = false;
  }

  function mark(place) {
    at = place;
    [...list.children].forEach((node, number) => node.setAttribute("aria-selected", String(number === at)));
    if (at < 0) return;
    input.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  }

  function choose(place) {
    const option = options[place];
    close();
    input.value = "";
    chosen(option);
  }

  async function open() {
    const mine = (asked += 1);
    try {
      const found = await find(input.value.trim());
      if (mine !== asked || document.activeElement !== input) return;
      options = found;
      fresh = true;
      list.replaceChildren(...options.map((option, number) => {
        const node = make("li", { role: "option", id: `${list.id}-${number}`, "aria-selected": "false" }, option.text);
        node.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(number); });
        return node;
      }));
      list.hidden = !options.length;
      input.setAttribute("aria-expanded", String(options.length > 0));
      at = -1;
      if (entered && options.length) { choose(0); return; }
      entered = false;
      say(options.length ? `${options.length} suggestions` : "nothing found");
    } catch (error) {
      say(error.message);
    }
  }

  input.addEventListener("input", () => { fresh = entered = false; asked += 1; clearTimeout(timer); timer = setTimeout(open, 120); });
  input.addEventListener("focus", open);
  input.addEventListener("blur", () => { asked += 1; close(); });
  input.addEventListener("keydown", (event) => {
    const open_ = !list.hidden;
    if (event.key === "ArrowDown") { if (open_) mark((at + 1) % options.length); else open(); }
    else if (event.key === "ArrowUp" && open_) mark((at - 1 + options.length) % options.length);
    else if (event.key === "Enter" && !fresh) entered = true;
    else if (event.key === "Enter" && open_) choose(Math.max(at, 0));
    else if (event.key === "Escape" && open_) close();
    else return;
    event.preventDefault();
  });
}

function drawHistory(focus) {
  const list = byId("history"), last = state.history.length - 1;
  list.replaceChildren(...state.history.map((item, place) => {
    const button = (text, label, disabled, act) => {
      const node = make("button", { type: "button", "aria-label": `${label}: ${item.title}` }, text);
      node.disabled = disabled;
      node.addEventListener("click", act);
      return node;
    };
    const move = (by) => () => {
      state.history.splice(place, 1);
      state.history.splice(place + by, 0, item);
      changed([place + by, by < 0 ? 0 : 1]);
    };
    const remove = () => { state.history.splice(place, 1); changed([Math.min(place, last - 1), 2]); };
    return make(
      "li", {}, make("span", { class: "title" }, item.title),
      button("↑", "Earlier", place === 0, move(-1)),
      button("↓", "Later", place === last, move(1)),
      button("✕", "Remove", false, remove),
    );
  }));
  byId("none").hidden = byId("clear").hidden = state.history.length > 0;
  byId("clear").hidden = !state.history.length;
  byId("held-out").hidden = !state.heldOut;
  byId("held-out").querySelector("strong").textContent = state.heldOut ? visible(state.heldOut.title) : "";
  if (!focus) { list.scrollTop = list.scrollHeight; return; }
  const row = list.children[focus[0]];
  const wanted = row && [row.querySelectorAll("button")[focus[1]], ...row.querySelectorAll("button")];
  const target = wanted && wanted.find((node) => !node.disabled);
  (target || byId("title")).focus();
}

function changed(focus) {
  drawHistory(focus);
  drawLists();
}

// One card a model, in one row of cards a run. Each list comes when it is ready.
function drawLists() {
  const mine = (state.asked += 1), place = byId("lists");
  if (!state.history.length) { place.replaceChildren(); return; }
  const names = shownRuns();
  const answers = {};
  const old = Object.fromEntries([...place.querySelectorAll(".card")].map((card) => [card.dataset.key, card]));
  const rows = names.map((name) => {
    const cards = runNamed(name).models.map((model) => {
      const key = `${name}/${model}`;
      const card = old[key] || make("article", { class: "card", "data-key": key, "aria-label": `${NAMES[model] || model}, ${name}` },
        make("h3", {}, NAMES[model] || model), make("p", { class: "against" }, "asking …"));
      card.classList.add("waits");
      card.setAttribute("aria-busy", "true");
      return card;
    });
    const title = names.length > 1 ? [make("h2", { class: "run-name" }, name)] : [];
    return make("div", {}, ...title, make("div", { class: "cards" }, ...cards));
  });
  place.replaceChildren(...rows);
  const history = state.history.slice(-state.longest).map((item) => item.item);
  let left = 0;
  for (const name of names) {
    for (const model of runNamed(name).models) {
      left += 1;
      const key = `${name}/${model}`;
      ask("page/list", { run: name, model, history, k: state.most, shown: SHOWN }).then(
        (found) => { if (mine === state.asked) answers[key] = Object.assign(found.items, { confidence: found.confidence }); },
        (error) => { if (mine === state.asked) answers[key] = error; },
      ).then(() => {
        if (mine !== state.asked) return;
        for (const card of place.querySelectorAll(".card")) if (card.dataset.key in answers) fill(card, answers, names);
        if ((left -= 1) === 0) say("all lists are there");
      });
    }
  }
}

// The list that a card is compared with: the same model of the first run, or the model's baseline.
function baseline(key, names) {
  const at = key.lastIndexOf("/");
  const name = key.slice(0, at), model = key.slice(at + 1);
  if (name !== names[0] && runNamed(names[0]).models.includes(model)) return [`${names[0]}/${model}`, `against ${names[0]}`];
  const base = BASELINES[model];
  return base && runNamed(name).models.includes(base) ? [`${name}/${base}`, `against ${NAMES[base]}`] : [null, ""];
}

function fill(card, answers, names) {
  const items = answers[card.dataset.key];
  const [other, text] = baseline(card.dataset.key, names);
  card.classList.remove("waits");
  card.removeAttribute("aria-busy");
  card.querySelector(".against").textContent = text;
  card.querySelectorAll("ol, .note").forEach((node) => node.remove());
  if (items instanceof Error) { card.append(make("p", { class: "note error" }, items.message)); return; }
  const before = Array.isArray(answers[other]) ? answers[other].map((each) => each.item) : null;
  card.append(make("ol", {}, ...items.slice(0, SHOWN).map((each, place) => {
    const title = make("span", { class: "title" }, each.title);
    if (each.popular) title.append(make("span", { class: "mark popular", title: "popular", role: "img", "aria-label": "popular" }, "●"));
    if (each.new) title.append(make("span", { class: "mark new", title: "new", role: "img", "aria-label": "new" }, "✦"));
    const target = state.heldOut && each.item === state.heldOut.item;
    if (target) title.append(make("span", { class: "unseen" }, " (held out)"));
    return make("li", target ? { class: "target" } : {}, make("span", { class: "place" }, String(place + 1)), title, moved(each, place, before));
  })));
  if (items.confidence !== null) {
    const share = `${Math.round(100 * items.confidence)} %`;
    card.append(make("p", { class: "note confidence" }, `Confidence ${share}: the next title is one of these ${Math.min(SHOWN, items.length)}`));
  }
  if (!state.heldOut) return;
  const at = items.findIndex((each) => each.item === state.heldOut.item);
  if (at < 0) card.append(make("p", { class: "note" }, `Held out: not among the first ${items.length}`));
  else if (at >= SHOWN) card.append(make("p", { class: "note" }, `Held out: place ${at + 1}`));
}

function moved(item, place, before) {
  if (!before) return make("span", { class: "moved" });
  const from = before.indexOf(item.item);
  if (from === place) return make("span", { class: "moved", "aria-label": "same place" }, "=");
  if (from < 0) return make("span", { class: "moved up", "aria-label": `up from below place ${before.length}` }, `▲ >${before.length}`);
  const by = from - place;
  return make("span", { class: `moved ${by > 0 ? "up" : "down"}`, "aria-label": `${by > 0 ? "up" : "down"} ${Math.abs(by)}` }, `${by > 0 ? "▲" : "▼"} ${Math.abs(by)}`);
}

function drawRuns() {
  const options = (names) => names.map((name) => make("option", { value: name }, name));
  const names = state.runs.map((each) => each.name);
  if (!byId("run").options.length) byId("run").replaceChildren(...options(names));
  const others = names.filter((name) => name !== run());
  const against = byId("against").value;
  byId("against").replaceChildren(make("option", { value: "" }, "none"), ...options(others));
  byId("against").value = others.includes(against) ? against : "";
  byId("against-label").hidden = !others.length;
  byId("user-field").hidden = !runNamed(run()).users;
  byId("report").hidden = !runNamed(run()).report;
  byId("report").href = query("page/report", { run: run() });
}

async function start() {
  try {
    const found = await ask("page/runs");
    state.runs = found.runs;
    state.most = Math.min(20, found.most_k);
    state.longest = found.most_history;
    byId("token-form").hidden = true;
    drawRuns();
    say("ready");
  } catch (error) {
    say(error.message);
    byId("none").textContent = visible(error.message);
  }
}

combobox(byId("user"), byId("user-options"),
  async (text) => (await ask(query("page/users", { run: run(), query: text }))).users.map((name) => ({ text: name })),
  async (option) => {
    try {
      const found = await ask(query("page/user", { run: run(), name: option.text }));
      state.history = found.history;
      state.heldOut = found.held_out;
      changed();
      byId("user").value = option.text;
    } catch (error) {
      say(error.message);
    }
  });
combobox(byId("title"), byId("title-options"),
  async (text) => (await ask(query("items", { run: run(), query: text, limit: 12 }))).items.map((each) => ({ ...each, text: each.title })),
  (option) => {
    state.history.push({ title: option.title, item: option.item });
    changed();
  });
byId("clear").addEventListener("click", () => {
  state.history = [];
  state.heldOut = null;
  byId("user").value = "";
  changed();
  byId("title").focus();
});
// Another run may have other items.
byId("run").addEventListener("change", () => { drawRuns(); state.history = []; state.heldOut = null; byId("user").value = ""; changed(); });
byId("against").addEventListener("change", drawLists);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  start();
});
start();

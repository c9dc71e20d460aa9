"use strict";
// The talk is a list of messages; the page is drawn from it. All text goes in as text, never as markup.
const at = (id) => document.getElementById(id);
const model = document.body.dataset.model;
const talk = [];
let running = null; // what aborts the answer that is being written

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function act(name, does) {
  const button = element("button", "quiet", name);
  button.type = "button";
  button.addEventListener("click", does);
  return button;
}

function near() {
  const box = at("talk");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

function draw() {
  const box = at("talk");
  box.replaceChildren();
  if (!talk.length) box.append(element("p", "empty", "Ask something, or begin a text that the model goes on with."));
  talk.forEach((message, number) => box.append(turn(message, number)));
  box.scrollTop = box.scrollHeight;
}

function turn(message, number) {
  const place = element("article", "turn " + message.role);
  message.place = place;
  place.append(element("p", "who", message.role === "user" ? "You" : model));
  if (message.editing) return edited(place, message, number);
  if (message.role === "assistant") {
    message.thought = element("details");
    message.steps = element("p");
    message.thought.append(element("summary", "", "Reasoning"), message.steps);
    place.append(message.thought);
  }
  message.said = element("p", "said");
  message.failed = element("p", "error");
  message.failed.setAttribute("role", "alert");
  message.acts = element("div", "acts");
  place.append(message.said, message.failed, message.acts);
  show(message, number);
  return place;
}

function show(message, number = talk.indexOf(message)) {
  const follows = near();
  message.said.textContent = message.content.trimStart();
  message.failed.textContent = message.error || "";
  message.failed.hidden = !message.error;
  message.place.classList.toggle("writing", Boolean(message.writing));
  if (message.thought) {
    message.thought.hidden = !message.reasoning;
    message.steps.textContent = (message.reasoning || "").trimStart();
  }
  message.acts.replaceChildren();
  if (!running && !message.writing) {
    if (message.role === "user") message.acts.append(act("Edit", () => { message.editing = true; draw(); }));
    else if (number === talk.length - 1) message.acts.append(act("Retry", () => { talk.pop(); answer(); }));
    if (message.role === "assistant" && message.content) {
      message.acts.append(act("Copy", () => navigator.clipboard && navigator.clipboard.writeText(message.content)));
    }
    if (message.note) message.acts.append(element("span", "soft", message.note));
  }
  if (follows) at("talk").scrollTop = at("talk").scrollHeight;
}

function edited(place, message, number) {
  const box = element("textarea", "rewrite");
  box.value = message.content;
  box.rows = Math.min(12, message.content.split("\n").length + 1);
  const done = (sends) => {
    message.editing = false;
    if (!sends || !box.value.trim()) return draw();
    talk.splice(number);
    talk.push({ role: "user", content: box.value.trim() });
    answer();
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(true); }
    if (event.key === "Escape") { event.stopPropagation(); done(false); }
  });
  const acts = element("div", "acts");
  acts.append(act("Send again", () => done(true)), act("Leave as it was", () => done(false)));
  place.append(box, acts);
  setTimeout(() => box.focus());
  return place;
}

function request() {
  const system = at("system").value.trim();
  const messages = talk.filter((message) => message.content || message.role === "user")
    .map(({ role, content }) => ({ role, content }));
  const body = {
    model, stream: true, stream_options: { include_usage: true },
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    temperature: Number(at("temperature").value), top_p: Number(at("top_p").value),
    max_tokens: Number(at("max_tokens").value) || 512,
  };
  if (at("seed").value !== "") body.seed = Number(at("seed").value);
  if (at("strategy") && at("strategy").value) body.strategy = at("strategy").value;
  return body;
}

async function answer() {
  const body = request();
  const message = { role: "assistant", content: "", reasoning: "", writing: true };
  const started = performance.now();
  running = new AbortController();
  talk.push(message);
  busy(true);
  draw();
  try {
    const headers = { "Content-Type": "application/json" };
    if (at("key") && at("key").value) headers.Authorization = "Bearer " + at("key").value;
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers, body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) throw new Error(await reason(response));
    let ended = false;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { ended = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      for (const { delta } of chunk.choices) {
        message.content += delta.content || "";
        message.reasoning += delta.reasoning_content || "";
      }
      if (chunk.usage) {
        const tokens = chunk.usage.completion_tokens, seconds = (performance.now() - started) / 1000;
        message.note = tokens + (tokens === 1 ? " token, " : " tokens, ") + (tokens / seconds).toFixed(1) + "/s";
      }
      show(message);
    }
    if (!ended) throw new TypeError("cut off");
  } catch (error) {
    if (error.name === "AbortError") message.note = "stopped";
    else if (error instanceof TypeError) message.error = "The server can't be reached, or ended in the middle of the answer. Start it again, then retry.";
    else message.error = error.message;
  }
  message.writing = false;
  running = null;
  busy(false);
  draw();
}

async function reason(response) {
  if (response.status === 401) { settings(true); if (at("key")) at("key").focus(); }
  try { return (await response.json()).error.message; } catch { return "The server answered " + response.status + "."; }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function busy(is) {
  at("send").textContent = is ? "Stop" : "Send";
  at("send").classList.toggle("stops", is);
}

function send() {
  if (running) return running.abort();
  const text = at("text").value.trim();
  if (!text) return;
  if (talk.some((message) => message.editing)) return;
  at("text").value = "";
  grow();
  talk.push({ role: "user", content: text });
  answer();
}

function grow() {
  const box = at("text");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + 2 + "px";
}

function settings(opens) {
  at("settings").hidden = !opens;
  at("open").setAttribute("aria-expanded", String(opens));
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("text").addEventListener("input", grow);
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!running) send(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) running.abort(); });
at("open").addEventListener("click", () => settings(at("settings").hidden));
at("new").addEventListener("click", () => { if (running) running.abort(); talk.length = 0; draw(); at("text").focus(); });
for (const id of ["temperature", "top_p"]) {
  const tell = () => { document.querySelector("output[for=" + id + "]").textContent = Number(at(id).value).toFixed(2); };
  at(id).addEventListener("input", tell);
  tell();
}
if (at("key")) settings(true);
draw();

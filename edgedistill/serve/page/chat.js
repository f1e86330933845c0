// The chat page of `edgedistill serve`: it asks this server's own /v1/chat/completions and shows the answer as it comes.
// Whatever a model says is put on the page as text (textContent), never as markup.

const at = (id) => document.getElementById(id);
const messages = [];
let running = null; // the AbortController of the answer that is being written

function show(kind, text) {
  const line = document.createElement("div");
  line.className = kind;
  line.textContent = text;
  at("talk").append(line);
  line.scrollIntoView({ block: "end" });
  return line;
}

function busy(yes) {
  at("send").disabled = yes;
  at("stop").disabled = !yes;
  at("question").disabled = yes;
  if (!yes) at("question").focus();
}

// Yields what each event of a stream says; an event may be split over several pieces.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield JSON.parse(line.slice(5));
    }
  }
}

async function answer() {
  running = new AbortController();
  busy(true);
  const headers = { "Content-Type": "application/json" };
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const line = show("turn", "");
  let said = "";
  let ending = "";
  try {
    const body = JSON.stringify({ messages, max_tokens: 512, stream: true });
    const reply = await fetch("v1/chat/completions", { method: "POST", headers, body, signal: running.signal });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    for await (const part of events(reply.body)) {
      if (part.error) throw new Error(part.error.message);
      const choice = part.choices[0];
      said += choice.delta.content ?? "";
      line.textContent = said;
      line.scrollIntoView({ block: "end" });
      if (choice.finish_reason === "length") ending = "cut off: the longest answer is reached, or the context is full";
    }
  } catch (error) {
    if (error.name === "AbortError") ending = "stopped";
    else show("turn error", error.message);
  }
  if (said) messages.push({ role: "assistant", content: said });
  else {
    messages.pop(); // nothing was said to it
    line.remove();
  }
  if (ending) show("note", ending);
  running = null;
  busy(false);
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("question").value.trim();
  if (!text || running) return;
  at("question").value = "";
  show("turn user", text);
  messages.push({ role: "user", content: text });
  answer();
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("stop").addEventListener("click", () => running?.abort());
at("reset").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  at("talk").replaceChildren();
});

const health = await (await fetch("health")).json();
at("model").textContent = document.title = health.model;
at("about").textContent = `${health.runtime}, context of ${health.context} tokens`;
at("key-label").hidden = !health.key_required;
if (health.chat) busy(false);
else show("turn error", "The model has no chat template, so it can't be talked to; /v1/completions goes on writing a text.");

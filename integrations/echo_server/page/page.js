// The search page: a question, the passages with their scores, and on a click why one of them was found.

const find = (id) => document.getElementById(id);
const status = (text) => { find("status").textContent = text; };
let asked = 0; // searches so far: an answer that comes after a later question is dropped

/** What the server answers; its error's message as an Error, whose `locked` says that a key is needed. */
async function ask(path, body) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => null);
  if (answer.ok && said) return said;
  const error = new Error(said?.error?.message ?? `the server answered with status ${answer.status}`);
  error.locked = answer.status === 401;
  throw error;
}

/** Show what went wrong; where a key is needed, ask for it. */
function fail(error) {
  const hadKey = sessionStorage.getItem("key") !== null;
  if (error.locked) {
    sessionStorage.removeItem("key");
    find("key-form").hidden = false;
    find("search-form").hidden = true;
    find("key").focus();
    status(hadKey ? "This is not the server’s key." : "");
  } else {
    status(`That did not work: ${error.message}`);
  }
}

/** Ask what is searched, and show the form for a question. */
async function start() {
  const about = await ask("/search");
  find("key-form").hidden = true;
  if (about.passages === null) {
    find("about").textContent = `Model ${about.model}`;
    status("There is nothing to search yet. Start the server with a folder: echo-server --folder FOLDER");
    return;
  }
  find("name").textContent = about.name;
  find("about").textContent = `${about.passages.toLocaleString()} passages, model ${about.model}`;
  document.title = `Search ${about.name}`;
  find("search-form").hidden = false;
  status("");
  find("question").focus();
}

async function search(question) {
  const number = ++asked;
  status("Searching …");
  const { passages } = await ask("/search", { question });
  if (number !== asked) return;
  find("passages").replaceChildren(...passages.map((passage) => drawn(passage, question)));
  status(`${passages.length} passages for “${question}”`);
}

/** The list item of a passage. Its texts are set as text, never as markup. */
function drawn(passage, question) {
  const item = find("passage").content.cloneNode(true).firstElementChild;
  const part = (name) => item.querySelector(name);
  part("h2").textContent = passage.title;
  part(".place").textContent = `Score ${passage.score.toFixed(3)} · ${passage.source}`;
  part(".text").textContent = withoutTitle(passage);
  const why = part(".why");
  why.setAttribute("aria-label", `Why this one? ${passage.title}`);
  why.addEventListener("click", () => toggle(why, part, passage, question).catch(fail));
  return item;
}

/** The text, without a first heading that says the title once more. */
function withoutTitle({ text, title }) {
  const [, heading, rest] = text.match(/^#+ +(.+)\n+([^]+)$/) ?? [];
  return heading?.trim() === title ? rest : text;
}

async function toggle(why, part, passage, question) {
  const reason = part(".reason");
  if (!reason.dataset.filled) {
    status("Explaining …");
    const told = await ask("/search/explain", { question, id: passage.id });
    const words = told.heaviest.map(([word, share]) => `${word} ${share.toFixed(3)}`).join(", ");
    part(".heaviest").textContent = `Carried by ${words}`;
    part(".map").innerHTML = told.html; // the server's own element, in which all texts are escaped
    reason.dataset.filled = "yes";
    status(`Explained: ${passage.title}`);
  }
  reason.hidden = !reason.hidden;
  why.setAttribute("aria-expanded", String(!reason.hidden));
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", find("key").value);
  find("key").value = "";
  start().catch(fail);
});
find("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(find("question").value).catch(fail);
});
start().catch(fail);

// What the page /send looks like at any moment. What others wrote is only ever set as text, never read as markup.

const at = (id) => document.getElementById(id);
const log = at("log");
const text = at("text");
const lines = new Map(); // the messages shown, by Seq
const links = new Map(); // the people shown, by Id
const drafts = new Map(); // what was begun to be written, by Id
let heard = {}; // what to call when a person does something
let shown = null; // whose conversation this is

function make(tag, name, words = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = words;
  return element;
}

// Whose page it is, and its state

export function showMe(me) {
  at("me").textContent = me.Name;
}

export function showConnection(words, isTrouble = false) {
  at("connection").textContent = words;
  at("connection").classList.toggle("trouble", isTrouble);
}

export function hide() {
  document.body.hidden = true;
  document.title = "goTalk";
}

// Said by screen readers, wherever the reader is.
export function announce(name, words) {
  at("news").textContent = `${name}: ${words.slice(0, 200)}`;
}

// People

export function showPeople(people, open) {
  let unread = 0;
  for (const person of people.values()) {
    unread += person.Unread;
    const link = links.get(person.Id) ?? addLink(person);
    const count = link.lastChild;
    count.hidden = !person.Unread;
    count.firstChild.textContent = person.Unread;
    if (person.Id === open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  at("nobody").hidden = people.size > 0;
  at("adopt").hidden = people.get(open)?.Friend ?? true;
  document.title = unread ? `(${unread}) goTalk` : "goTalk";
}

function addLink(person) {
  const link = make("a");
  const count = make("span", "count");
  count.append(make("span"), make("span", "unseen", " unread"));
  link.href = `#${person.Id}`;
  link.append(make("span", "name", person.Name), " ", count);
  links.set(person.Id, link);
  const item = make("li");
  item.append(link);
  at("people").append(item);
  return link;
}

// The conversation

export function showConversation(person, outbox) {
  if (shown) drafts.set(shown.Id, text.value);
  const before = shown;
  shown = person ?? null;
  document.body.classList.toggle("open", Boolean(shown));
  at("conversation").hidden = !shown;
  at("welcome").hidden = Boolean(shown);
  at("messages").replaceChildren();
  lines.clear();
  showEarlier(false);
  showOutbox(outbox, shown?.Id);
  at("other").textContent = shown?.Name ?? "";
  text.value = drafts.get(shown?.Id) ?? "";
  if (!shown) links.get(before?.Id)?.focus();
  else if (matchMedia("(pointer: fine)").matches) text.focus();
  else at("other").focus(); // where focus in a field brings up a keyboard
}

export const newest = () => Number(at("messages").lastElementChild?.dataset.seq ?? 0);
export const oldest = () => Number(at("messages").firstElementChild?.dataset.seq ?? 0);

export function showEarlier(isThere) {
  at("earlier").hidden = !isThere;
}

export function showMessages(messages, me, person) {
  const isOlder = messages.length && messages[0].Seq < oldest();
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const below = log.scrollHeight - log.scrollTop;
  for (const message of messages) if (!lines.has(message.Seq)) insert(message, line(message, me, person));
  if (isOlder) log.scrollTop = log.scrollHeight - below;
  else if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

function insert({ Seq }, item) {
  let next = null;
  let one = at("messages").lastElementChild;
  for (; one && Number(one.dataset.seq) > Seq; one = one.previousElementSibling) next = one;
  at("messages").insertBefore(item, next);
  lines.set(Seq, item);
}

function line(message, me, person) {
  const isMine = message.UserIdSend === me.Id;
  const item = make("li", isMine ? "mine" : "theirs");
  item.dataset.seq = message.Seq;
  const from = isMine ? "You" : message.From ?? person.Name;
  const isPlain = isMine || message.From === undefined; // whoever is not one of the two is named
  item.append(make("b", isPlain ? "unseen" : "", `${from || "The server"}: `), make("p", "", message.Content));
  const time = make("time", "", when(new Date(message.Time)));
  time.dateTime = message.Time;
  item.append(time);
  return item;
}

function when(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  const clock = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], isToday ? clock : { ...clock, day: "numeric", month: "short", year: "numeric" });
}

export function showOutbox(outbox, open) {
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const items = outbox.items.filter((item) => item.to === open);
  at("outbox").replaceChildren(...items.map(outgoing));
  if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

function outgoing(item) {
  const shown = make("li", item.why ? "mine failed" : "mine");
  shown.append(make("p", "", item.text), make("span", "", item.why ? `Not sent. ${item.why} ` : "Sending …"));
  if (!item.why) return shown;
  for (const [words, act] of [["Try again", heard.retry], ["Discard", heard.drop]]) {
    const button = make("button", "quiet", words);
    button.type = "button";
    button.addEventListener("click", () => {
      act(item);
      text.focus(); // the button is gone
    });
    shown.append(button);
  }
  return shown;
}

// What people do

export function listen(acts) {
  heard = acts;
  at("say").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!text.value.trim()) return;
    acts.say(text.value);
    text.value = "";
    text.focus();
    log.scrollTop = log.scrollHeight;
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    at("say").requestSubmit();
  });
  at("befriend").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("trouble").textContent = "";
    try {
      await acts.befriend(at("friend").value);
      at("befriend").reset();
    } catch (error) {
      at("trouble").textContent = error.message;
    }
  });
  at("adopt").addEventListener("click", acts.adopt);
  at("earlier").addEventListener("click", acts.earlier);
  at("logout").addEventListener("click", acts.logOut);
}

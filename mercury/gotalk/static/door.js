// The pages /login and /register: send the form and, when that is done, go on to the chat.

import { call } from "/call.js";

const form = document.querySelector("form");
const trouble = document.getElementById("trouble");
const button = form.querySelector("button");
const { username, password } = form.elements;

async function enter(fields) {
  const { Name } = await call("/login", { ...fields, cookieonly: "1" });
  // The address is the old one. What lets its reader in is the cookie; the token there is nobody's.
  location.assign(`/send?${new URLSearchParams({ username: Name, token: "cookie" })}`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.disabled) return;
  const fields = Object.fromEntries(new FormData(form));
  button.disabled = true;
  trouble.textContent = "";
  try {
    if (form.dataset.then === "register") await call("/register", fields);
    form.dataset.then = "login"; // all that is left to do if the next call fails
    await enter({ username: fields.username, password: fields.password });
  } catch (error) {
    trouble.textContent = error.message;
    const field = error.code === "conflict" ? username : password;
    field.focus();
    field.select();
  } finally {
    button.disabled = false;
  }
});

username.value = new URLSearchParams(location.search).get("username") ?? "";
(username.value ? password : username).focus();

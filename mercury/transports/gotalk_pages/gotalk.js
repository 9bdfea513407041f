"use strict";

async function call(path, fields) {
  const answer = await fetch(path, { method: "POST", body: new URLSearchParams(fields) });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

const form = document.querySelector("form");
const output = document.querySelector("output");

if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const said = await call(form.action, new FormData(form));
      if (form.dataset.next) location.href = form.dataset.next + encodeURIComponent(said.Name);
      output.textContent = JSON.stringify(said);
    } catch (error) {
      output.textContent = error.message;
    }
  });
}

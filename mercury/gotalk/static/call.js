// A call to the server: form in, JSON out, within a time. Who calls is known by the cookie, which no script can read.

export class Refusal extends Error {
  // `code`: the server's word for why (docs/gotalk.md), or "" when nothing of it came back. `wait`: seconds.
  constructor(words, code = "", wait = 0) {
    super(words);
    this.code = code;
    this.wait = wait;
  }
}

export async function call(path, fields, seconds = 35, stop = null) {
  const late = AbortSignal.timeout(seconds * 1000);
  let status, said;
  try {
    const answer = await fetch(path, {
      method: "POST",
      body: new URLSearchParams(fields),
      redirect: "error",
      signal: stop ? AbortSignal.any([late, stop]) : late,
    });
    status = answer.status;
    said = await answer.json();
  } catch {
    throw new Refusal("There is no connection.");
  }
  if (status !== 200) throw new Refusal(sentence(said.error), said.code, said.retry_after ?? 0);
  return said;
}

const sentence = (words) => words[0].toUpperCase() + words.slice(1) + ".";

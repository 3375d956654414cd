// What a page does beyond its links and forms; each works without it.
"use strict";

const slider = document.getElementById("revision");
if (slider) {
  const shown = document.getElementById("revision-shown");
  slider.addEventListener("input", () => { shown.textContent = slider.value; });
}

// The rows that an address gives, as elements.
const rowsOf = async (address) => {
  const answer = await fetch(address, { redirect: "error" });
  if (!answer.ok) throw new Error(answer.statusText);
  const given = document.createElement("template");
  given.innerHTML = await answer.text();
  return [...given.content.querySelectorAll("tr")];
};

// Look again and again while the page is seen, and say whether that works.
const lookOn = async (look) => {
  const LOOK_MS = 2000;
  const live = document.getElementById("live");
  if (!document.hidden) {
    let text = "Live";
    try {
      await look();
    } catch {
      text = "Not live: load the page anew";
    }
    if (live.textContent !== text) live.textContent = text;
  }
  setTimeout(lookOn, LOOK_MS, look);
};

const changes = document.getElementById("changes");
if (changes) {
  const MOST_ROWS = 500;
  let cursor = changes.querySelector("[data-next]").dataset.next;
  // What came with the page is oldest first.
  changes.append(...[...changes.querySelectorAll("tr")].reverse());

  lookOn(async () => {
    const rows = await rowsOf(`${changes.dataset.rows}?after=${encodeURIComponent(cursor)}`);
    cursor = rows.pop().dataset.next;
    if (rows.length) document.getElementById("nothing")?.remove();
    changes.prepend(...rows.reverse());
    while (changes.rows.length > MOST_ROWS) changes.lastElementChild.remove();
  });
}

const imports = document.getElementById("imports");
if (imports) {
  lookOn(async () => {
    const rows = await rowsOf(imports.dataset.rows);
    // Nothing is taken from under the eyes or the focus of whoever reads.
    if (!imports.querySelector("details[open], :focus")) imports.replaceChildren(...rows);
  });
}

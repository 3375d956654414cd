// What a page does beyond its links and forms; each works without it.
"use strict";

const slider = document.getElementById("revision");
if (slider) {
  const shown = document.getElementById("revision-shown");
  slider.addEventListener("input", () => { shown.textContent = slider.value; });
}

const changes = document.getElementById("changes");
if (changes) {
  const LOOK_MS = 2000;
  const MOST_ROWS = 500;
  const live = document.getElementById("live");
  let cursor = changes.querySelector("[data-next]").dataset.next;
  // What came with the page is oldest first.
  changes.append(...[...changes.querySelectorAll("tr")].reverse());

  const look = async () => {
    const address = `${changes.dataset.rows}?after=${encodeURIComponent(cursor)}`;
    const answer = await fetch(address, { redirect: "error" });
    if (!answer.ok) throw new Error(answer.statusText);
    const given = document.createElement("template");
    given.innerHTML = await answer.text();
    const rows = [...given.content.querySelectorAll("tr")];
    cursor = rows.pop().dataset.next;
    if (rows.length) document.getElementById("nothing")?.remove();
    changes.prepend(...rows.reverse());
    while (changes.rows.length > MOST_ROWS) changes.lastElementChild.remove();
  };

  const tell = (text) => {
    if (live.textContent !== text) live.textContent = text;
  };

  const lookOn = async () => {
    if (!document.hidden) {
      try {
        await look();
        tell("Live");
      } catch {
        tell("Not live: load the page anew");
      }
    }
    setTimeout(lookOn, LOOK_MS);
  };
  lookOn();
}
